"""A golden folder need not be complete: a test module is collected only where its files are."""

from . import golden

NEEDS = {
    "test_autoencoder.py": ["stablesr_cfw"],
    "test_cleaner.py": ["diffbir_end_to_end"],
    "test_control.py": ["diffbir_control"],
    "test_degradation.py": ["degradation"],
    "test_diffbir_assembly.py": ["diffbir_assembly"],
    "test_diffbir_guidance.py": [
        "diffbir_control",
        "diffbir_end_to_end",
        "diffbir_guidance_v2",
        "diffbir_misc",
    ],
    "test_diffbir_pictures.py": ["diffbir_end_to_end", "diffbir_misc"],
    "test_diffbir_sampling.py": ["diffbir_control", "diffbir_v21"],
    "test_diffbir_schedules.py": ["diffbir_v21", "diffbir_guidance_v2"],
    "test_diffbir_degradation.py": ["diffbir_degradation", "diffbir_misc"],
    "test_diffbir_text.py": ["diffbir_text"],
    "test_diffbir_tiles.py": ["diffbir_tiles"],
    "test_diffbir_weights.py": ["diffbir_end_to_end"],
    "test_diffbir_whole.py": ["diffbir_end_to_end", "diffbir_control", "diffbir_v21"],
    "test_dual_pivot.py": [
        "diffbir_control",
        "diffbir_end_to_end",
        "diffbir_model_pivot_step",
        "diffbir_text_pivot",
    ],
    "test_formula.py": ["stablesr_formula_1244"],
    "test_full_size.py": ["stablesr_full_size"],
    "test_lq_encoder.py": ["stablesr_structcond"],
    "test_personalization.py": ["vico_block", "vico_spatial_transformer", "vico_otsu", "vico_attn_reg"],
    "test_personalized_unet.py": ["vico_unet"],
    "test_recognition.py": ["refldm_identity_loss", "clr_guidance"],
    "test_refldm.py": ["refldm_pipeline"],
    "test_swinir.py": ["diffbir_swinir"],
    "test_text.py": ["text_encoder"],
    "test_train_loss.py": ["stablesr_train_loss", "stablesr_unet", "stablesr_structcond"],
    "test_unet.py": ["stablesr_unet", "stablesr_structcond"],
    "test_references.py": ["refldm_cachekv"],
    "test_ddim.py": ["ldm_ddim"],
    "test_plain_unet.py": ["vqgan_unet", "ldm_ddim"],
    "test_vq.py": ["vqgan_f4", "vqgan_f8"],
    "test_vq_training.py": ["vqgan_f4", "vqgan_f8"],
    "test_unet_modules.py": ["stablesr_unet", "stablesr_unet_intermediates"],
}
collect_ignore = [module for module, files in NEEDS.items() if not golden.has(*files)]
