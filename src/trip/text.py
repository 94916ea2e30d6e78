"""Text features: any transformers encoder with `last_hidden_state`, and the small one of the bundled model."""

import threading
import unicodedata
from importlib.resources import files

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from trip.data.text import has_surrogates, printable
from trip.loading import load_tokenizer, load_transformers
from trip.models import SENTENCE_ENCODER

TOKENIZING = threading.Lock()
"""Held while a tokenizer works: the fast ones keep padding and truncation as state, and fail from two threads."""

MULTILINGUAL_VOCABULARY = 100_000
"""Tokens from which on a vocabulary is taken to hold more than Latin letters: CLIP, BERT and T5 have 30 to 50 thousand,
mT5 and Qwen 150 to 260."""


def sentence_encoder_folder() -> str:
    """Where the installed package has all-MiniLM-L6-v2."""
    return str(files(SENTENCE_ENCODER) / "model")


def load_sentence_encoder() -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """(tokenizer, encoder) of all-MiniLM-L6-v2 out of the installed package; works offline."""
    folder = sentence_encoder_folder()
    tokenizer = load_tokenizer(folder, local_files_only=True)
    encoder = load_transformers(
        AutoModel, folder, part="text encoder", ignore=("pooler.",), local_files_only=True, add_pooling_layer=False
    )
    return tokenizer, encoder.eval().requires_grad_(False)


def is_sentence_encoder(text_encoder: PreTrainedModel | None) -> bool:
    """Whether it came from `load_sentence_encoder` and is as it was."""
    name = getattr(text_encoder, "name_or_path", None)
    return name == sentence_encoder_folder() and not getattr(text_encoder, "peft_config", None)


def count_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Tokens of a text, those that mark its ends included."""
    with TOKENIZING:
        return len(tokenizer(text, verbose=False).input_ids)


@torch.no_grad()
def encode_text(
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: PreTrainedModel,
    prompts: list[str],
    max_length: int,
    zero_padding: bool,
    device: torch.device | None = None,
    skip: int = 0,
) -> Float[Tensor, "b n d"]:
    """Last hidden states of prompts cut and padded to `max_length` tokens.

    `device` is where the encoder computes; by default, where its weights are (offloaded ones are elsewhere).

    With `zero_padding` the encoder does not attend to the padding and its features there are set to 0, so that the
    length of the padding does not matter; without it the padding is encoded like text, as Stable Diffusion does.
    `skip` leaves out the last layers, as diffusers' `clip_skip`.
    """
    padding = "longest" if zero_padding else "max_length"
    with TOKENIZING:
        tokens = tokenizer(prompts, padding=padding, max_length=max_length, truncation=True, return_tensors="pt")
    tokens = tokens.to(device or text_encoder.device)
    if not zero_padding:
        return _features(text_encoder, skip, tokens.input_ids)
    features = _features(text_encoder, skip, tokens.input_ids, attention_mask=tokens.attention_mask)
    features = features * tokens.attention_mask[..., None].to(features)
    return F.pad(features, (0, 0, 0, max_length - features.shape[1]))


def _features(text_encoder: PreTrainedModel, skip: int, ids: Tensor, **mask: Tensor) -> Float[Tensor, "b n d"]:
    """The last hidden states, or those before the last `skip` layers, through the encoder's final norm if any."""
    if not skip:
        return text_encoder(ids, **mask).last_hidden_state
    layers = text_encoder(ids, **mask, output_hidden_states=True).hidden_states
    if skip >= len(layers):
        raise ValueError(f"clip_skip (={skip}) leaves none of the encoder's {len(layers) - 1} layers; lower it")
    norm = getattr(getattr(text_encoder, "text_model", text_encoder), "final_layer_norm", None)
    return layers[-1 - skip] if norm is None else norm(layers[-1 - skip])


def check_text(prompt: str) -> None:
    """Raise ValueError for halves of characters, which no tokenizer takes."""
    if has_surrogates(prompt):
        raise ValueError(f"prompt ('{printable(prompt, 60)}') holds halves of characters; write it again in UTF-8")


def unread(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str | None:
    """One line if a prompt has words that the encoder does not know, or whose letters it only spells; else None."""
    words = [word for word in prompt.split() if _is_unread(tokenizer, word)]
    if not words:
        return None
    shown = ", ".join(f'"{printable(word, 40)}"' for word in words[:3])
    return f"the text encoder does not know {shown}; write the prompt in English, in words"


def _is_unread(tokenizer: PreTrainedTokenizerBase, word: str) -> bool:
    with TOKENIZING:
        tokens = tokenizer(word, add_special_tokens=False, verbose=False).input_ids
    foreign = any(c.isalpha() and not unicodedata.name(c, "").startswith("LATIN") for c in word)
    spelled = foreign and len(tokenizer) < MULTILINGUAL_VOCABULARY
    return spelled or not tokens or tokenizer.unk_token_id in tokens
