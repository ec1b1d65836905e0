"""The nodes: thin wrappers around `pfstorer_core`, and the only place that imports ComfyUI."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .adapters import LoadIdentityAdapter, SaveIdentityAdapter
from .apply import ApplyPersonalization
from .check_photos import CheckPhotos
from .choose import ChooseIdentity
from .color import RestorationColorFix
from .condition import RestorationConditioning
from .degrade import DegradeImage
from .examples import ExamplePictures
from .faces import RestorationCropFace, RestorationFindFaces, RestorationPasteFace
from .gamma_sheet import GammaSheet
from .guidance import RestorationGuidance
from .host.folders import register_model_folders
from .identity import FaceIdentityGuidance, IdentityGuidanceReport
from .likeness import LikenessReport
from .load import LoadBaseRestorer
from .recognition import LoadFaceRecognizer
from .references import ReferenceAttention
from .sample import TiledSRSampler
from .tiles import RestorationTiling
from .train import TrainIdentityAdapter
from .train_dual_pivot import TrainDualPivot


class PFStorerExtension(ComfyExtension):
    async def on_load(self) -> None:
        register_model_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LoadBaseRestorer,
            CheckPhotos,
            TrainIdentityAdapter,
            TrainDualPivot,
            LoadIdentityAdapter,
            SaveIdentityAdapter,
            ChooseIdentity,
            ApplyPersonalization,
            GammaSheet,
            ReferenceAttention,
            RestorationConditioning,
            RestorationGuidance,
            LoadFaceRecognizer,
            FaceIdentityGuidance,
            IdentityGuidanceReport,
            LikenessReport,
            TiledSRSampler,
            RestorationTiling,
            RestorationColorFix,
            DegradeImage,
            ExamplePictures,
            RestorationFindFaces,
            RestorationCropFace,
            RestorationPasteFace,
        ]
