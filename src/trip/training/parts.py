"""The pipeline that a run trains: its parts out of a folder or fresh, and which of their weights move.

=============================  =========================================================================
`initial`                      UNet
=============================  =========================================================================
None                           `ResidualUNet3D` with random weights
a TRIP pipeline                as it is
ModelScopeT2V and alike        key for key; new input channels of zeros where the image is concatenated there
Stable Diffusion               inflated: temporal layers start as the identity
=============================  =========================================================================

The fusion is the folder's own where `config.fusion` is empty and there is one, else new, with sigma measured on the
clips that the run trains on.
"""

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel, UNet3DConditionModel
from torch import Tensor, nn

from trip.fields import check_arguments, check_value
from trip.foreign import source_components, to_residual_unet
from trip.layers.inflation import fit
from trip.loading import check_class, load_autoencoder
from trip.models import BUNDLED_MODEL, bundled_model_path
from trip.noise_fusion import FUSIONS, NoiseFusion
from trip.pipeline import TripPipeline
from trip.residual_unet import ResidualUNet3D
from trip.training.config import TrainingConfig
from trip.training.schedule import make_scheduler

TEMPORAL = ("temp_convs.", "temp_attentions.", "transformer_in.", "frame_embed.")
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
PACKAGED_TEXT = {"packaged_text_encoder": True, "zero_text_padding": True, "max_text_length": 32}


@dataclass(frozen=True)
class Start:
    """What a run starts from: components by name (unet and fusion None where they are to be made), and settings."""

    components: dict[str, Any]
    settings: dict[str, Any]


def load_start(config: TrainingConfig) -> Start:
    """Read `initial`; everything in float32.

    Raises:
        ValueError: a folder that holds none of the known pipelines, or is damaged.
    """
    if config.initial is None:
        vae = load_autoencoder(config.vae or bundled_model_path() / "vae")
        return Start({"vae": vae, "unet": None, "fusion": None, "scheduler": None}, dict(PACKAGED_TEXT))
    folder = str(bundled_model_path()) if config.initial == BUNDLED_MODEL else config.initial
    kind = check_class(folder, ("trip", "per-frame", "stills"), "initial")
    start = load_trip(folder) if kind == TripPipeline.__name__ else load_foreign(folder, config)
    if config.vae is not None:
        start.components["vae"] = load_autoencoder(config.vae)
    return start


def load_trip(folder: str) -> Start:
    """Parts and settings of a TRIP pipeline."""
    pipeline = TripPipeline.from_pretrained(folder, dtype=torch.float32)
    names = ("packaged_text_encoder", "zero_text_padding", "max_text_length")
    settings = {name: pipeline.config[name] for name in names}
    components = dict(pipeline.components)
    if settings["packaged_text_encoder"]:  # the pipeline takes it from the package again, and does not save it
        components = {k: v for k, v in components.items() if k not in ("text_encoder", "tokenizer")}
    return Start(components, settings)


def load_foreign(folder: str, config: TrainingConfig) -> Start:
    """Parts of a text-to-video or Stable Diffusion pipeline, their UNet as `ResidualUNet3D`."""
    found = source_components(folder, {"dtype": torch.float32}, ("per-frame", "stills"))
    parts = {name: found[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler")} | {"fusion": None}
    unet = found["unet"]
    if isinstance(unet, UNet3DConditionModel):
        parts["unet"] = to_residual_unet(unet)
    elif isinstance(unet, UNet2DConditionModel):
        torch.manual_seed(config.seed)  # of the temporal layers, which are the identity, but behind a zero
        parts["unet"] = ResidualUNet3D.from_image_unet(unet, **config.unet)
    else:
        raise ValueError(
            f"initial (={folder!r}) holds a {type(unet).__name__}, which is no network of trip; start from a TRIP, "
            "ModelScopeT2V or Stable Diffusion pipeline"
        )
    return Start(parts, {})


def build_pipeline(config: TrainingConfig, start: Start, sigma: Tensor | None) -> TripPipeline:
    """The pipeline to train: parts of `initial`, the rest new.

    Args:
        sigma: of the clips to train on; a fusion of the start's own has no use for it.

    Raises:
        ValueError: parts that do not fit each other, or a setting that no fusion has.
    """
    parts = dict(start.components)
    channels = parts["vae"].config["latent_channels"]
    torch.manual_seed(config.seed)
    fusion = own_fusion(config, start) or new_fusion(config, channels, sigma)
    with torch.random.fork_rng(devices=[]):  # what is drawn later does not depend on the size of the network
        torch.manual_seed(config.seed)
        unet = new_unet(config, channels) if parts["unet"] is None else parts["unet"]
        unet = with_image_channels(unet, fusion, channels)
    scheduler = make_scheduler(fusion.config["prediction_type"], config.zero_terminal_snr, parts["scheduler"])
    parts |= {"unet": unet, "fusion": fusion, "scheduler": scheduler}
    return TripPipeline(**parts, **start.settings, default_guidance_scale=config.guidance_scale)


def own_fusion(config: TrainingConfig, start: Start) -> NoiseFusion | None:
    """The fusion that a run goes on with, if `initial` has one and no new one is asked for."""
    return None if config.fusion else start.components["fusion"]


def check_parts(config: TrainingConfig) -> None:
    """Raise ValueError for arguments that the networks do not take, before anything is loaded."""
    arguments = dict(config.fusion)
    kind = arguments.pop("kind", "tnf")
    check_value("fusion.kind", kind, Literal[tuple(FUSIONS)])  # pyright: ignore[reportInvalidTypeForm]
    check_arguments(FUSIONS[kind], arguments, "fusion")
    check_arguments(ResidualUNet3D, config.unet, "unet")


def new_unet(config: TrainingConfig, latent_channels: int) -> ResidualUNet3D:
    """A fresh network of `config.unet` on the autoencoder's latents, the same whatever the fusion.

    Channels of the image are added to it afterwards, with zero weights, so that all ablations start from one network.
    """
    channels = {"in_channels": latent_channels, "out_channels": latent_channels}
    return ResidualUNet3D(**{**config.unet, **channels})


def input_channels(fusion: NoiseFusion, latent_channels: int) -> int:
    """Channels that the backbone sees: the latents', and the image's where it is concatenated there."""
    return latent_channels * (2 if fusion.concat == "channel" else 1)


def new_fusion(config: TrainingConfig, latent_channels: int, sigma: Tensor | None) -> NoiseFusion:
    """A fresh fusion of `config.fusion`; its channels are the autoencoder's, its tables `sigma`, or defaults."""
    arguments = dict(config.fusion)
    kind: Any = FUSIONS[arguments.pop("kind", "tnf")]
    accepted = inspect.signature(kind.__init__).parameters
    measured = {} if sigma is None else {"sigma": sigma.tolist(), "num_frames": len(sigma)}
    settings = {**measured, **arguments, "latent_channels": latent_channels}
    torch.manual_seed(config.seed + 1)
    return kind(**{key: value for key, value in settings.items() if key in accepted})


def with_image_channels(unet: ResidualUNet3D, fusion: NoiseFusion, latent_channels: int) -> ResidualUNet3D:
    """The UNet with room for the image's channels where the fusion concatenates along channels; new weights are 0.

    Raises:
        ValueError: a UNet that takes neither the latents nor latents and image.
    """
    wanted, found, out = (
        input_channels(fusion, latent_channels),
        unet.config["in_channels"],
        unet.config["out_channels"],
    )
    if out != latent_channels:
        raise ValueError(
            f"the UNet makes {out} channels and the autoencoder has {latent_channels}; use the autoencoder it was "
            "trained with, or start without initial"
        )
    if found == wanted:
        return unet
    if not latent_channels == found < wanted:
        raise ValueError(
            f"the UNet takes {found} channels and concat={fusion.concat!r} over latents of {latent_channels} needs "
            f"{wanted}; change unet.in_channels or the fusion's concat"
        )
    wider = ResidualUNet3D(**{**unet.config, "in_channels": wanted})
    state = wider.state_dict()
    wider.load_state_dict({name: fit(weight, state[name]) for name, weight in unet.state_dict().items()})
    return wider


# ------------------------------------------------------------------------------------------- what is trained


def choose_trainable(unet: ResidualUNet3D, fusion: NoiseFusion, config: TrainingConfig) -> None:
    """Set `requires_grad` as `config.trainable` says; "lora" adds adapters to the attention of `unet` first.

    Raises:
        ValueError: nothing to train.
    """
    unet.requires_grad_(config.trainable == "all")
    fusion.requires_grad_(True)
    if config.trainable == "temporal":
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(any(part in name for part in TEMPORAL))
    if config.trainable == "lora":
        add_lora(unet, config)
    if not any(p.requires_grad for part in (unet, fusion) for p in part.parameters()):
        raise ValueError(f"trainable (={config.trainable!r}) leaves nothing to train in a fusion without weights")


def add_lora(unet: ResidualUNet3D, config: TrainingConfig) -> None:
    """Adapters of rank `config.lora_rank` on queries, keys, values and outputs; they start as the identity."""
    try:
        from peft import LoraConfig
    except ImportError:
        raise ValueError("trainable='lora' needs the package peft; install trip-i2v[lora]") from None
    torch.manual_seed(config.seed)
    rank = config.lora_rank
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=ATTENTION, init_lora_weights="gaussian"))


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a run changes, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
