"""Drags: what is dragged arrives, and the rest stays."""

import math

import cv2
import numpy as np
import pytest
import torch

from trip.motion import fields
from trip.motion.drags import Drag, drag_motion, parse_drag, segment

RIGHT = parse_drag("0.3,0.5:0.6,0.5")


def square(height: int = 48, width: int = 64, left: float = 0.2, right: float = 0.4) -> torch.Tensor:
    """A mask of the middle rows between two shares of the width."""
    mask = torch.zeros(height, width)
    mask[height // 3 : 2 * height // 3, int(left * width) : int(right * width)] = 1
    return mask


def forward_of(motion: fields.Motion, point: tuple[float, float], frame: int = -1) -> list[float]:
    """Where a place of the still (in widths) is in a frame: the pixel that comes from nearest to it."""
    field = motion.field[frame]
    places = fields.grid(*field.shape[-2:])
    gap = (places + field - torch.tensor(point).view(2, 1, 1)).norm(dim=0)
    row, column = divmod(int(gap.argmin()), field.shape[-1])
    return places[:, row, column].tolist()


@pytest.mark.parametrize("text, points", [("0.1,0.2:0.3,0.4", ((0.1, 0.2), (0.3, 0.4))),
                                          (" 0, 1 : .5,.5: 1,0", ((0, 1), (0.5, 0.5), (1, 0)))])  # fmt: skip
def test_the_text_means_the_stroke(text, points):
    assert parse_drag(text).points == points
    assert parse_drag(str(parse_drag(text))) == parse_drag(text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "'' is not x,y"),
        ("0.1,0.2", "has 1 point"),
        ("0.1:0.2", "'0.1' is not x,y"),
        ("0.1,0.2:a,b", "'a,b' is not x,y"),
        ("0.1,0.2:0.3,0.4,0.5", "is not x,y"),
        ("0.1,0.2:0.3,1.4", "0.3,1.4 is outside the picture"),
        ("0.1,nan:0.3,0.4", "outside the picture"),
        ("-0.1,0.2:0.3,0.4", "outside the picture"),
        ("0.1,0.2:0.1,0.2", "has no length"),
    ],
)
def test_a_bad_text_is_one_clear_line(text, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_drag(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"drags": []}, "no drags"),
        ({"ease": "bouncy"}, "ease .* is unknown; choose from linear"),
        ({"masks": []}, "0 masks do not fit 1 drags"),
        ({"masks": [torch.zeros(48, 64)]}, "mask is empty"),
        ({"masks": [torch.ones(48, 64) * 255]}, "values from 255 to 255"),
        ({"masks": [torch.ones(64, 48)]}, "mask of 48 x 64 does not fit the picture's 64 x 48"),
        ({"masks": [torch.ones(1, 48, 64)]}, "does not fit"),
    ],
)
def test_bad_arguments_are_one_clear_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        drag_motion(**({"drags": [RIGHT], "num_frames": 4, "height": 48, "width": 64} | options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["0.3,0.5:0.6,0.5", "0.5,0.5:0.5,0.1", "0.2,0.8:0.5,0.5:0.8,0.8", "0.1,0.1:0.9,0.9"])
def test_a_dragged_point_takes_its_surroundings_along(text):
    drag = parse_drag(text)
    motion = drag_motion([drag], 9, 96, 128)
    for frame, share in ((4, 0.5), (8, 1.0)):
        start, goal = (drag.at(s, 96, 128) for s in (0.0, share))
        for offset in ((0, 0), (0.03, 0), (0, -0.03)):
            moved = forward_of(motion, tuple((start + torch.tensor(offset)).tolist()), frame)
            assert math.dist(moved, (goal + torch.tensor(offset)).tolist()) < 0.015


def test_what_is_far_from_a_drag_stays():
    motion = drag_motion([RIGHT], 5, 96, 128)
    places = fields.grid(96, 128)
    far = (places[1] - 0.375).abs() > 0.21
    assert not motion.field[:, :, far].any() and float(motion.visible[:, :, far].min()) == 1
    assert not motion.field[0].any()


def test_soft_drags_never_fold_however_long():
    motion = drag_motion([parse_drag("0.1,0.5:0.9,0.5")], 16, 64, 64)
    by_x, by_y = fields.gradients(motion.field)
    area = (1 + by_x[:, 0]) * (1 + by_y[:, 1]) - by_x[:, 1] * by_y[:, 0]
    assert float(area.min()) > 0


def test_several_drags_move_several_places():
    drags = [parse_drag("0.2,0.2:0.2,0.4"), parse_drag("0.8,0.8:0.8,0.6")]
    motion = drag_motion(drags, 5, 64, 64)
    assert math.dist(forward_of(motion, (0.2, 0.2)), (0.2, 0.4)) < 0.02
    assert math.dist(forward_of(motion, (0.8, 0.8)), (0.8, 0.6)) < 0.02


def test_a_masked_object_moves_as_one_piece_and_uncovers_what_it_left():
    mask = square()
    motion = drag_motion([RIGHT], 3, 48, 64, masks=[mask])
    moved = torch.zeros(48, 64)
    moved[:, 19:] = mask[:, :-19]  # 0.3 of 64 pixels
    shift = torch.tensor([-0.3, 0.0])
    assert torch.allclose(motion.field[2, :, moved > 0], shift[:, None], atol=1e-6)
    assert not motion.field[2, :, moved == 0].any()
    left = (mask > 0) & (moved == 0)
    assert not motion.visible[2, 0, left].any() and float(motion.visible[2, 0, ~left].min()) > 0.999


def test_a_masked_object_leaves_the_picture():
    motion = drag_motion([parse_drag("0.3,0.5:0.95,0.5")], 2, 48, 64, masks=[square()])
    assert float(motion.field[1, 0].min()) == pytest.approx(-0.65) and bool(
        (motion.visible[1, 0, 16:32, -8:] == 1).all()
    )


def test_two_drags_of_one_mask_turn_it():
    mask = square(64, 64, 0.3, 0.7)
    drags = [parse_drag("0.4,0.5:0.5,0.4"), parse_drag("0.6,0.5:0.5,0.6")]  # a quarter turn clockwise
    motion = drag_motion(drags, 2, 64, 64, masks=[mask, mask.clone()])
    assert math.dist(forward_of(motion, (0.35, 0.5)), (0.5, 0.35)) < 0.02
    assert motion.field.shape == (2, 2, 64, 64)


def test_three_drags_of_one_mask_shear_it():
    mask = square(64, 64, 0.2, 0.8)
    corners = ["0.3,0.4:0.4,0.4", "0.3,0.6:0.3,0.6001", "0.7,0.6:0.7,0.6001"]
    drags = [parse_drag(corners[0]), *(Drag(((x, y), (x, y - 0.003))) for x, y in ((0.3, 0.6), (0.7, 0.6)))]
    motion = drag_motion(drags, 2, 64, 64, masks=[mask] * 3)
    assert math.dist(forward_of(motion, (0.5, 0.4)), (0.6, 0.4)) < 0.025
    assert math.dist(forward_of(motion, (0.5, 0.6)), (0.5, 0.6)) < 0.02


def test_drags_that_fold_an_object_are_refused():
    mask = square(64, 64, 0.2, 0.8)
    drags = [parse_drag(text) for text in ("0.3,0.4:0.3,0.6", "0.7,0.4:0.7,0.6", "0.5,0.6:0.5,0.4")]
    with pytest.raises(ValueError, match="fold the object over"):
        drag_motion(drags, 2, 64, 64, masks=[mask] * 3)


def test_a_mask_with_a_broad_edge_bends():
    x, _ = fields.grid(64, 64)
    ramp = x.clamp(0, 1)
    motion = drag_motion([parse_drag("0.9,0.5:0.9,0.6")], 2, 64, 64, masks=[ramp])
    shift = motion.field[1, 1, 32, :60]
    assert torch.allclose(shift, -0.1 * x[32, :60], atol=0.006) and float(motion.visible[:, :, 8:].min()) == 1


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """A red disc on a noisy green ground, and its mask."""
    rng = np.random.default_rng(0)
    picture = np.full((96, 128, 3), (60, 140, 70), np.uint8)
    cv2.circle(picture, (45, 50), 18, (200, 40, 30), cv2.FILLED)
    noisy = np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255) / 255
    mask = (picture[..., 0] > 150).astype(np.float32)
    return torch.from_numpy(noisy.astype(np.float32)).permute(2, 0, 1), torch.from_numpy(mask)


def test_the_object_under_the_point_is_found():
    still, mask = scene()
    found = segment(still, (45 / 128, 50 / 96))
    union = ((found > 0.5) | (mask > 0.5)).sum()
    assert int(((found > 0.5) & (mask > 0.5)).sum()) > 0.95 * int(union)
    assert torch.equal(found, segment(still, (45 / 128, 50 / 96)))


def test_the_object_under_the_point_moves_and_a_second_drag_on_it_joins_in():
    still, _ = scene()
    drags = [parse_drag("0.32,0.5:0.57,0.5"), parse_drag("0.4,0.5:0.65,0.5")]
    motion = drag_motion(drags, 2, 96, 128, still=still)
    alone = drag_motion(drags[:1], 2, 96, 128, still=still)
    torch.testing.assert_close(motion.field, alone.field, atol=1e-5, rtol=0)
    shown = fields.warp(still[None], motion.field)[0, :, 1]
    assert float(shown[0, 50, 45 + 32]) > 0.6 and float(motion.visible[1, 0, 50, 45]) < 0.1


def test_where_nothing_stands_out_the_surroundings_flow():
    flat = torch.full((3, 64, 64), 0.5)
    assert segment(flat, (0.3, 0.5)) is None
    motion = drag_motion([RIGHT], 3, 64, 64, still=flat)
    torch.testing.assert_close(motion.field, drag_motion([RIGHT], 3, 64, 64).field)


def test_an_ease_changes_when_and_not_where():
    linear, slow = (drag_motion([RIGHT], 5, 32, 32, masks=[square(32, 32)], ease=ease) for ease in ("linear", "in"))
    torch.testing.assert_close(linear.field[-1], slow.field[-1])
    assert float(slow.field[2].abs().max()) == pytest.approx(0.3 * 0.25, abs=1e-5)
