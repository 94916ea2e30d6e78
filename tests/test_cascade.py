"""A photograph moved along a small clip, against clips rendered at both sizes."""

import numpy as np
import pytest
import torch

from trip.cascade import upsample
from trip.data.synthetic.procedural import procedural_bank
from trip.data.synthetic.scenes import camera_path, render_views
from trip.motion.camera import parse_camera
from trip.motion.drags import drag_motion, parse_drag

LARGE, SMALL, FRAMES = 96, 32, 6
PHOTO = procedural_bank(1, LARGE, photos=1, objects=1).photos[0]


def pixels(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255


def shrunk(clip: torch.Tensor, side: int = SMALL) -> torch.Tensor:
    return torch.nn.functional.interpolate(clip, (side, side), mode="bilinear", antialias=True)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


def rendered(kind: str = "pan_right", amount: float = 0.2) -> torch.Tensor:
    views = camera_path(kind, amount, LARGE, FRAMES)
    scale = 0.9 * min(PHOTO.width, PHOTO.height) / (LARGE * (1 + 2 * amount))
    return pixels(render_views(PHOTO, views, (PHOTO.width / 2, PHOTO.height / 2), scale, 1, LARGE))


def test_a_camera_move_is_sharper_than_the_enlarged_base_and_nearer_to_the_truth():
    truth = rendered()
    base = shrunk(truth)
    made = upsample(truth[0], base, height=LARGE, width=LARGE)
    enlarged = torch.nn.functional.interpolate(base, (LARGE, LARGE), mode="bicubic")
    assert torch.equal(made[0], truth[0]), "frame 1 is the photograph"
    assert psnr(made[1:], truth[1:]) > psnr(enlarged[1:], truth[1:]) + 1.5
    assert bool(made.isfinite().all()) and float(made.min()) >= 0 and float(made.max()) <= 1


def test_what_comes_into_sight_has_the_colours_of_the_base_and_no_seam():
    truth = rendered("pan_right", 0.25)
    made = upsample(truth[0], shrunk(truth), height=LARGE, width=LARGE)
    new = slice(LARGE - LARGE // 8, LARGE)
    mirrored = upsample(
        truth[0], None, height=LARGE, width=LARGE, motion=parse_camera("pan 0.25").motion(FRAMES, 32, 32)
    )
    assert psnr(made[-1, :, :, new], truth[-1, :, :, new]) > psnr(mirrored[-1, :, :, new], truth[-1, :, :, new])


def test_a_base_that_stands_still_up_to_a_models_errors_is_the_still():
    still = rendered()[0]
    noise = 0.01 * torch.randn(FRAMES, 3, SMALL, SMALL, generator=torch.Generator().manual_seed(0))
    made = upsample(still, shrunk(still.expand(FRAMES, -1, -1, -1)) + noise, height=LARGE, width=LARGE)
    assert psnr(made, still.expand_as(made)) > 45


def test_light_that_changes_survives():
    still = rendered()[0]
    gain = torch.tensor([1.0, 0.7, 0.5, 0.7, 1.0, 0.7])[:, None, None, None]
    made = upsample(still, shrunk(still * gain), height=LARGE, width=LARGE)
    torch.testing.assert_close(made.mean((1, 2, 3)), (still * gain).mean((1, 2, 3)), atol=0.03, rtol=0)
    assert psnr(made, still * gain) > 28


def test_rain_over_a_still_picture_falls_and_leaves_the_picture():
    still = rendered()[0]
    small = shrunk(still.expand(FRAMES, -1, -1, -1)).clone()
    for index in range(1, FRAMES):
        small[index, :, 4 * index : 4 * index + 3, 5::9] = 0.95
    made = upsample(still, small, height=LARGE, width=LARGE)
    drop = made[3, :, 38:42, 15:18].mean() - still[:, 38:42, 15:18].mean()
    dry = (made[3, :, :20] - still[:, :20]).abs().mean()
    assert float(drop) > 0.06 and float(dry) < 0.03


def test_motion_by_hand_needs_no_base():
    still = rendered()[0]
    motion = parse_camera("pan 0.25").motion(FRAMES, SMALL, SMALL)
    made = upsample(still, None, height=LARGE, width=LARGE, motion=motion)
    way = LARGE // 4
    assert made.shape == (FRAMES, 3, LARGE, LARGE)
    torch.testing.assert_close(made[-1, :, :, : -way - 4], still[:, :, way:-4], atol=1e-3, rtol=0)


def test_what_a_drag_uncovers_is_filled_from_around_it():
    still = torch.full((3, LARGE, LARGE), 0.2)
    still[:, 40:56, 20:36] = 0.9
    mask = torch.zeros(LARGE, LARGE)
    mask[40:56, 20:36] = 1
    motion = drag_motion([parse_drag("0.3,0.5:0.7,0.5")], FRAMES, LARGE, LARGE, masks=[mask])
    last = upsample(still, None, height=LARGE, width=LARGE, motion=motion)[-1]
    assert float(last[:, 44:52, 24:32].mean()) < 0.3 and float(last[:, 44:52, 62:70].mean()) > 0.8


def test_another_shape_and_size_of_photograph():
    truth = rendered()[:, :, :64]
    base = torch.nn.functional.interpolate(truth, (24, 32), mode="bilinear", antialias=True)
    large = torch.nn.functional.interpolate(truth[:1], (128, 192), mode="bicubic")[0].clamp(0, 1)
    made = upsample(large, base, height=64, width=96)
    assert made.shape == (FRAMES, 3, 64, 96) and psnr(made[1:], truth[1:]) > 18


def test_neither_base_nor_motion():
    with pytest.raises(ValueError, match="neither a base clip nor a motion"):
        upsample(rendered()[0], None, height=LARGE, width=LARGE)
