"""VideoMAE through transformers, on a tiny random one."""

import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, VideoMAEModel

from trip.evaluation.features.videomae import evenly_spaced, imagenet_pixels, videomae_features

CONFIG = {
    "image_size": 16,
    "patch_size": 8,
    "num_frames": 8,
    "hidden_size": 12,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_labels": 5,
}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    VideoMAEForVideoClassification(VideoMAEConfig(**CONFIG)).save_pretrained(tmp_path / "tiny-videomae")
    return tmp_path / "tiny-videomae"


def test_features_are_what_the_classifier_sees(folder, clips):
    network = videomae_features(folder)
    found = network(clips)
    assert found.shape == (2, 12) and network.name == "VideoMAE (tiny-videomae)" and network.size == 16
    model = VideoMAEForVideoClassification.from_pretrained(folder).eval()
    frames = torch.stack([imagenet_pixels(clip[evenly_spaced(16, 8)], 16) for clip in clips])
    with torch.no_grad():
        torch.testing.assert_close(model.classifier(found), model(frames).logits, rtol=1e-4, atol=1e-5)


def test_frames_are_spread_evenly_and_must_suffice():
    assert evenly_spaced(8, 8) == list(range(8))
    assert evenly_spaced(15, 8) == list(range(0, 15, 2))
    with pytest.raises(ValueError, match="at least 8 frames, got 7"):
        evenly_spaced(7, 8)


def test_a_model_that_was_not_fine_tuned_is_refused(tmp_path):
    VideoMAEModel(VideoMAEConfig(**CONFIG)).save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"lacks the tensor classifier.*fine-tuned one"):
        videomae_features(tmp_path / "bare")
    with pytest.raises(ValueError, match="cannot be loaded"):
        videomae_features(tmp_path / "nothing")
