"""TRIP: image-to-video diffusion with an image noise prior and temporal residual learning (arXiv 2403.17005)."""

from importlib import import_module
from typing import TYPE_CHECKING

from trip.discovery import announce

if TYPE_CHECKING:
    from trip.denoiser import TripDenoiser as TripDenoiser
    from trip.models import bundled_model_path as bundled_model_path
    from trip.noise_fusion import LinearNoiseFusion as LinearNoiseFusion
    from trip.noise_fusion import OptimalNoiseFusion as OptimalNoiseFusion
    from trip.noise_fusion import TemporalNoiseFusion as TemporalNoiseFusion
    from trip.noise_fusion import TrainingFreeNoiseFusion as TrainingFreeNoiseFusion
    from trip.noise_prior import image_noise_prior as image_noise_prior
    from trip.pipeline import TripPipeline as TripPipeline
    from trip.residual_unet import ResidualUNet3D as ResidualUNet3D
    from trip.sampler import sample as sample

_MODULES = {
    "TripPipeline": "trip.pipeline",
    "TripDenoiser": "trip.denoiser",
    "ResidualUNet3D": "trip.residual_unet",
    "TemporalNoiseFusion": "trip.noise_fusion",
    "LinearNoiseFusion": "trip.noise_fusion",
    "OptimalNoiseFusion": "trip.noise_fusion",
    "TrainingFreeNoiseFusion": "trip.noise_fusion",
    "image_noise_prior": "trip.noise_prior",
    "sample": "trip.sampler",
    "bundled_model_path": "trip.models",
}

__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    """Import a public name when it is first used: `import trip` and `trip --help` stay fast."""
    if name not in _MODULES:
        raise AttributeError(f"module 'trip' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


announce()
