"""VideoMAE's features of clips, through transformers: a second opinion on FVD that sees motion better than I3D.

Content bias of FVD and the proposal: Ge et al., "On the Content Bias in Fréchet Video Distance" (CVPR 2024). They use
ViT-g fine-tuned on Something-Something v2; whatever checkpoint is given here, its name goes into the output.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from transformers import VideoMAEForVideoClassification

from trip.evaluation.features.base import VideoFeatures, squash
from trip.loading import load_transformers

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class PooledVideoMAE(nn.Module):
    """Clips "b 3 f S S" -> what the classifier sees: the mean token, normalised."""

    def __init__(self, model: VideoMAEForVideoClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, video: Float[Tensor, "b 3 f S S"]) -> Float[Tensor, "b d"]:
        tokens = self.model.videomae(rearrange(video, "b c f H W -> b f c H W")).last_hidden_state
        return self.model.fc_norm(tokens.mean(1)) if self.model.fc_norm is not None else tokens.mean(1)


def videomae_features(model: str | Path, device: str = "cpu") -> VideoFeatures:
    """A VideoMAE classifier by hub id or folder; of longer clips it sees its number of frames, evenly spaced.

    Raises:
        ValueError: it cannot be loaded, or was not trained to classify.
    """
    try:
        network = load_transformers(VideoMAEForVideoClassification, model, part="VideoMAE classifier")
    except ValueError as error:
        raise ValueError(f"{error}; give a folder or hub id of a fine-tuned one") from None
    size, seen = network.config.image_size, network.config.num_frames
    pooled = PooledVideoMAE(network).eval().requires_grad_(False).to(device)
    return VideoFeatures(
        name=f"VideoMAE ({Path(model).name})",
        size=size,
        network=pooled,
        prepare=lambda frames: imagenet_pixels(frames, size),
        device=device,
        pick=lambda count: evenly_spaced(count, seen),
    )


def imagenet_pixels(frames: UInt8[Tensor, "n H W 3"], size: int) -> Float[Tensor, "n 3 S S"]:
    """Frames squashed to size x size, with ImageNet's mean and deviation."""
    mean, std = (torch.tensor(values, device=frames.device)[:, None, None] for values in (MEAN, STD))
    return (squash(frames, size, mean=0.0, std=255.0) - mean) / std


def evenly_spaced(count: int, wanted: int) -> Sequence[int]:
    """`wanted` of `count` indices, first and last included.

    Raises:
        ValueError: there are fewer.
    """
    if count < wanted:
        raise ValueError(f"this VideoMAE needs clips of at least {wanted} frames, got {count}; use longer clips")
    return torch.linspace(0, count - 1, wanted).round().int().tolist()
