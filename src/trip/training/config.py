"""Every choice of a training run, in one frozen object that is saved beside its weights."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trip.training.objective import Objective


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A run: what is trained, on which objective, for how long. Defaults are the bundled model's (`mini`)."""

    cache: str = "runs/latents"  # latent cache that the clips come from
    vae: str = "runs/autoencoder"  # its autoencoder, copied into the final pipeline
    unet: dict[str, Any] = field(default_factory=dict)  # arguments of ResidualUNet3D
    fusion: dict[str, Any] = field(default_factory=dict)  # arguments of TemporalNoiseFusion; sigma is measured

    warm_start_text: bool = False  # see trip.training.text_adapter
    shares: dict[str, float] = field(default_factory=dict)  # part of a kind's clips to train on, 1 where not named

    objective: Objective = "residual"
    min_snr_gamma: float | None = None
    balance_clips: bool = False  # every clip counts alike, however much of it moves
    timestep_power: float = 1.0  # density of t ~ t^(power - 1)
    caption_dropout: float = 0.1  # captions replaced by "", for text guidance
    image_dropout: float = 0.0  # images replaced by zeros in the backbone's input, for image guidance

    steps: int = 4000
    batch_size: int = 32
    optimizer: Literal["adamw", "muon"] = "adamw"
    unet_lr: float = 1e-3
    fusion_lr: float = 1e-3
    warmup_steps: int = 100
    final_lr: float = 0.01  # fraction of the peak at the last step, cosine between
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    ema_decay: float = 0.998
    mixed_precision: Literal["no", "bf16", "fp16"] = "bf16"
    seed: int = 0

    guidance_scale: float = 3.0  # default of the exported pipeline
    checkpoint_seconds: float = 240
    log_every: int = 10

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> "TrainingConfig":
        """Read what `save` wrote; an unknown key is an error that names it."""
        values = json.loads(Path(path).read_text())
        unknown = sorted(values.keys() - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"{path} has unknown settings {unknown}; remove or correct them")
        return cls(**values)
