"""CLIP's features of frames and texts, through transformers; the network of F-Consistency and of text similarity."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer, PreTrainedTokenizerBase

from trip.evaluation.features.base import FrameFeatures
from trip.loading import load_tokenizer, load_transformers

PUBLISHED = {"ViT-B/32": "openai/clip-vit-base-patch32", "ViT-L/14": "openai/clip-vit-large-patch14"}
"""Short name -> hub id. The paper names no backbone; both are in use."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class CLIPFeatures(FrameFeatures):
    """Projected features of frames, "b f d"; `text` gives those of texts, in the same space."""

    model: CLIPModel
    tokenizer: PreTrainedTokenizerBase

    @torch.inference_mode()
    def text(self, prompts: Sequence[str]) -> Float[Tensor, "b d"]:
        """Projected features of texts, cut to CLIP's 77 tokens."""
        length = self.model.text_model.config.max_position_embeddings
        tokens = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=length, return_tensors="pt"
        ).to(self.device)
        output = self.model.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return output.pooler_output.float().cpu()  # pyright: ignore


def clip_features(model: str | Path = "ViT-B/32", device: str = "cpu") -> CLIPFeatures:
    """CLIP by short name, hub id or folder.

    Args:
        model: a key of `PUBLISHED`, or anything `CLIPModel.from_pretrained` takes. device: where it runs.

    Raises:
        ValueError: it cannot be loaded, or is not a CLIP.
    """
    source = PUBLISHED.get(str(model), str(model))
    try:
        network = load_transformers(CLIPModel, source, part="CLIP")
        tokenizer = load_tokenizer(source, CLIPTokenizer)
    except ValueError as error:
        raise ValueError(f"{error}; or give a folder or hub id of a CLIP") from None
    network = network.eval().requires_grad_(False).to(device)
    size = network.config.vision_config.image_size
    return CLIPFeatures(
        name=clip_name(str(model)),
        size=size,
        network=lambda frames: network.get_image_features(pixel_values=frames).pooler_output,  # pyright: ignore
        prepare=lambda frames: clip_pixels(frames, size),
        device=device,
        model=network,
        tokenizer=tokenizer,
    )


def clip_name(model: str) -> str:
    """ "CLIP-ViT-B/32" of the published two, else "CLIP (NAME)"."""
    short = {hub: name for name, hub in PUBLISHED.items()}.get(model, model)
    return f"CLIP-{short}" if short in PUBLISHED else f"CLIP ({Path(model).name})"


def clip_pixels(frames: UInt8[Tensor, "n H W 3"], size: int) -> Float[Tensor, "n 3 S S"]:
    """CLIP's own preparation: shorter side to `size` (bicubic, antialiased), central square, its mean and deviation."""
    pixels = rearrange(frames, "n H W c -> n c H W").float()
    height, width = pixels.shape[-2:]
    short = min(height, width)
    scaled = (size * height // short, size * width // short)
    if scaled != (height, width):
        pixels = F.interpolate(pixels, scaled, mode="bicubic", align_corners=False, antialias=True)
    top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    square = pixels[..., top : top + size, left : left + size].round().clamp(0, 255) / 255
    mean, std = (torch.tensor(values, device=frames.device)[:, None, None] for values in (MEAN, STD))
    return (square - mean) / std
