"""Camera paths: what the text says, and that paths are similarities."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trip.data.synthetic.scenes import _View, _view_matrix
from trip.motion import fields
from trip.motion.camera import EASES, CameraPath, parse_camera

paths = st.builds(
    CameraPath,
    zoom=st.floats(0.2, 5),
    pan=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    roll=st.floats(-180, 180),
    ease=st.sampled_from([*EASES]),
    centre=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)


def end(path: CameraPath, point: tuple[float, float], height: int = 32, width: int = 32) -> list[float]:
    """Place in the still of a place of the last frame."""
    return (path.matrices(3, height, width)[-1] @ torch.tensor([*point, 1.0], dtype=torch.float64))[:2].tolist()


@pytest.mark.parametrize(
    "text, path",
    [
        ("zoom 1.3, pan 0.2 0", CameraPath(zoom=1.3, pan=(0.2, 0))),
        ("zoom 1.3, pan 0.2 0, roll 10, ease in-out", CameraPath(zoom=1.3, pan=(0.2, 0), roll=10, ease="in-out")),
        ("  Zoom IN 2 ;pan left .1", CameraPath(zoom=2, pan=(-0.1, 0))),
        ("zoom out 2", CameraPath(zoom=0.5)),
        ("tilt up 0.1, pan right 0.2", CameraPath(pan=(0.2, -0.1))),
        ("tilt -0.1", CameraPath(pan=(0, -0.1))),
        ("pan 0.2", CameraPath(pan=(0.2, 0))),
        ("pan down 0.2", CameraPath(pan=(0, 0.2))),
        ("roll counterclockwise 5, ease-out", CameraPath(roll=-5, ease="out")),
        ("rotate 5, center 0 1, ease ease-in", CameraPath(roll=5, centre=(0, 1), ease="in")),
    ],
)
def test_the_text_means_the_path(text, path):
    assert parse_camera(text) == path


@settings(max_examples=15)
@given(paths)
def test_a_path_is_read_from_what_it_prints(path):
    assert parse_camera(str(path)) == path


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "'' is no move; use zoom, pan"),
        ("zoom 1.3,", "'' is no move"),
        ("dolly 2", "'dolly 2' is no move"),
        ("zoom", r"zoom \(=''\) takes 1 number"),
        ("zoom x", "is not 1 number"),
        ("zoom 0", "must be above 0"),
        ("zoom -2", "must be above 0"),
        ("zoom nan", "takes 1 number"),
        ("zoom inf", "takes 1 number"),
        ("zoom 1e9", "must be above 0 and at most 16"),
        ("zoom out 0.5", "must be at least 1"),
        ("zoom 1 2", "takes 1 number"),
        ("pan 1 2 3", "takes 1 or 2 numbers"),
        ("pan 5 0", r"pan \(=5.0 0.0\) must be within 2 widths"),
        ("roll 1e4", "within 720 degrees"),
        ("ease", "ease .* is unknown; choose from linear, in, out, in-out"),
        ("ease bouncy", "choose from linear"),
        ("centre 2 0", "outside the picture"),
        ("centre 0.5", "takes 2 numbers"),
        ("zoom 2, zoom 3", "zoom is given twice"),
    ],
)
def test_a_bad_text_is_one_clear_line(text, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_camera(text)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"camera (={text!r})")


@settings(max_examples=15)
@given(paths)
def test_every_view_is_a_similarity_that_starts_at_the_still(path):
    linear = path.matrices(4, 24, 32)[:, :2, :2]
    assert torch.equal(path.matrices(4, 24, 32)[0], torch.eye(3, dtype=torch.float64))
    gram = linear @ linear.transpose(1, 2)
    torch.testing.assert_close(gram, gram[:, :1, :1] * torch.eye(2, dtype=torch.float64), atol=1e-9, rtol=0)


def test_the_camera_looks_right_and_the_content_moves_left():
    assert end(CameraPath(pan=(0.2, 0)), (0.5, 0.5)) == pytest.approx([0.7, 0.5])


def test_a_zoom_leaves_its_centre_and_is_geometric():
    path = CameraPath(zoom=4, centre=(0.25, 0.5))
    assert end(path, (0.25, 0.25), 16, 32) == pytest.approx([0.25, 0.25])
    scales = path.matrices(3, 32, 32)[:, 0, 0].tolist()
    assert scales == pytest.approx([1, 0.5, 0.25])


def test_a_roll_turns_the_picture_clockwise_as_seen():
    """What is seen at the top after a quarter turn clockwise was at the left."""
    assert end(CameraPath(roll=90), (0.5, 0.0)) == pytest.approx([0.0, 0.5])


@pytest.mark.parametrize("kind, path", [("pan", CameraPath(pan=(0.2, -0.1))), ("zoom", CameraPath(zoom=1.5)),
                                        ("roll", CameraPath(roll=20)),
                                        ("all", CameraPath(pan=(0.1, 0.1), zoom=0.8, roll=-30))])  # fmt: skip
def test_directions_are_those_of_the_rendered_clips(kind, path):
    size = 32
    view = _View(path.pan[0] * size, path.pan[1] * size, path.zoom, math.radians(path.roll))
    rendered = _view_matrix(view, ((size - 1) / 2, (size - 1) / 2), 1.0, 1, size)  # pixel to pixel, centres at integers
    point = torch.tensor([3.0, 20.0])
    expected = (rendered @ [3.0, 20.0, 1.0] + 0.5) / size
    assert end(path, tuple(((point + 0.5) / size).tolist())) == pytest.approx(expected.tolist())


@pytest.mark.parametrize("ease, half", [("linear", 0.5), ("in", 0.25), ("out", 0.75), ("in-out", 0.5)])
def test_eases(ease, half):
    pan = CameraPath(pan=(1, 0), ease=ease).matrices(5, 8, 8)[:, 0, 2].tolist()
    assert pan[0] == 0 and pan[2] == half and pan[4] == 1 and pan == sorted(pan)


def test_one_frame_is_the_still():
    assert not CameraPath(zoom=2, pan=(1, 1)).field(1, 8, 8).any()


def test_the_motion_of_a_path_knows_what_it_leaves():
    motion = CameraPath(pan=(0.5, 0)).motion(3, 8, 8)
    assert motion.visible[:, 0].mean((-1, -2)).tolist() == [1, 0.75, 0.5]
    assert torch.equal(motion.confidence, torch.ones(3, 1, 8, 8))


@settings(max_examples=15)
@given(paths, paths)
def test_paths_compose_exactly(first, later):
    a, b = first.matrices(3, 12, 16), later.matrices(3, 12, 16)
    fused = fields.compose(fields.from_matrices(a, 12, 16), fields.from_matrices(b, 12, 16))
    torch.testing.assert_close(fused, fields.from_matrices(a @ b, 12, 16), atol=1e-2, rtol=1e-3)
