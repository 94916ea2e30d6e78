"""Which wordings a model was trained with, and how far a prompt is from all of them.

A model's folder may carry `understands.json` (language, licence, motions with example wordings, and the wordings
themselves) and `understands.safetensors` with their features by the packaged sentence encoder; `save_wordings` writes
both. How near a prompt is to a wording is the cosine of their mean token features, of the prompt or of one of its
clauses, so that a described scene before the motion does not count.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

from trip.data.text import open_regular, printable, read_json
from trip.files import atomic, write_json
from trip.text import TOKENIZING, load_sentence_encoder

CARD, FEATURES = "understands.json", "understands.safetensors"
MAX_BYTES = 64 * 2**20
SHOWN = 3
"""Wordings that a warning names."""


@torch.no_grad()
def sentence_features(tokenizer: Any, encoder: Any, texts: list[str]) -> Float[Tensor, "b d"]:
    """Mean token features of texts, of length 1."""
    with TOKENIZING:
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    tokens = tokens.to(encoder.device)
    states, mask = encoder(**tokens).last_hidden_state.float(), tokens.attention_mask[..., None]
    return F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).cpu()


@dataclass(frozen=True, kw_only=True)
class Wordings:
    """What a model was trained with; a prompt whose nearest wording has a cosine below `far` is far from all."""

    texts: list[str]
    features: Float[Tensor, "n d"]
    far: float

    @classmethod
    def load(cls, folder: Path) -> "Wordings | None":
        """Those of a model's folder; None where it carries none.

        Raises:
            ValueError: a damaged file.
        """
        if not ((folder / CARD).is_file() and (folder / FEATURES).is_file()):
            return None
        card: Any = read_json(folder / CARD)
        texts: Any = None
        texts, far = (card.get("wordings"), card.get("far")) if isinstance(card, dict) else (None, None)
        try:
            with open_regular(folder / FEATURES) as file:
                features = load(file.read(MAX_BYTES))["features"].float()
        except Exception as error:  # safetensors raises errors of several kinds
            raise ValueError(f"{folder / FEATURES} is damaged ({error}); copy or download the model again") from None
        listed = isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
        if not (listed and isinstance(far, float) and features.ndim == 2 and len(features) == len(texts)):
            raise ValueError(f"{folder / CARD} does not fit {FEATURES}; copy or download the model again")
        return cls(texts=list(texts), features=F.normalize(features, dim=-1), far=far)

    def warning(self, prompt: str, tokenizer: Any, encoder: Any) -> str | None:
        """One line with the nearest wordings if a prompt is far from all of them."""
        near = (sentence_features(tokenizer, encoder, clauses(prompt)) @ self.features.T).amax(0)
        if near.max() >= self.far:
            return None
        nearest = [self.texts[k] for k in near.topk(min(SHOWN, len(self.texts))).indices.tolist()]
        shown = ", ".join(f'"{printable(text, 60)}"' for text in nearest)
        return f'the prompt "{printable(prompt, 60)}" is far from what the model was trained with; nearest: {shown}'


def clauses(prompt: str) -> list[str]:
    """The prompt and its parts between punctuation."""
    parts = (part.strip() for part in re.split(r"[,.;:!?\n]+", prompt))
    return list(dict.fromkeys([prompt, *filter(None, parts)]))


def save_wordings(folder: Path, card: dict[str, Any], wordings: list[str], far: float) -> None:
    """Write what a model understands into its folder.

    Args:
        card: "language", "licence" and "motions" (name -> example wordings), for people.
        wordings: of the training captions, some hundreds.
        far: cosine below which a prompt is far from them, see the class.
    """
    features = sentence_features(*load_sentence_encoder(), wordings).half()
    with atomic(folder / FEATURES, "wb") as file:
        file.write(save({"features": features.contiguous()}))
    write_json(folder / CARD, {**card, "far": far, "wordings": wordings})
