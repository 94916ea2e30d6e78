"""CLIP through transformers, on a tiny random one."""

import json
import shutil
import string

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from trip.evaluation.features.clip import clip_features, clip_name, clip_pixels

SIZE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP of two layers; every letter is a token."""
    letters = [*string.ascii_lowercase, *(c + "</w>" for c in string.ascii_lowercase)]
    vocab = {piece: i for i, piece in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": 54, "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**small, "image_size": SIZE, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config={**text, "pad_token_id": 1}, vision_config=vision, projection_dim=6))
    path = tmp_path_factory.mktemp("models") / "tiny-clip"
    model.save_pretrained(path)
    CLIPTokenizer(vocab=vocab, merges=[], model_max_length=12).save_pretrained(path)
    return path


def test_features_of_frames_are_the_models(folder, clips):
    network = clip_features(folder)
    found = network(clips)
    assert found.shape == (2, 16, 6) and network.size == SIZE and network.name == "CLIP (tiny-clip)"
    with torch.no_grad():
        pixels = clip_pixels(clips[1, 3:4], SIZE)
        vision = network.model.vision_model(pixel_values=pixels).pooler_output
        expected = network.model.visual_projection(vision)[0]
    torch.testing.assert_close(found[1, 3], expected, rtol=1e-4, atol=1e-5)


def test_features_of_texts_do_not_depend_on_their_neighbours(folder):
    network = clip_features(folder)
    alone, together = network.text(["ab"]), network.text(["ab", "a much longer text than twelve tokens"])
    assert alone.shape == (1, 6)
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_pixels_are_prepared_as_clips_own_processor_does():
    frames = np.random.default_rng(0).integers(64, 192, (2, 30, 44, 3), dtype=np.uint8).repeat(3, 1).repeat(3, 2)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    expected = processor(list(frames), return_tensors="pt").pixel_values
    found = clip_pixels(torch.from_numpy(frames), 64)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 2.01 / 255 / 0.26  # two levels: it rounds between its passes


def test_names():
    assert clip_name("ViT-B/32") == clip_name("openai/clip-vit-base-patch32") == "CLIP-ViT-B/32"
    assert clip_name("/models/my-clip") == "CLIP (my-clip)"


def test_a_folder_that_is_no_clip_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="cannot be loaded") as caught:
        clip_features(tmp_path)
    assert "\n" not in str(caught.value)


def test_code_that_lies_in_the_folder_is_not_run_nor_asked_for(folder, tmp_path, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "clip")
    (copy / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for name in ("config.json", "tokenizer_config.json"):
        record = json.loads((copy / name).read_text())
        classes = {"AutoConfig": "own.Own", "AutoModel": "own.Own", "AutoTokenizer": ["own.Own", "own.Own"]}
        record |= {"auto_map": classes, "tokenizer_class": "Own"}
        (copy / name).write_text(json.dumps(record))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    assert clip_features(copy).size == SIZE and not (tmp_path / "ran").exists()


def test_pickled_weights_are_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "clip")
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"CLIP .* cannot be loaded") as caught:
        clip_features(copy)
    assert "safetensors" in str(caught.value) and "\n" not in str(caught.value)
