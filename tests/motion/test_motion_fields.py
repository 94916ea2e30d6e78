"""The algebra of displacement fields, as identities."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trip.motion import fields
from trip.motion.camera import CameraPath
from trip.motion.fields import Motion


def matrices(seed: int, count: int = 2) -> torch.Tensor:
    """Random affine maps near the identity."""
    rng = torch.Generator().manual_seed(seed)
    maps = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
    maps[:, :2] += 0.2 * torch.rand(count, 2, 3, generator=rng, dtype=torch.float64) - 0.1
    return maps


def bump(height: int = 32, width: int = 48, size: float = 0.05) -> torch.Tensor:
    """A smooth field that is far from affine, 1 2 h w."""
    x, y = fields.grid(height, width)
    swell = torch.exp(-((x - 0.5) ** 2 + (y - 0.33) ** 2) / 0.03)
    return torch.stack([size * swell, -0.5 * size * swell])[None]


def smooth_picture(height: int = 48, width: int = 64) -> torch.Tensor:
    x, y = fields.grid(height, width)
    return torch.stack([torch.sin(9 * x + 4 * y), torch.cos(7 * y - 3 * x), x * y])[None]


def test_one_pixel_to_the_right_is_one_over_the_width():
    picture = torch.arange(12.0).reshape(1, 1, 2, 6)
    field = fields.identity(1, 2, 6)
    field[:, 0] = 1 / 6
    moved = fields.warp(picture, field, mode="bilinear", border="replicate")[0, 0, 0]
    assert torch.allclose(moved, torch.tensor([[1.0, 2, 3, 4, 5, 5], [7, 8, 9, 10, 11, 11]]), atol=1e-5)


def test_y_is_in_widths_too():
    picture = torch.arange(12.0).reshape(1, 1, 2, 6)
    field = fields.identity(1, 2, 6)
    field[:, 1] = 1 / 6
    moved = fields.warp(picture, field, mode="nearest", border="zeros")[0, 0, 0]
    assert moved.tolist() == [[6, 7, 8, 9, 10, 11], [0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "nearest"])
def test_the_identity_changes_nothing(mode):
    picture = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    moved = fields.warp(picture, fields.identity(3, 16, 24), mode)
    assert moved.shape == (2, 3, 3, 16, 24)
    torch.testing.assert_close(moved, picture[:, :, None].expand_as(moved), atol=2e-5, rtol=0)


@settings(max_examples=12)
@given(st.integers(0, 10_000))
def test_affine_fields_compose_as_matrices_do_even_beyond_the_edge(seed):
    first, later = matrices(seed), matrices(seed + 1)
    composed = fields.compose(fields.from_matrices(first, 20, 30), fields.from_matrices(later, 20, 30))
    torch.testing.assert_close(composed, fields.from_matrices(first @ later, 20, 30), atol=2e-5, rtol=0)


@settings(max_examples=12)
@given(st.integers(0, 10_000))
def test_affine_fields_invert_as_matrices_do(seed):
    maps = matrices(seed)
    inverse = fields.invert(fields.from_matrices(maps, 20, 30))
    torch.testing.assert_close(inverse, fields.from_matrices(maps.inverse(), 20, 30), atol=2e-5, rtol=0)


@pytest.mark.parametrize("zoom", [0.25, 4.0])
def test_zooms_invert_where_the_plain_iteration_diverges(zoom):
    path = CameraPath(zoom=zoom)
    inverse = fields.invert(path.field(2, 24, 24))
    torch.testing.assert_close(inverse, CameraPath(zoom=1 / zoom).field(2, 24, 24), atol=1e-4, rtol=0)


def test_a_field_and_its_inverse_leave_everything_where_it_was():
    field = bump()
    inverse = fields.invert(field)
    assert float(fields.compose(field, inverse).abs().max()) < 1e-5
    assert float(fields.compose(inverse, field).abs().max()) < 1.5e-3  # bilinear between the inverse's pixels
    assert float(fields.round_trip(field, inverse).max()) < 2e-3


def test_warping_twice_is_warping_along_the_composition():
    picture, first, later = smooth_picture(), bump(48, 64), CameraPath(roll=4).field(2, 48, 64)[1:]
    once = fields.warp(picture, fields.compose(first, later))[:, :, 0]
    twice = fields.warp(fields.warp(picture, first)[:, :, 0], later)[:, :, 0]
    inner = (..., slice(6, -6), slice(6, -6))
    torch.testing.assert_close(once[inner], twice[inner], atol=5e-3, rtol=0)


def test_steps_accumulate_to_the_path_they_are_steps_of():
    path = CameraPath(zoom=1.4, roll=15, pan=(0.1, -0.05)).matrices(5, 24, 32)
    steps = torch.stack([path[i].inverse() @ path[i + 1] for i in range(4)])
    field = fields.accumulate(fields.from_matrices(steps, 24, 32))
    torch.testing.assert_close(field, fields.from_matrices(path, 24, 32), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(48, 64), (12, 16), (24, 32)])
def test_an_affine_field_means_the_same_at_every_size(size):
    path = CameraPath(zoom=1.3, pan=(0.2, 0.1))
    resized = fields.resize(path.field(3, 24, 32), *size)
    expected = path.field(3, *size)
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(resized[inner], expected[inner], atol=1e-5, rtol=0)


def test_a_rounded_size_stretches_y_with_the_picture():
    field = torch.full((1, 2, 40, 80), 0.1)
    resized = fields.resize(field, 41, 80)
    assert torch.allclose(resized[:, 0], torch.tensor(0.1)) and torch.allclose(resized[:, 1], torch.tensor(0.1025))
    assert fields.resize(field, 40, 80) is field


def test_a_field_of_another_size_warps_latents_and_pixels_alike():
    picture = smooth_picture(96, 128)
    small = torch.nn.functional.avg_pool2d(picture, 4)
    path = CameraPath(pan=(0.1, 0.05), roll=6)
    large = fields.warp(picture, path.field(2, 96, 128))[:, :, 1]
    shrunk = torch.nn.functional.avg_pool2d(large, 4)
    inner = (..., slice(5, -5), slice(5, -5))
    torch.testing.assert_close(
        fields.warp(small, path.field(2, 24, 32))[:, :, 1][inner], shrunk[inner], atol=1e-2, rtol=0
    )


def test_a_large_still_is_averaged_before_it_is_shrunk():
    checks = ((torch.arange(256)[:, None] + torch.arange(256)) % 2).float()[None, None]
    moved = fields.warp(checks, fields.identity(1, 32, 32))
    torch.testing.assert_close(moved, torch.full_like(moved, 0.5), atol=0.01, rtol=0)


def test_what_leaves_the_picture_is_not_visible():
    field = fields.identity(1, 8, 8)
    field[:, 0] = 0.25
    assert fields.inside(field)[0, 0, 0].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    assert float(fields.inside(fields.identity(1, 8, 8)).min()) == 1


def test_a_place_shown_twice_counts_twice_and_one_that_left_counts_nothing():
    field = fields.identity(1, 16, 16)
    field[:, 0, :, :8] = 0.5  # the left half shows the right half, which is also still there
    shown = fields.times_shown(field)[0, 0]
    assert torch.allclose(shown[:, 10:14], torch.tensor(2.0)) and torch.allclose(shown[:, 2:6], torch.tensor(0.0))


@pytest.mark.parametrize("zoom", [0.6, 1.7])
def test_a_zoom_shows_every_place_once(zoom):
    shown = fields.times_shown(CameraPath(zoom=zoom).field(2, 64, 64))[1, 0]
    torch.testing.assert_close(shown[26:38, 26:38].mean(), torch.tensor(1.0), atol=0.05, rtol=0)
    assert float(fields.stretch(CameraPath(zoom=zoom).field(2, 64, 64))[1].mean()) == pytest.approx(1 / zoom, abs=1e-4)


def test_interpolation_costs_nothing_at_whole_pixels_and_most_between_them():
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    field = fields.identity(3, 32, 32)
    for frame, pixels in enumerate((0.0, 1.0, 0.5)):
        field[frame, 0] = pixels / 32
    none, whole, half = fields.interpolation_spread(picture, field)[0, 0, :, 6:-6, 6:-6].mean((-1, -2)).tolist()
    assert none < 1e-3 and whole < 1e-3 and half > 0.03


def test_the_interpolation_spread_is_the_error_against_the_continuous_picture():
    rng = torch.Generator().manual_seed(1)
    waves = torch.rand(12, 4, generator=rng) * torch.tensor([2.0, 2.0, 2 * math.pi, 1.0]) + torch.tensor(
        [0.6, 0.6, 0, 0]
    )

    def picture(shift):
        x, y = fields.grid(32, 32) * 32
        terms = [w[3] * torch.sin(w[0] * (x + shift) + w[1] * y + w[2]) for w in waves]
        return torch.stack(terms).mean(0)[None, None]

    field = fields.identity(1, 32, 32)
    field[:, 0] = 0.5 / 32
    error = (fields.warp(picture(0.0), field)[:, :, 0] - picture(0.5))[..., 6:-6, 6:-6].square().mean().sqrt()
    measured = fields.interpolation_spread(picture(0.0), field)[..., 6:-6, 6:-6].square().mean().sqrt()
    assert float(measured) == pytest.approx(float(error), rel=0.35)


def test_motions_follow_each_other():
    first, later = CameraPath(pan=(0.25, 0)), CameraPath(pan=(0.25, 0))
    both = first.motion(3, 16, 16).then(later.motion(3, 16, 16))
    expected = CameraPath(pan=(0.5, 0)).motion(3, 16, 16)
    torch.testing.assert_close(both.field, expected.field, atol=1e-5, rtol=0)
    torch.testing.assert_close(both.visible, expected.visible, atol=0.51, rtol=0)
    assert both.visible[2, 0, 0].round().tolist() == expected.visible[2, 0, 0].round().tolist()


def test_a_motion_resizes_whole():
    small = CameraPath(pan=(0.25, 0)).motion(2, 16, 16).resize(32, 48)
    assert isinstance(small, Motion)
    assert small.field.shape == (2, 2, 32, 48) and small.visible.shape == small.confidence.shape == (2, 1, 32, 48)


def test_bicubic_interpolation_reproduces_ramps():
    x, y = fields.grid(16, 16)
    field = torch.full((1, 2, 16, 16), 0.37 / 16)
    moved = fields.warp((x + 2 * y)[None, None], field)[0, 0]
    inner = (..., slice(2, -3), slice(2, -3))
    torch.testing.assert_close(moved[inner], (x + 2 * y + 3 * 0.37 / 16)[None][inner], atol=1e-6, rtol=0)


def test_an_unknown_border_or_mode_is_one_clear_line():
    with pytest.raises(ValueError, match=r"border \(='mirror'\) is unknown; choose from reflect, replicate, zeros"):
        fields.warp(torch.zeros(1, 3, 8, 8), fields.identity(1, 8, 8), border="mirror")
    with pytest.raises(ValueError, match=r"mode \(='lanczos'\) is unknown; choose from bicubic, bilinear, nearest"):
        fields.warp(torch.zeros(1, 3, 8, 8), fields.identity(1, 8, 8), "lanczos")
