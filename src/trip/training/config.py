"""Every choice of a training run, in one frozen object that is saved beside its weights.

Defaults are plain ones; presets (`trip.training.presets`) are named runs whose results are known or planned.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Suppress

from trip.fields import Checked, check_names, check_value, read_fields
from trip.files import write_json

Objective = Literal["epsilon", "residual", "sample"]
Trainable = Literal["all", "temporal", "fusion", "lora"]
Arguments = Annotated[dict[str, Any], Suppress]
"""Constructor arguments: set in a preset or a config file, not on the command line."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Checked):
    """A run: what is trained, on which clips and objective, for how long."""

    # --- the model
    initial: str | None = None
    """Folder or hub id that the run starts from: a TRIP pipeline, a ModelScopeT2V-like text-to-video pipeline, or
    Stable Diffusion (its UNet is inflated). None: random weights."""
    vae: str | None = None
    """Autoencoder folder. None: that of `initial`, or the bundled model's."""
    unet: Arguments = field(default_factory=dict)
    """Arguments of ResidualUNet3D: all of them from scratch, changed ones with a Stable Diffusion UNet."""
    fusion: Arguments = field(default_factory=dict)
    """Arguments of a new fusion, and its `kind`: "tnf" (default), "linear" or "optimal". Empty: `initial`'s own."""
    trainable: Trainable = "all"
    """All weights; the temporal layers and the fusion; the fusion; or LoRA adapters of the UNet and the fusion (from
    Stable Diffusion, whose temporal layers are still to be made, first "temporal" or "all")."""
    lora_rank: int = 16
    """Rank of the adapters; their scale is 1."""
    warm_start_text: bool = False
    """First teach the pooled text embedding the motions of synthetic captions (`trip.training.text_adapter`)."""

    # --- the clips
    data: str = "procedural"
    """A latent cache (`trip data cache`), clips with captions in any layout of `trip data check`, a folder with
    index.jsonl as `python -m lab.photographs` of the repository makes (synthetic motion drawn on the fly), or
    "procedural" (the same on pictures that the program draws itself)."""
    video_column: str | None = None
    """Column of the clips' file names, where it is not one of the usual."""
    caption_column: str | None = None
    """Column of the captions, where it is not one of the usual."""
    num_frames: int = 16
    """Frames of a clip; a cache has its own."""
    size: int = 64
    """Width and height in pixels; a cache has its own."""
    fps: float = 4.0
    """Frames per second that clips are resampled to."""
    flip: bool = False
    """Mirror half of the clips whose captions name no side."""
    shares: Arguments = field(default_factory=dict)
    """Part of a synthetic kind's cached clips to train on, 1 where not named."""
    caption_dropout: float = 0.1
    """Part of the captions replaced by the empty one, for text guidance."""
    text_noise: float = 0.0
    """Length of a random vector, in mean lengths of a token's features, that is added to all tokens of a caption: the
    network then cannot learn the training wordings by heart."""
    image_dropout: float = 0.0
    """Part of the images replaced by zeros in the backbone's input, for image guidance."""
    sigma_clips: int = 1000
    """Clips that sigma, the displacement of every frame, is measured on before training."""
    workers: int = 0
    """Processes that load clips; 0 loads in the training process."""

    # --- the objective
    objective: Objective = "residual"
    """"epsilon" is TRIP Eq. 10; see `trip.training.objective`."""
    min_snr_gamma: float | None = None
    """Cap of the signal-to-noise ratio in the loss weight."""
    balance_clips: bool = False
    """Every clip counts alike, however much of it moves."""
    timestep_power: float = 1.0
    """Timesteps have the density t^(power - 1)."""
    zero_terminal_snr: bool = False
    """Rescale the schedule to end in pure noise; needs a fusion that predicts v, sample or flow."""

    # --- the optimisation
    steps: int = 4000
    """Updates of the whole run."""
    batch_size: int = 32
    """Clips an update, over all processes."""
    accumulation: int = 1
    """Passes that a batch is split into."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Muon: for the matrices, AdamW for the rest."""
    unet_lr: float = 1e-3
    """Peak learning rate of the UNet."""
    fusion_lr: float = 1e-3
    """Peak learning rate of the fusion."""
    warmup_steps: int = 100
    """Updates over which the learning rate rises."""
    decay: float = 1.0
    """The last part of the run, over which half a cosine lowers the learning rate; 0 keeps the peak."""
    final_lr: float = 0.01
    """Fraction of the peak that it falls to."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    grad_clip: float = 1.0
    """Largest norm of the gradients."""
    ema_decay: float = 0.998
    """Decay of the exponential moving average of the weights, which is what the run exports."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Precision of the networks' arithmetic; the weights that are trained stay float32. auto is bf16 where the hardware
    computes it, else no; fp16 is for accelerators without bf16, and goes with AdamW alone."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    seed: int = 0
    """Of weights, batches and noise."""

    # --- what is kept and shown
    log_every: int = 1
    """Updates between lines of the log; between them no loss is gathered or fetched from the device."""
    checkpoint_every: int = 500
    """Updates between checkpoints."""
    keep_checkpoints: int = 2
    """How many of the newest stay; 0 keeps all."""
    validation_every: int = 0
    """Updates between filmstrips of the first clips; 0 makes none."""
    validation_clips: int = 4
    """How many."""
    validation_steps: int = 25
    """Sampling steps of each."""
    largest_bad_run: int = 5
    """Updates in a row with a loss that is not finite, after which the run stops."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Of accelerate: tensorboard, wandb, trackio, mlflow, ...; tensorboard is left out where it is not installed, any
    other must be."""
    guidance_scale: float = 3.0
    """Text guidance of validation clips, and the default of the exported pipeline."""
    export_dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Precision of the exported weights."""

    def __post_init__(self) -> None:
        check(self)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path | str) -> "TrainingConfig":
        """Read what `save` wrote.

        Raises:
            ValueError: no such file, not JSON, an unknown name, or a value that no run can have; names the file.
        """
        values = read_fields(cls, path)
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def differences(self, other: "TrainingConfig") -> list[str]:
        """Settings in which `other` differs, as "name: here -> there"."""
        here, there = dataclasses.asdict(self), dataclasses.asdict(other)
        return [f"{name}: {here[name]!r} -> {there[name]!r}" for name in here if here[name] != there[name]]


POSITIVE = (
    "lora_rank", "sigma_clips", "size", "fps", "steps", "batch_size", "accumulation", "warmup_steps", "grad_clip",
    "checkpoint_every", "largest_bad_run", "timestep_power", "min_snr_gamma", "validation_steps", "log_every",
)  # fmt: skip
FRACTIONS = ("caption_dropout", "image_dropout", "decay", "final_lr", "ema_decay")
COUNTS = (
    "text_noise", "workers", "unet_lr", "fusion_lr", "weight_decay", "keep_checkpoints", "validation_every",
    "validation_clips", "guidance_scale", "seed",
)  # fmt: skip
LARGEST_SEED = 2**32


def check(config: TrainingConfig) -> None:
    """Raise ValueError for a setting that no run can have."""
    values = vars(config)
    for name in POSITIVE:
        if values[name] is not None and not values[name] > 0:
            raise ValueError(f"{name} (={values[name]}) must be above 0; raise it")
    for name in FRACTIONS:
        if not 0 <= values[name] <= 1:
            raise ValueError(f"{name} (={values[name]}) must lie in 0 to 1; correct it")
    for name in COUNTS:
        if not values[name] >= 0:
            raise ValueError(f"{name} (={values[name]}) must not be negative; correct it")
    if config.seed >= LARGEST_SEED:
        raise ValueError(f"seed (={config.seed}) must be below {LARGEST_SEED}; choose a smaller one")
    if config.num_frames < 2:
        raise ValueError(f"num_frames (={config.num_frames}) must be above 1: motion needs a second frame; raise it")
    check_shares(config.shares)
    if config.mixed_precision == "fp16" and config.optimizer == "muon":
        raise ValueError(
            "mixed_precision (='fp16') scales the loss for one optimizer, and optimizer (='muon') is several; choose "
            "optimizer 'adamw', or mixed_precision 'bf16' or 'no'"
        )
    if config.batch_size % config.accumulation:
        raise ValueError(
            f"batch_size (={config.batch_size}) must be a multiple of accumulation (={config.accumulation}); change one"
        )


def check_shares(shares: dict[str, Any]) -> None:
    """Raise ValueError for a share of no kind of motion, or that is no share."""
    if not shares:
        return
    from trip.data.synthetic.captions import KINDS

    check_names(shares, KINDS, "shares")
    for name, share in shares.items():
        check_value(f"shares.{name}", share, float)
        if not 0 <= share <= 1:
            raise ValueError(f"shares.{name} (={share}) must lie in 0 to 1; correct it")


def check_processes(config: TrainingConfig, processes: int) -> None:
    """Raise ValueError for a batch that processes and passes cannot share evenly."""
    if config.batch_size % (processes * config.accumulation):
        raise ValueError(
            f"batch_size (={config.batch_size}) must be a multiple of processes times accumulation (={processes} x "
            f"{config.accumulation}), so that all have as many clips; change one"
        )
