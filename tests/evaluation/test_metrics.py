"""Metrics against closed forms and independent implementations; and a metric of one's own."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from trip.evaluation.metric import Result, mean_result, share_result
from trip.evaluation.metrics.consistency import PAIRINGS, frame_consistency, motion_warning
from trip.evaluation.metrics.text import text_similarity
from trip.evaluation.pictures import PSNR_CAP, psnr, ssim

# ------------------------------------------------------------------------------------- consistency and similarity


def test_consistency_of_a_frozen_clip_is_100_and_warned_about():
    frozen = torch.randn(2, 1, 7, generator=torch.Generator().manual_seed(0)).expand(-1, 6, -1)
    for pairing in PAIRINGS:
        np.testing.assert_allclose(frame_consistency(frozen, pairing), 100, rtol=1e-12)
        np.testing.assert_allclose(frame_consistency(frozen, pairing, 4), 100, rtol=1e-12)
    still, real = Result(name="flow", value=0.0, n=2), Result(name="flow", value=1.5, n=2)
    assert "0% as much as the real ones" in motion_warning(still, real)
    assert "do not move at all" in motion_warning(still, None)
    assert motion_warning(real, real) is None and motion_warning(real, None) is None


def test_consistency_pairs_frames_as_it_says():
    angles = torch.tensor([[0.0, 10, 40, 90, 180]]) * math.pi / 180
    features = 3 * torch.stack([angles.cos(), angles.sin()], dim=-1)
    cosine = [math.cos(math.radians(a)) for a in range(181)]
    consecutive = [cosine[10], cosine[30], cosine[50], cosine[90]]
    to_first = [cosine[10], cosine[40], cosine[90], cosine[180]]
    for pairing, pairs in (("consecutive", consecutive), ("to-first", to_first)):
        assert frame_consistency(features, pairing)[0] == pytest.approx(100 * np.mean(pairs), abs=1e-4)
        assert frame_consistency(features, pairing, 4)[0] == pytest.approx(100 * np.mean(pairs[:3]), abs=1e-4)
    with pytest.raises(ValueError, match="consecutive, to-first"):
        frame_consistency(features, "all")
    with pytest.raises(ValueError, match="5 frames, F-Consistency needs 6"):
        frame_consistency(features, num_frames=6)


def test_text_similarity_is_the_mean_cosine_over_frames():
    frames = torch.tensor([[[2.0, 0], [0, 3]], [[1, 1], [1, 1]]])
    found = text_similarity(frames, torch.tensor([[5.0, 0], [1, 1]]))
    np.testing.assert_allclose(found, [50, 100], atol=1e-9)


# -------------------------------------------------------------------------------------------------- pictures


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((20, 27, 3), np.float32)


def test_ssim_is_that_of_an_independent_implementation():
    x = picture()
    y = 0.7 * x + 0.3 * picture(1)

    def smooth(image):
        return ndimage.gaussian_filter(image, 1.5, radius=5)[5:-5, 5:-5]

    values = []
    for a, b in zip(x.astype(float).transpose(2, 0, 1), y.astype(float).transpose(2, 0, 1), strict=True):
        mean_a, mean_b = smooth(a), smooth(b)
        var_a, var_b = smooth(a**2) - mean_a**2, smooth(b**2) - mean_b**2
        both = smooth(a * b) - mean_a * mean_b
        top = (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4)
        values.append((top / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))).mean())
    assert ssim(x, y) == pytest.approx(np.mean(values), rel=1e-10) and ssim(x, x) == pytest.approx(1, rel=1e-12)
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(x[:10], y[:10])


def test_psnr_of_known_errors():
    x = picture() * 0.5
    assert psnr(x, x + 0.1) == pytest.approx(20, abs=1e-5)
    assert psnr(x, x) == PSNR_CAP


# ------------------------------------------------------------------------------------------------- means, shares


def test_means_and_shares_have_intervals():
    values = np.random.default_rng(0).normal(5, 2, 400)
    found = mean_result("m", values.tolist(), features="net", seed=3)
    half = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean()) and found.n == 400
    np.testing.assert_allclose(found.interval, [values.mean() - half, values.mean() + half], atol=0.05)
    assert mean_result("m", [3.0]).as_dict() == {"value": 3.0, "n": 1, "interval": None, "features": ""}
    share = share_result("s", [True, False, False, False])
    assert share.value == 25 and share.interval[0] > 0 and share.interval[1] < 75
    for make in (mean_result, share_result):
        with pytest.raises(ValueError, match="at least 1"):
            make("empty", [])
