"""Controls of a clip: what is given is there, what does not fit is said in one line."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close

from tiny_models import trip_pipeline, unet_config
from trip.controls import Controls, area_mask, seen_by
from trip.noise_fusion import LinearNoiseFusion, OptimalNoiseFusion
from trip.pipeline import TripPipeline
from trip.references import chunk_lengths
from trip.residual_unet import ResidualUNet3D

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

FRAMES, SIZE = 4, 16


def photo(seed: int, width: int = SIZE, height: int = SIZE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def pipe() -> TripPipeline:
    pipe = trip_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe: TripPipeline, image=None, **options):
    if "video" not in options and image is None:
        image = photo(0)
    options = {"num_inference_steps": 2, "output_type": "pt", "generator": torch.Generator().manual_seed(0), **options}
    return pipe(image, "pan", **options).frames


def reconstructed(pipe: TripPipeline, image: Image.Image) -> torch.Tensor:
    return run(pipe, image, motion_strength=0.0)[:, 0]


@pytest.mark.parametrize("number", [1, 3])
def test_a_keyframe_is_what_the_autoencoder_makes_of_it(pipe: TripPipeline, number: int) -> None:
    frames = run(pipe, keyframes={number: photo(1)})
    assert_close(frames[:, number], reconstructed(pipe, photo(1)), atol=1e-4, rtol=0)
    assert_close(frames[:, 0], reconstructed(pipe, photo(0)), atol=1e-4, rtol=0)


def test_the_last_image_is_a_keyframe_of_the_last_frame(pipe: TripPipeline) -> None:
    assert_close(run(pipe, last_image=photo(1)), run(pipe, keyframes={FRAMES - 1: photo(1)}))


def test_observed_frames_are_kept_and_the_first_is_the_picture(pipe: TripPipeline) -> None:
    frames = run(pipe, video=[photo(0), photo(1), photo(2)])
    for number in range(3):
        assert_close(frames[:, number], reconstructed(pipe, photo(number)), atol=1e-4, rtol=0)


def test_a_black_part_of_a_mask_is_the_still(pipe: TripPipeline) -> None:
    """In latents: the autoencoder's receptive field crosses the edge."""
    mask = np.zeros((SIZE, SIZE), np.float32)
    mask[:, SIZE // 2 :] = 1
    plain, masked = (run(pipe, output_type="latent", mask=m) for m in (None, mask))
    half = SIZE // 4
    first = masked[:, :, :1, :, :half].expand(-1, -1, FRAMES, -1, -1)
    assert_close(masked[:, :, :, :, :half], first)
    assert not torch.allclose(plain[:, :, 1:, :, :half], plain[:, :, :1, :, :half].expand(-1, -1, 3, -1, -1), atol=0.01)
    assert not torch.allclose(masked[:, :, 1:, :, half:], masked[:, :, :1, :, half:].expand(-1, -1, 3, -1, -1))


def test_a_latent_stands_still_with_all_of_its_pixels() -> None:
    mask = torch.zeros(8, 8)
    mask[:, 3:] = 1
    assert area_mask(mask, 4, 4)[0, 0, 0, 0].tolist() == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("options", [{"camera": "pan 0.5 0"}, {"drags": "0.2,0.5:0.7,0.5"}, {"loop": True}])
def test_every_control_changes_the_clip_and_keeps_the_picture(pipe: TripPipeline, options: dict) -> None:
    plain, told = run(pipe, output_type="latent"), run(pipe, output_type="latent", **options)
    assert torch.equal(plain[:, :, 0], told[:, :, 0]) and not torch.allclose(plain[:, :, 1:], told[:, :, 1:])


def test_nothing_said_is_the_paper_to_the_bit(pipe: TripPipeline) -> None:
    empty = {"keyframes": {}, "drags": [], "loop": False, "mask": None, "camera": None}
    assert torch.equal(run(pipe), run(pipe, **empty))


def test_a_camera_leads_every_picture_of_a_batch(pipe: TripPipeline) -> None:
    generators = [torch.Generator().manual_seed(k) for k in (0, 1)]
    both = run(pipe, [photo(0), photo(1)], camera="zoom 1.5", generator=generators)
    alone = run(pipe, photo(1), camera="zoom 1.5", generator=torch.Generator().manual_seed(1))
    assert_close(both[1:], alone, atol=1e-4, rtol=0)


def test_the_middle_of_an_oblong_picture_is_seen() -> None:
    assert seen_by(photo(0, 40, 20), 16, 16).size == (20, 20)  # pyright: ignore
    assert seen_by(torch.zeros(3, 20, 40), 8, 4).shape == (3, 20, 10)  # pyright: ignore


@pytest.mark.parametrize(
    "options, message",
    [
        ({"keyframes": {4: photo(1)}}, r"keyframe 4 lies outside the clip's frames 0 to 3"),
        ({"keyframes": {0: photo(1)}}, r"keyframe 0 is the picture itself"),
        ({"keyframes": {3: photo(1)}, "last_image": photo(2)}, r"frame 3 has two pictures; give one"),
        ({"keyframes": {-1: photo(1)}}, r"keyframe \(=-1\) must be at least 0"),
        ({"keyframes": [photo(1)]}, r"keyframes \(=.*\) must be pictures by frame number; pass a dict"),
        ({"last_image": "b.png"}, r"image \(='b.png'\) must hold pictures"),
        ({"loop": True, "last_image": photo(1)}, r"a loop ends where it begins"),
        ({"loop": True, "camera": "zoom 2"}, r"a loop comes back"),
        ({"mask": np.zeros((4, 8), np.float32)}, r"mask is black everywhere"),
        ({"mask": np.ones((4, 8), np.float32)}, r"mask of 8 x 4 does not fit the picture's 16 x 16"),
        ({"mask": np.full((4, 4), 255.0, np.float32)}, r"mask has values from 255 to 255; give 0"),
        ({"mask": "m.png"}, r"mask \(='m.png'\) must be a grey picture"),
        ({"drags": "0.5,0.5:1.5,0.5"}, r"drag \(=.*\): .* is outside the picture"),
        ({"drags": "0.5"}, r"drag \(='0.5'\): '0.5' is not x,y"),
        ({"camera": "fly 3"}, r"camera \(='fly 3'\): 'fly 3' is no move"),
        ({"drags": "0.2,0.5:0.7,0.5", "image": [photo(0), photo(1)]}, r"drags and masks belong to one picture, and 2"),
        ({"video": [photo(0)], "image": photo(0)}, r"image and video are both given"),
        ({"video": [photo(k) for k in range(5)]}, r"keyframe 4 lies outside"),
        ({"camera": "zoom 2", "num_frames": 1}, r"num_frames \(=1\) has no motion"),
    ],
)
def test_what_does_not_fit_is_one_line(pipe: TripPipeline, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as error:
        run(pipe, **options)
    assert "\n" not in str(error.value)


def test_a_fusion_without_a_measured_spread_is_named() -> None:
    pipe = trip_pipeline()
    pipe.fusion = LinearNoiseFusion()
    with pytest.raises(ValueError, match=r"^LinearNoiseFusion has no measured sigma"):
        run(pipe, loop=True)


def test_neither_image_nor_video_is_said(pipe: TripPipeline) -> None:
    with pytest.raises(ValueError, match=r"^image and video are not given; pass one"):
        pipe(prompt="pan")


def test_controls_without_anything_are_false() -> None:
    assert not Controls.of(4) and Controls.of(4, loop=True)


# --------------------------------------------------------------------------------------------------- long clips


@pytest.fixture(scope="module")
def long() -> TripPipeline:
    """A network and a fusion for at most eight frames."""
    torch.manual_seed(0)
    pipe = trip_pipeline()
    pipe.unet = ResidualUNet3D(**unet_config() | {"max_num_frames": 9})
    pipe.fusion = OptimalNoiseFusion(sigma=[0.0, *([0.3] * 7)])
    pipe.set_progress_bar_config(disable=True)
    return pipe


@given(num_frames=st.integers(1, 200), limit=st.integers(5, 40))
def test_chunks_make_as_many_frames_as_are_asked_for(num_frames: int, limit: int) -> None:
    lengths = chunk_lengths(num_frames, limit, 4)
    assert sum(lengths) - 4 * (len(lengths) - 1) == num_frames
    assert max(lengths) <= limit and (len(lengths) == 1 or min(lengths) > 4)


def test_a_long_clip_begins_as_a_short_one_and_goes_on(long: TripPipeline) -> None:
    short = run(long, num_frames=8, output_type="latent")
    whole = run(long, num_frames=14, output_type="latent")
    assert whole.shape[2] == 14 and torch.equal(whole[:, :, :8], short)
    assert not torch.allclose(whole[:, :, 8:14], short[:, :, 1:7], atol=0.01)
    assert run(long, num_frames=21).shape[1] == 21


def test_a_callback_sees_every_step_of_every_chunk(long: TripPipeline) -> None:
    seen = []
    run(long, num_frames=12, callback_on_step_end=lambda pipe, step, t, tensors: seen.append(step) or {})
    assert seen == [0, 1, 0, 1]


@pytest.mark.parametrize("options", [{"loop": True}, {"reference_latents": torch.zeros(1, 4, 1, 8, 8)}])
def test_what_a_long_clip_cannot_have_is_one_line(long: TripPipeline, options: dict) -> None:
    with pytest.raises(ValueError, match=r"^num_frames \(=9\) exceeds the model's 8, and a clip in chunks takes no "):
        run(long, num_frames=9, **options)
