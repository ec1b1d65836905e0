"""A node pack for tests: DynamicVRAM, ComfyUI's default on NVIDIA, as far as a CPU goes.

Layers are lazy (no weights before a state dict is loaded, and then the file's own), and MODEL, CLIP and VAE
get dynamic patchers. What the host does on a GPU alone, streaming weights and applying weight patches to
them, is not here.
"""

import importlib
import sys

import comfy.memory_management
import comfy.model_patcher
import comfy_aimdo.control

comfy_aimdo.control.init()  # which the host's main.py leaves out with --cpu
for name, module in list(sys.modules.items()):
    if name.startswith("comfy_aimdo.") and getattr(module, "lib", module) is None:
        importlib.reload(module)


class DynamicOnCPU(comfy.model_patcher.ModelPatcherDynamic):
    def __new__(cls, *_, **__):
        return object.__new__(cls)  # the host's hands back a static patcher on a CPU

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False):
        return self.restore_loaded_backups()  # the host's asserts that it is not on a CPU


comfy.memory_management.aimdo_enabled = True
comfy.model_patcher.CoreModelPatcher = DynamicOnCPU

NODE_CLASS_MAPPINGS = {}
