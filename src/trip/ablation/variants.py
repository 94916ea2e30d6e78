"""What is compared: the paper's ablations and this project's alternatives, each a setting of the fusion.

All are trained from the same initial UNet (new input channels start at zero), on the same clips with the same noise,
with the same optimiser and loss. `LADDER` are the baselines that nothing is trained for.

================  ======================================================  ===================================
variant           what it is                                              the paper's name
================  ======================================================  ===================================
trip-minus        no shortcut: the UNet predicts the noise itself         TRIP-
trip-c            TNF from scratch, image concatenated along channels     TRIP_C
trip-w            Eq. 9, lambda from 0.9 to 0.5                            TRIP^W
trip-w-tuned      Eq. 9, both ends chosen on training clips               TRIP^W
optimal           variance-optimal fusion alone                           -
tnf               TNF from scratch                                        TRIP
tnf-optimal       TNF on top of variance-optimal fusion                   -
tnf-optimal-c     the same, image concatenated along channels             -
text-to-video     no image at all; the start of `training-free`           -
static            every frame is the image                                -
prior             variance-optimal fusion with a network that outputs 0   -
training-free     `text-to-video` fused with the prior, calibrated        -
================  ======================================================  ===================================
"""

from dataclasses import dataclass, field, replace
from typing import Any

from trip.data.synthetic.captions import CAMERA_KINDS, KINDS
from trip.training.config import TrainingConfig
from trip.training.presets import MINI_UNET


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table.

    Attributes:
        title: what the table calls it. fusion: arguments of `trip.training.parts.new_fusion`.
        trained_as: the variant whose networks it uses; its own by default, None where none is trained.
    """

    title: str
    fusion: dict[str, Any] = field(default_factory=dict)
    trained_as: str | None = ""


TIME, CHANNEL, BLIND = {"concat": "time"}, {"concat": "channel"}, {"concat": "none"}
TNF = {"kind": "tnf", "latent_channels": 24, "dim": 128, "depth": 1, "num_heads": 4, "patch_size": 2}
"""Wider than a patch, 24 x 2 x 2 = 96 values, or from scratch it could not even pass the prior on."""

VARIANTS = {
    "trip-minus": Variant(title="TRIP- (no shortcut)", fusion={"kind": "optimal", "shortcut": False, **TIME}),
    "trip-c": Variant(title="TRIP_C (TNF, channels)", fusion={**TNF, "base": "none", **CHANNEL}),
    "trip-w": Variant(title="TRIP^W (Eq. 9, 0.9 to 0.5)", fusion={"kind": "linear", **TIME}),
    "trip-w-tuned": Variant(title="TRIP^W, ends tuned", fusion={"kind": "linear", **TIME}),
    "optimal": Variant(title="variance-optimal", fusion={"kind": "optimal", **TIME}),
    "tnf": Variant(title="TRIP (TNF from scratch)", fusion={**TNF, "base": "none", **TIME}),
    "tnf-optimal": Variant(title="TNF on variance-optimal", fusion={**TNF, "base": "optimal", **TIME}),
    "tnf-optimal-c": Variant(title="TNF on variance-optimal, channels", fusion={**TNF, "base": "optimal", **CHANNEL}),
    "text-to-video": Variant(title="text-to-video, blind", fusion={"kind": "optimal", "shortcut": False, **BLIND}),
    "static": Variant(title="static copy", trained_as=None),
    "prior": Variant(title="prior alone", fusion={"kind": "optimal", **TIME}, trained_as=None),
    "training-free": Variant(title="training-free", trained_as="text-to-video"),
}
LADDER = ("static", "prior", "training-free")
LINEAR_ENDS = ((0.9, 0.5), (0.5, 0.1), (0.99, 0.5), (0.99, 0.9))
"""(lambda of frame 1, of frame N) that `trip-w-tuned` chooses from, on both sides of those of `trip-w`."""

SMALL_UNET = {
    **MINI_UNET,
    "in_channels": 24,
    "sample_size": 4,
    "block_out_channels": [48, 64],
    "attention_head_dim": 16,
    "max_num_frames": 9,
}


def base_config() -> TrainingConfig:
    """What all variants share: 8 frames of 32 x 32 pixels, camera moves, a small UNet; minutes on one core."""
    return TrainingConfig(
        data="runs/ablation-latents",
        num_frames=8,
        size=32,
        unet=SMALL_UNET,
        warm_start_text=True,
        shares={kind: float(kind in CAMERA_KINDS) for kind in KINDS},
        balance_clips=True,
        timestep_power=1.25,
        steps=400,
        batch_size=32,
        optimizer="muon",
        unet_lr=3e-3,
        fusion_lr=3e-3,
        warmup_steps=10,
        decay=0.5,
        ema_decay=0.97,
        sigma_clips=500,
        checkpoint_every=50,
        keep_checkpoints=1,
        trackers=(),
        export_dtype="float32",
    )


def variant_config(
    base: TrainingConfig, name: str, seed: int, ends: tuple[float, float] | None = None
) -> TrainingConfig:
    """The run of a variant: the shared settings with its fusion and seed.

    Args:
        ends: lambda of the first and the last frame, for `trip-w-tuned`.

    Raises:
        ValueError: an unknown variant.
    """
    check_names([name])
    fusion = dict(VARIANTS[name].fusion)
    if ends is not None:
        fusion |= {"first": ends[0], "last": ends[1]}
    return replace(base, fusion=fusion, seed=seed)


def check_names(names: list[str] | tuple[str, ...]) -> None:
    """Raise ValueError for a variant that does not exist."""
    for name in names:
        if name not in VARIANTS:
            raise ValueError(f"variant {name!r} is unknown; choose from {', '.join(VARIANTS)}")


def trained(names: tuple[str, ...]) -> list[str]:
    """The variants among `names`, and behind them, that need a run, in the table's order."""
    wanted = {VARIANTS[name].trained_as or name for name in names if VARIANTS[name].trained_as is not None}
    return [name for name in VARIANTS if name in wanted]
