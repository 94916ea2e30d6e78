"""Text features: any transformers encoder with `last_hidden_state`, and the small one of the bundled model."""

from importlib.resources import files

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from trip.loading import load_tokenizer, load_transformers
from trip.models import SENTENCE_ENCODER


def load_sentence_encoder() -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """(tokenizer, encoder) of all-MiniLM-L6-v2 out of the installed package; works offline."""
    folder = str(files(SENTENCE_ENCODER) / "model")
    tokenizer = load_tokenizer(folder, local_files_only=True)
    encoder = load_transformers(
        AutoModel, folder, part="text encoder", ignore=("pooler.",), local_files_only=True, add_pooling_layer=False
    )
    return tokenizer, encoder.eval().requires_grad_(False)


@torch.no_grad()
def encode_text(
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: PreTrainedModel,
    prompts: list[str],
    max_length: int,
    zero_padding: bool,
    device: torch.device | None = None,
) -> Float[Tensor, "b n d"]:
    """Last hidden states of prompts cut and padded to `max_length` tokens.

    `device` is where the encoder computes; by default, where its weights are (offloaded ones are elsewhere).

    With `zero_padding` the encoder does not attend to the padding and its features there are set to 0, so that the
    length of the padding does not matter; without it the padding is encoded like text, as Stable Diffusion does.
    """
    padding = "longest" if zero_padding else "max_length"
    tokens = tokenizer(prompts, padding=padding, max_length=max_length, truncation=True, return_tensors="pt")
    tokens = tokens.to(device or text_encoder.device)
    if not zero_padding:
        return text_encoder(tokens.input_ids).last_hidden_state
    features = text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
    features = features * tokens.attention_mask[..., None].to(features)
    return F.pad(features, (0, 0, 0, max_length - features.shape[1]))
