"""Everything that the training of an autoencoder depends on."""

from dataclasses import dataclass
from pathlib import Path

from trip.fields import Checked


@dataclass(frozen=True, kw_only=True)
class AutoencoderTraining(Checked):
    """Everything one training run depends on; saved as `training.json` beside the weights.

    photos: folder with an `index.jsonl` (see `read_index`) or with bare images.
    output: folder of the checkpoint, the pool of crops, the exported weights and the results.
    initial: exported folder to start from; its latents may have fewer channels than `latent_channels`.
    freeze_encoder: train only the decoder of `initial`, so that its latents stay as they are.
    minutes, steps: length of the run; the learning rate ends at the first of the two that is reached.
    pool: number of crops rendered before training starts and drawn from afterwards.
    latent_noise: standard deviation of the noise added to the unit-variance latents in training.
    equivariance: share of the steps that decode zoomed and shifted latents (EQ-VAE, arXiv 2502.09509).
    """

    photos: Path
    output: Path
    initial: Path | None = None
    freeze_encoder: bool = False
    minutes: float | None = 22.0
    steps: int | None = None
    pool: int = 40_000
    seed: int = 0
    threads: int = 2

    block_out_channels: tuple[int, ...] = (16, 32, 64, 128)
    layers_per_block: int = 1
    latent_channels: int = 16
    norm_num_groups: int = 8
    mid_block_add_attention: bool = False

    batch_size: int = 16
    learning_rate: float = 1e-2
    adam_learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: float = 0.02
    ema_decay: float = 0.998
    latent_noise: float = 0.05
    gradient_weight: float = 0.25
    equivariance: float = 0.15
    checkpoint_minutes: float = 4.0

    def __post_init__(self) -> None:
        if self.minutes is None and self.steps is None:
            raise ValueError("minutes and steps are both None; pass one of them to bound the run.")
        if self.freeze_encoder and self.initial is None:
            raise ValueError("freeze_encoder needs trained weights; pass initial=FOLDER of an exported autoencoder.")
        if not 0 <= self.equivariance <= 1:
            raise ValueError(f"equivariance (={self.equivariance}) must lie in [0, 1]; pass a share of the steps.")
