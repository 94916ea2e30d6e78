"""Text features of the bundled sentence encoder and of a tiny CLIP text model."""

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch.testing import assert_close
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from trip.models import bundled_model_path
from trip.text import check_text, encode_text, load_sentence_encoder, unread
from trip.wordings import Wordings, save_wordings

PROMPTS = ["the camera pans left", "", "a red balloon rises slowly over the quiet harbour at dawn"]


@pytest.fixture(scope="module")
def sentence_encoder():
    return load_sentence_encoder()


def test_sentence_encoder_is_frozen_and_has_384_features(sentence_encoder):
    _, encoder = sentence_encoder
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    features = encode_text(*sentence_encoder, PROMPTS, max_length=32, zero_padding=True)
    assert features.shape == (3, 32, 384) and features.isfinite().all() and not features.requires_grad


def test_zeroed_padding_makes_its_length_irrelevant(sentence_encoder):
    short, long = (encode_text(*sentence_encoder, PROMPTS, n, zero_padding=True) for n in (20, 32))
    assert_close(long[:, :20], short, atol=1e-5, rtol=1e-4)
    assert not long[:, 20:].any()
    tokenizer, _ = sentence_encoder
    for row, prompt in zip(long, PROMPTS, strict=True):
        assert row.any(dim=1).sum() == len(tokenizer(prompt).input_ids)


def test_a_prompt_does_not_depend_on_its_batch(sentence_encoder):
    together = encode_text(*sentence_encoder, PROMPTS, 32, zero_padding=True)
    alone = torch.cat([encode_text(*sentence_encoder, [p], 32, zero_padding=True) for p in PROMPTS])
    assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_long_prompts_are_cut(sentence_encoder):
    features = encode_text(*sentence_encoder, ["word " * 10_000], 32, zero_padding=True)
    assert features.shape == (1, 32, 384) and features.any(dim=-1).all()


def test_tokens_carry_the_direction(sentence_encoder):
    """Or no model could learn it from them: the token of the word that differs, differs."""
    prompts = ["the camera pans left", "the camera pans right"]
    left, right = encode_text(*sentence_encoder, prompts, 32, zero_padding=True)
    similarity = torch.nn.functional.cosine_similarity(left, right, dim=-1)[:6]  # [CLS] the camera pans X [SEP]
    assert similarity[4] < 0.9


@pytest.fixture(scope="module")
def clip():
    """A word-level tokenizer and a tiny, randomly initialised CLIP text model."""
    words = ["<pad>", "<start>", "<end>", "<unk>", "a", "red", "balloon", "rises"]
    core = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = Whitespace()
    special = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": "<pad>", "unk_token": "<unk>"}
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPTextConfig(
        vocab_size=8, max_position_embeddings=10, bos_token_id=1, eos_token_id=2, pad_token_id=0, **size
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, **special), CLIPTextModel(config).eval()


def test_padding_is_encoded_like_text_as_stable_diffusion_does(clip):
    tokenizer, model = clip
    features = encode_text(tokenizer, model, ["a red balloon", "a balloon rises"], 10, zero_padding=False)
    ids = torch.tensor([[4, 5, 6] + [0] * 7, [4, 6, 7] + [0] * 7])
    assert features.shape == (2, 10, 16)
    assert_close(features, model(ids).last_hidden_state.detach(), rtol=0, atol=0)
    assert features[:, 3:].any(dim=-1).all()


def test_features_have_the_dtype_of_the_encoder(clip):
    tokenizer, model = clip
    for dtype in (torch.bfloat16, torch.float32):
        assert encode_text(tokenizer, model.to(dtype), ["a"], 10, zero_padding=True).dtype == dtype


def test_tokens_go_where_the_encoder_computes(sentence_encoder, monkeypatch):
    """Offloaded weights may be on no device at all."""
    expected = encode_text(*sentence_encoder, PROMPTS, 32, zero_padding=True)
    monkeypatch.setattr(type(sentence_encoder[1]), "device", torch.device("meta"))
    features = encode_text(*sentence_encoder, PROMPTS, 32, zero_padding=True, device=torch.device("cpu"))
    assert torch.equal(features, expected)


UNREAD = ["镜头向左平移", "🎥⬅️", "камера вправо", "the camera pans 左", "الكاميرا", "\u200b", "カメラを左に"]


@pytest.mark.parametrize("prompt", UNREAD)
def test_words_that_the_encoder_does_not_know_are_named(sentence_encoder, prompt):
    line = unread(sentence_encoder[0], prompt)
    assert line is not None and "English" in line and line.isprintable()


@pytest.mark.parametrize("prompt", [*PROMPTS, "Café, naïve: 50 % slower!", "ZOOM-IN (x2)"])
def test_english_is_read(sentence_encoder, prompt):
    assert unread(sentence_encoder[0], prompt) is None


def test_halves_of_characters_are_no_prompt():
    with pytest.raises(ValueError, match="halves of characters"):
        check_text("pan \ud83d")


def test_the_bundled_model_says_which_prompts_are_far_from_its_training(sentence_encoder):
    wordings = Wordings.load(bundled_model_path())
    assert wordings is not None
    for prompt in ("the camera pans left", "A castle on a hill. Zoom in slowly.", "it snows", "the ball bounces"):
        assert wordings.warning(prompt, *sentence_encoder) is None
    for prompt in ("die Kamera schwenkt nach links", "a dragon breathes fire", "cooking pasta in a kitchen"):
        line = wordings.warning(prompt, *sentence_encoder)
        assert line is not None and prompt in line and line.count('"') >= 8


def test_another_model_carries_its_own_wordings(sentence_encoder, tmp_path):
    assert Wordings.load(tmp_path) is None
    save_wordings(tmp_path, {"language": "English"}, ["a dragon breathes fire"], far=0.5)
    wordings = Wordings.load(tmp_path)
    assert wordings is not None and wordings.warning("the dragon breathes fire", *sentence_encoder) is None
    line = wordings.warning("the camera pans left", *sentence_encoder)
    assert line is not None and '"a dragon breathes fire"' in line
    for damage in ("[" * 9999, '{"wordings": ["a", "b"], "far": 0.5}', '{"wordings": [1], "far": 0.5}', "[]"):
        (tmp_path / "understands.json").write_text(damage)
        with pytest.raises(ValueError, match="understands"):
            Wordings.load(tmp_path)
