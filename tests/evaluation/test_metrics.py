"""Metrics against closed forms and independent implementations."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg, ndimage

from trip.evaluation import metrics
from trip.evaluation.metrics import FeatureSet, GaussianStatistics, Metric, frechet_distance, frechet_of_samples


def gaussian(count: int, width: int, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    """Correlated features."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + shift).astype(np.float32)


def feature_set(features: np.ndarray, name: str = "toy") -> FeatureSet:
    found = FeatureSet(name, features.shape[-1])
    found.add(features.reshape(len(features), -1, features.shape[-1]))
    return found


# ------------------------------------------------------------------------------------------- Fréchet distance


@pytest.mark.parametrize("count", [300, 40])
def test_frechet_distance_is_scipys(count):
    x, y = gaussian(count, 20).astype(float), gaussian(count + 5, 20, seed=1, shift=0.3).astype(float)
    root = linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    found = frechet_distance(GaussianStatistics.of(x), GaussianStatistics.of(y))
    assert found == pytest.approx(expected, rel=1e-9)


def test_diagonal_covariances_have_a_closed_form():
    first, second = GaussianStatistics(5), GaussianStatistics(5)
    first.count = second.count = 11
    a, b = np.array([1.0, 4.0, 0.0, 9.0, 1e-6]), np.array([4.0, 1.0, 2.0, 9.0, 1e6])
    first.scatter, second.scatter = 10 * np.diag(a), 10 * np.diag(b)
    second.mean = np.array([3.0, 0, 0, 0, 0])
    expected = 9 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("counts", [(6, 9), (40, 12), (50, 60)])
def test_few_samples_take_a_shorter_way_to_the_same_distance(counts):
    x, y = gaussian(counts[0], 16), gaussian(counts[1], 16, seed=3, shift=1)
    direct = frechet_distance(GaussianStatistics.of(x), GaussianStatistics.of(y))
    assert frechet_of_samples(x, y) == pytest.approx(direct, rel=1e-6)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 99))
def test_streamed_and_merged_statistics_are_those_of_the_whole(parts, seed):
    x = gaussian(sum(parts), 4, seed=seed, shift=1000)
    streamed, merged = GaussianStatistics(4), GaussianStatistics(4)
    for part in np.split(x, np.cumsum(parts)[:-1]):
        streamed.add(part)
        merged.merge(GaussianStatistics.of(part))
    exact = x.astype(np.float64)
    for found in (streamed, merged):
        assert found.count == len(x)
        np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.scatter, (exact - exact.mean(0)).T @ (exact - exact.mean(0)), atol=1e-8)


def test_statistics_do_not_grow_with_the_number_of_features():
    statistics = GaussianStatistics(3)
    for seed in range(50):
        statistics.add(gaussian(7, 3, seed=seed))
    sizes = {key: np.size(value) for key, value in vars(statistics).items()}
    assert sizes == {"count": 1, "mean": 3, "scatter": 9}


@given(st.integers(0, 50), st.integers(2, 30), st.integers(2, 30))
def test_distance_is_symmetric_and_zero_of_a_set_and_itself(seed, n, m):
    x, y = GaussianStatistics.of(gaussian(n, 8, seed)), GaussianStatistics.of(gaussian(m, 8, seed + 1, shift=2))
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9 * np.trace(x.covariance))
    assert frechet_distance(x, y) > 0


@given(st.integers(0, 50), st.floats(-100, 100), st.integers(2, 30))
def test_translation_adds_its_squared_length(seed, shift, n):
    x = gaussian(n, 8, seed).astype(np.float64)
    moved = x + shift * np.eye(8)[seed % 8]
    found = frechet_distance(GaussianStatistics.of(x), GaussianStatistics.of(moved))
    assert found == pytest.approx(shift**2, rel=1e-9, abs=1e-9 * np.var(x) * 8)


def test_a_distance_carries_its_counts_features_and_interval():
    x, y = feature_set(gaussian(60, 8)), feature_set(gaussian(50, 8, seed=1, shift=1))
    found = metrics.frechet_metric("FVD", x, y)
    assert (found.name, found.n, found.features) == ("FVD", 60, "toy")
    assert found.note == "60 clips against 50 real ones"
    assert found.interval[0] < found.value < found.interval[1]
    assert found == metrics.frechet_metric("FVD", x, y) != metrics.frechet_metric("FVD", x, y, seed=1)
    assert json.loads(json.dumps(found.as_dict())) == {
        "value": found.value,
        "n": 60,
        "interval": list(found.interval),
        "features": "toy",
        "note": found.note,
    }


def test_the_interval_covers_the_spread_over_sets_of_clips():
    """Over sets of 40 clips against one reference, 95 % intervals are about as wide as the distances spread."""
    rng = np.random.default_rng(0)
    reference = feature_set(rng.normal(size=(400, 4)))
    found = [metrics.frechet_metric("FVD", feature_set(rng.normal(0.8, 1, (40, 4))), reference) for _ in range(20)]
    spread = np.std([metric.value for metric in found]) * 2 * 1.96
    widths = [metric.interval[1] - metric.interval[0] for metric in found]
    assert 0.6 < np.mean(widths) / spread < 1.6


def test_too_few_clips_are_refused_unless_allowed():
    three = feature_set(gaussian(3, 8)), feature_set(gaussian(3, 8, seed=1))
    with pytest.raises(ValueError, match="8 features need more than 8 samples; add clips, or accept it") as caught:
        metrics.frechet_metric("FVD", *three)
    assert "\n" not in str(caught.value) and "3 clips against 3 real ones" in str(caught.value)
    allowed = metrics.frechet_metric("FVD", *three, allow_few=True)
    assert allowed.n == 3 and "too few for 8 features" in allowed.note
    with pytest.raises(ValueError, match="at least 2 clips"):
        metrics.frechet_metric("FVD", feature_set(gaussian(1, 8)), three[0], allow_few=True)


def test_frames_of_a_clip_are_drawn_together_and_large_sets_have_no_interval():
    frames = np.repeat(gaussian(5, 2)[:, None], 4, axis=1)
    drawn = metrics.redrawn(frames, np.random.default_rng(0)).reshape(5, 4, 2)
    assert (drawn == drawn[:, :1]).all()
    large = feature_set(np.ones((2, metrics.LARGEST_RESAMPLED + 1, metrics.LARGEST_RESAMPLED + 1), np.float32))
    assert large.clipwise() is None and large.statistics.count == 2 * (metrics.LARGEST_RESAMPLED + 1)


def test_features_must_be_of_one_network_and_finite():
    statistics = GaussianStatistics.of(gaussian(5, 4))
    with pytest.raises(ValueError, match="width 3, not 4"):
        statistics.add(gaussian(5, 3))
    with pytest.raises(ValueError, match="widths 4 and 3"):
        frechet_distance(statistics, GaussianStatistics.of(gaussian(5, 3)))
    with pytest.raises(ValueError, match="NaN"):
        statistics.add(np.full((1, 4), np.nan))


# ------------------------------------------------------------------------------------- consistency and similarity


def test_consistency_of_a_frozen_clip_is_100_and_warned_about():
    frozen = torch.randn(2, 1, 7, generator=torch.Generator().manual_seed(0)).expand(-1, 6, -1)
    for pairing in metrics.PAIRINGS:
        np.testing.assert_allclose(metrics.frame_consistency(frozen, pairing), 100, rtol=1e-12)
        np.testing.assert_allclose(metrics.frame_consistency(frozen, pairing, 4), 100, rtol=1e-12)
    still, real = Metric(name="flow", value=0.0, n=2), Metric(name="flow", value=1.5, n=2)
    assert "0% as much as the real ones" in metrics.motion_warning(still, real)
    assert "do not move at all" in metrics.motion_warning(still, None)
    assert metrics.motion_warning(real, real) is None and metrics.motion_warning(real, None) is None


def test_consistency_pairs_frames_as_it_says():
    angles = torch.tensor([[0.0, 10, 40, 90, 180]]) * math.pi / 180
    features = 3 * torch.stack([angles.cos(), angles.sin()], dim=-1)
    cosine = [math.cos(math.radians(a)) for a in range(181)]
    consecutive = [cosine[10], cosine[30], cosine[50], cosine[90]]
    to_first = [cosine[10], cosine[40], cosine[90], cosine[180]]
    for pairing, pairs in (("consecutive", consecutive), ("to-first", to_first)):
        assert metrics.frame_consistency(features, pairing)[0] == pytest.approx(100 * np.mean(pairs), abs=1e-4)
        assert metrics.frame_consistency(features, pairing, 4)[0] == pytest.approx(100 * np.mean(pairs[:3]), abs=1e-4)
    with pytest.raises(ValueError, match="consecutive, to-first"):
        metrics.frame_consistency(features, "all")
    with pytest.raises(ValueError, match="5 frames, F-Consistency needs 6"):
        metrics.frame_consistency(features, num_frames=6)


def test_text_similarity_is_the_mean_cosine_over_frames():
    frames = torch.tensor([[[2.0, 0], [0, 3]], [[1, 1], [1, 1]]])
    found = metrics.text_similarity(frames, torch.tensor([[5.0, 0], [1, 1]]))
    np.testing.assert_allclose(found, [50, 100], atol=1e-9)


# ---------------------------------------------------------------------------------------------- pictures, motion


def pictures(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, 20, 27, generator=torch.Generator().manual_seed(seed))


def test_ssim_is_that_of_an_independent_implementation():
    x = pictures()
    y = (0.7 * x + 0.3 * pictures(1)).clamp(0, 1)

    def smooth(image):
        return ndimage.gaussian_filter(image, 1.5, radius=5)[5:-5, 5:-5]

    expected = []
    for first, second in zip(x.double().numpy(), y.double().numpy(), strict=True):
        values = []
        for a, b in zip(first, second, strict=True):
            mean_a, mean_b = smooth(a), smooth(b)
            var_a, var_b = smooth(a**2) - mean_a**2, smooth(b**2) - mean_b**2
            both = smooth(a * b) - mean_a * mean_b
            top = (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4)
            values.append((top / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))).mean())
        expected.append(np.mean(values))
    np.testing.assert_allclose(metrics.ssim(x, y).numpy(), expected, rtol=1e-10)
    np.testing.assert_allclose(metrics.ssim(x, x).numpy(), 1, rtol=1e-12)
    with pytest.raises(ValueError, match="11 x 11"):
        metrics.ssim(x[..., :10], y[..., :10])


def test_psnr_of_known_errors():
    x = pictures() * 0.5
    np.testing.assert_allclose(metrics.psnr(x, x + 0.1).numpy(), 20, atol=1e-5)
    assert metrics.psnr(x, x).tolist() == [metrics.PSNR_CAP] * 2


def sliding(step: int, count: int = 6, size: int = 64) -> np.ndarray:
    """A smooth random picture that slides left by `step` pixels a frame."""
    rng = np.random.default_rng(0)
    wide = ndimage.gaussian_filter(rng.random((size, size + step * count, 3)), (2, 2, 0))
    wide = (255 * (wide - wide.min()) / np.ptp(wide)).astype(np.uint8)
    return np.stack([wide[:, i * step : i * step + size] for i in range(count)])


def test_motion_of_a_sliding_picture():
    slides, still = metrics.clip_motion(sliding(3)), metrics.clip_motion(sliding(0))
    assert slides.flow == pytest.approx(100 * 3 / 64, rel=0.1) and slides.dynamic
    assert vars(still) == {"flow": 0.0, "dynamic": False, "warping_error": 0.0}
    assert not metrics.clip_motion(sliding(1)).dynamic  # below 6 pixels in 256
    assert metrics.clip_motion(sliding(1, count=12), fps=24).dynamic  # thinned to 8 a second, it moves 3 a frame


def test_warping_error_is_small_where_flow_explains_and_large_where_frames_flicker():
    slides = sliding(3)
    flicker = slides.copy()
    flicker[1::2] = flicker[1::2] // 2
    smooth, worse = (metrics.clip_motion(clip).warping_error for clip in (slides, flicker))
    assert smooth < 2e-3 and worse > 10 * smooth


def test_warping_error_leaves_out_what_leaves_the_picture_or_does_not_return():
    pixels = np.zeros((2, 8, 8, 3), np.float32)
    pixels[1] = 0.5
    zero, away = np.zeros((1, 8, 8, 2), np.float32), np.full((1, 8, 8, 2), 20, np.float32)
    assert metrics.warping_error(pixels, zero, zero) == pytest.approx(0.25)
    assert metrics.warping_error(pixels, away, -away) == 0
    assert metrics.warping_error(pixels, zero, away) == 0


# ------------------------------------------------------------------------------------------------- means, shares


def test_means_and_shares_have_intervals():
    values = np.random.default_rng(0).normal(5, 2, 400)
    found = metrics.mean_metric("m", values.tolist(), features="net", seed=3)
    half = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean()) and found.n == 400
    np.testing.assert_allclose(found.interval, [values.mean() - half, values.mean() + half], atol=0.05)
    assert metrics.mean_metric("m", [3.0]).as_dict() == {"value": 3.0, "n": 1, "interval": None, "features": ""}
    share = metrics.share_metric("s", [True, False, False, False])
    assert share.value == 25 and share.interval[0] > 0 and share.interval[1] < 75
    for make in (metrics.mean_metric, metrics.share_metric):
        with pytest.raises(ValueError, match="at least 1"):
            make("empty", [])
