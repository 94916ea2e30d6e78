"""Motion read off rendered clips, against the motion that they were rendered with."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from benchmarks.motion_fields import Truth, camera_truth, object_truth

from benchmarks import motion_fields
from trip.data.synthetic.procedural import procedural_bank
from trip.data.synthetic.scenes import draw_clip
from trip.motion import fields
from trip.motion.estimation import Estimate, estimate_motion

BANK = procedural_bank(3, 64, photos=3, objects=8)
SETTINGS = motion_fields.Settings(json=Path("unused"), num_frames=8)


def pixels(truth: Truth) -> torch.Tensor:
    return torch.from_numpy(truth.frames).permute(0, 3, 1, 2).float() / 255


def rendered(kind: str, seed: int = 0, speed: str = "normal") -> Truth:
    rng = np.random.default_rng([7, seed])
    if "move" in kind or "spin" in kind:
        return object_truth(rng, BANK.photos[seed % 3], BANK.objects[seed], kind, speed, SETTINGS)
    return camera_truth(rng, BANK.photos[seed % 3], kind, speed, SETTINGS)


def errors(found: Estimate, truth: Truth) -> torch.Tensor:
    """Distance of the fields in widths, later frames, f 1 h w."""
    return (found.field - truth.field).norm(dim=1, keepdim=True)[1:]


@pytest.mark.parametrize("kind", ["pan_left", "tilt_down", "zoom_in", "zoom_out", "rotate_clockwise"])
def test_a_camera_move_is_read_to_a_tenth_of_a_pixel_at_every_pixel(kind):
    truth = rendered(kind, seed=1)
    found = estimate_motion(pixels(truth))
    assert found.kind == "camera" and len(found.objects) == 0
    assert float(errors(found, truth).median()) < 0.0015 and float(errors(found, truth).max()) < 0.006
    gap = (found.visible - fields.inside(truth.field)).abs()
    assert float((gap > 0.5).float().mean()) < 0.01


def test_the_camera_is_a_similarity_of_every_frame():
    found = estimate_motion(pixels(rendered("rotate_clockwise")))
    linear = found.camera[:, :2, :2]
    gram = linear @ linear.transpose(1, 2)
    torch.testing.assert_close(gram, gram[:, :1, :1] * torch.eye(2, dtype=gram.dtype), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.field, fields.from_matrices(found.camera, 64, 64))


def test_nothing_drifts_over_a_long_clip():
    """Errors of a chain grow with its length; those against the first frame do not."""
    settings = motion_fields.Settings(json=Path("unused"), num_frames=32)
    truth = camera_truth(np.random.default_rng(3), BANK.photos[0], "pan_right", "slow", settings)
    found = estimate_motion(pixels(truth))
    early, late = errors(found, truth)[4:8].median(), errors(found, truth)[-4:].median()
    assert float(late) < 0.0015 and float(late) < 3 * float(early) + 0.0005


@pytest.mark.parametrize("kind, seed", [("move_left", 0), ("move_up", 2), ("spin_clockwise", 4)])
def test_an_object_moves_as_one_piece_over_a_still_ground(kind, seed):
    truth = rendered(kind, seed, "slow")
    found = estimate_motion(pixels(truth))
    error, mask = errors(found, truth), truth.mask[1:]
    assert found.kind == "objects" and len(found.objects) == 1
    assert float(error[mask].median()) < (0.01 if "spin" in kind else 0.006)
    assert float((error[~mask] < 0.002).float().mean()) > 0.85
    assert not found.field[0].any()


def test_what_an_object_uncovers_is_not_visible():
    truth = rendered("move_left", 0, "slow")
    found = estimate_motion(pixels(truth))
    left = truth.mask[0] & ~torch.nn.functional.max_pool2d(truth.mask[-1].float()[None], 5, 1, 2)[0].bool()
    assert float(found.visible[-1][left].mean()) < 0.2
    assert float(found.visible[-1][truth.mask[-1]].mean()) > 0.8 and float(found.visible[0].mean()) > 0.9


@pytest.mark.parametrize("kind", ["still", "flicker"])
def test_what_does_not_move_stands_exactly_still(kind):
    clip = draw_clip(np.random.default_rng(1), BANK, kind=kind, num_frames=6)
    found = estimate_motion(torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 255)
    assert found.kind == "still" and not found.field.any() and float(found.visible.min()) == 1


def test_ripples_are_followed_by_dense_flow():
    clip = draw_clip(np.random.default_rng(2), BANK, kind="ripple", num_frames=8)
    frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 255
    found = estimate_motion(frames)
    shown = fields.warp(frames[:1], found.field)[0].transpose(0, 1)
    inner = (slice(1, None), slice(None), slice(6, -6), slice(6, -6))
    gain = (frames[:1] - frames)[inner].square().mean() / (shown - frames)[inner].square().mean()
    assert found.kind == "dense" and float(gain) > 5


def test_confidence_is_high_where_the_moved_still_shows_the_frame_and_low_where_not():
    truth = rendered("pan_left", seed=1)
    clip = pixels(truth)
    clip[4:, :, 20:44, 20:44] = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0))
    found = estimate_motion(clip)
    seen = found.visible[2:4] > 0.9
    assert float(found.confidence[2:4][seen].median()) > 0.9
    assert float(found.confidence[5:, :, 26:38, 26:38].median()) < 0.5


def test_the_size_of_the_clip_does_not_matter():
    small = pixels(rendered("zoom_in", seed=1))
    large = torch.nn.functional.interpolate(small, (256, 256), mode="bicubic").clamp(0, 1)
    fine, coarse = estimate_motion(large), estimate_motion(small)
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    torch.testing.assert_close(fields.resize(fine.field, 64, 64)[inner], coarse.field[inner], atol=0.002, rtol=0)


def test_an_oblong_clip():
    clip = pixels(rendered("tilt_up", seed=1))
    truth = estimate_motion(clip)
    wide = estimate_motion(clip[:, :, 8:56])
    torch.testing.assert_close(wide.field, truth.field[:, :, 8:56], atol=0.003, rtol=0)


def test_the_estimate_does_not_depend_on_the_number_of_threads():
    clip, threads, found = pixels(rendered("pan_left")), cv2.getNumThreads(), []
    try:
        for count in (1, 2):
            cv2.setNumThreads(count)
            found.append(estimate_motion(clip[:4]))
    finally:
        cv2.setNumThreads(threads)
    assert torch.equal(found[0].field, found[1].field)


@pytest.mark.parametrize(
    "clip, message",
    [
        (torch.zeros(1, 3, 32, 32), "1 frame has no motion"),
        (torch.zeros(3, 3, 8, 32), "32 x 8 pixels are too few"),
        (torch.full((3, 3, 32, 32), float("nan")), "NaN or infinite"),
    ],
)
def test_a_clip_without_motion_to_read_is_one_clear_line(clip, message):
    with pytest.raises(ValueError, match=message) as error:
        estimate_motion(clip)
    assert "\n" not in str(error.value)


def test_a_uniform_clip_stands_still():
    assert estimate_motion(torch.full((3, 3, 32, 32), 0.5)).kind == "still"


def test_the_benchmark_reports_every_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(motion_fields, "OBJECT_KINDS", ("move_left",))
    monkeypatch.setattr(motion_fields, "CAMERA_KINDS", ("pan_left",))
    report = motion_fields.run(motion_fields.Settings(json=tmp_path / "out.json", count=1, num_frames=4))
    assert set(report["kinds"]) == {"pan_left", "move_left"}
    assert set(report["kinds"]["move_left"]) > {"n", "right", "object_median", "rest_median"}
    with pytest.raises(ValueError, match=r"count \(=0\) must be at least 1"):
        motion_fields.run(motion_fields.Settings(json=tmp_path / "out.json", count=0))
