"""What a caller hands over: one form, or one line."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from tiny_models import FRAMES, SIZE, TEXT, TOKENS, stable_diffusion_pipeline, trip_pipeline
from trip.inputs import Batch, as_images, numbers, own_schedule, scale_of_frames, size_of, to_pixels
from trip.pipeline import TripPipeline
from trip.text import count_tokens

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")


@pytest.fixture(scope="module")
def pipe() -> TripPipeline:
    made = trip_pipeline()
    made.set_progress_bar_config(disable=True)
    return made


def picture(size=(SIZE, SIZE)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def run(pipe, image=None, prompt="pan", **options):
    options = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0), "output_type": "pt", **options}
    return pipe(picture() if image is None else image, prompt, **options).frames


# ------------------------------------------------------------------------------------------------ what a picture is


@pytest.mark.parametrize(
    ("tag", "turn"),
    [
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: a.transpose(1, 0, 2)[:, ::-1]),
        (7, lambda a: a.transpose(1, 0, 2)[::-1, ::-1]),
        (8, lambda a: a.transpose(1, 0, 2)[::-1]),
    ],
)
def test_pictures_of_phones_stand_upright(tag, turn):
    stored = picture((12, 8))
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = tag
    stored.save(file, "PNG", exif=exif)
    (upright,) = as_images(Image.open(file))
    expected = turn(np.asarray(stored))
    assert np.array_equal(np.asarray(upright), expected) and size_of(upright) == expected.shape[:2]
    assert np.array_equal(np.asarray(as_images(upright)[0]), expected)  # once only


def test_hidden_colours_and_deep_greys():
    clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    deep = Image.fromarray(np.full((4, 4), 32768, np.uint16))
    pictures = {
        255: [clear, clear.convert("LA"), clear.convert("P")],
        128: [deep, Image.fromarray(np.full((4, 4), 0.5, np.float32)), deep.convert("I")],
    }
    for value, made in pictures.items():
        for image in made:
            assert abs(to_pixels(image, 4, 4) - (value / 127.5 - 1)).max() < 0.01, (value, image.mode)


@pytest.mark.parametrize("kind", ["array", "bytes", "batch", "list", "signed", "signed array", "tensor of bytes"])
def test_arrays_and_tensors_are_pictures(kind):
    image = picture((6, 4))
    array = np.asarray(image)
    floats = torch.from_numpy(array / 255).permute(2, 0, 1).float()
    given = {
        "array": array / 255,
        "bytes": array,
        "batch": array[None],
        "list": [array],
        "signed": floats * 2 - 1,
        "signed array": (array / 127.5 - 1)[None],
        "tensor of bytes": (floats * 255).round().byte(),
    }[kind]
    (still,) = as_images(given)
    assert_close(to_pixels(still, 4, 6), to_pixels(image, 4, 6), atol=1e-5, rtol=0)


def test_range_holds_for_all_pictures_of_a_call():
    bright, dark = torch.full((3, 4, 4), 0.5), torch.full((3, 4, 4), -1.0)
    assert float(as_images([bright, dark])[0].mean()) == 0.75 and float(as_images(bright)[0].mean()) == 0.5


# ------------------------------------------------------------------------------------------------- one clear line

E = torch.zeros(1, TOKENS, TEXT)
WRONG = [
    ({"image": np.zeros((4, 8, 8))}, r"array of shape \(4, 8, 8\).* is no picture"),
    ({"image": np.zeros((8, 8, 3), np.int64)}, "int64 is no picture"),
    ({"image": torch.full((3, 8, 8), -0.01)}, "neither .* clamp"),
    ({"image": np.zeros(3)}, "no picture"),
    ({"image": 7}, "must hold pictures"),
    ({"image": [picture(), None]}, "must hold pictures"),
    ({"prompt": 3}, r"prompt \(=3\) must be a text"),
    ({"prompt": []}, r"prompt \(=\[\]\) must be a text"),
    ({"prompt": ["pan", None]}, "must be a text"),
    ({"prompt": b"pan"}, "must be a text"),
    ({"prompt": "\ud800"}, "half a character"),
    ({"negative_prompt": 1.0}, r"negative_prompt \(=1.0\) must be a text"),
    ({"negative_prompt": ["a", "b"], "prompt": ["a", "b", "c"]}, "2 negative_prompts do not match 3"),
    ({"prompt_embeds": E}, "prompt and prompt_embeds are both given"),
    ({"negative_prompt": "x", "negative_prompt_embeds": E}, "negative_prompt and negative_prompt_embeds are both"),
    ({"prompt": None, "prompt_embeds": E[:, :7]}, "differ in tokens or width: .*7.*negative prompt"),
    ({"prompt": None, "prompt_embeds": E, "negative_prompt_embeds": E[:, :7]}, "differ in tokens"),
    ({"prompt": None, "prompt_embeds": torch.zeros(1, TOKENS, 5)}, "width 16"),
    ({"prompt": None, "prompt_embeds": E[0]}, "must be text features"),
    ({"prompt": None, "prompt_embeds": E * torch.nan}, "prompt_embeds have NaN"),
    ({"num_frames": 2.5}, r"num_frames \(=2.5\) must be a whole number"),
    ({"num_frames": "4"}, "must be a whole number"),
    ({"height": True}, r"height \(=True\) must be a whole number"),
    ({"width": None, "height": "8"}, "must be a whole number"),
    ({"num_inference_steps": None}, "num_inference_steps"),
    ({"num_inference_steps": 10**9}, "at most 10000"),
    ({"num_videos_per_prompt": 1.5}, "must be a whole number"),
    ({"guidance_scale": "7"}, r"guidance_scale \(='7'\) must be a finite number"),
    ({"guidance_scale": float("nan")}, "must be a finite number"),
    ({"guidance_scale": [1.0, None, 2.0, 3.0]}, "must hold numbers"),
    ({"guidance_scale": [1.0, float("inf"), 2.0, 3.0]}, "must be finite"),
    ({"image_guidance_scale": None}, "image_guidance_scale"),
    ({"guidance_rescale": 1.5}, r"guidance_rescale \(=1.5\) must be 0 to 1"),
    ({"motion_strength": float("inf")}, "motion_strength"),
    ({"eta": -1}, "eta"),
    ({"generator": 7}, r"generator \(=7\) must be a torch.Generator"),
    ({"generator": [None]}, "must be a torch.Generator"),
    ({"latents": np.zeros((1, 4, 4, 8, 8))}, "latents .* must be a float tensor"),
    ({"latents": torch.zeros(3)}, r"latents has shape \(3,\)"),
    ({"reference_latents": torch.zeros(1, 4, 1, 8, 8, dtype=torch.long)}, "must be a float tensor"),
    ({"output_type": 3}, "output_type"),
    ({"callback_on_step_end": 3}, "must be a function"),
    ({"decode_chunk_size": 0}, "decode_chunk_size"),
    ({"guidance_interval": 0.5}, r"must be \(low, high\)"),
    ({"guidance_every": 1.5}, "guidance_every"),
    ({"timesteps": [900, 100], "sigmas": [1.0, 0.1]}, "timesteps and sigmas are both given"),
    ({"timesteps": [100, 900]}, "must fall"),
    ({"timesteps": [900, 100]}, "DDIMScheduler takes no timesteps"),
    ({"sigmas": "x"}, "must be numbers"),
    ({"cross_attention_kwargs": {"gligen": 1}}, "LoRA"),
    ({"cross_attention_kwargs": {"scale": 0.5}}, "has no LoRA to scale"),
    ({"clip_skip": 9}, "leaves none of the encoder's 1 layers"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_arguments_are_one_line_before_any_work(pipe, monkeypatch, options, message):
    def work(*args, **kwargs):
        raise AssertionError("the autoencoder worked before the arguments were checked")

    monkeypatch.setattr(pipe.vae, "encode", work)
    with pytest.raises(ValueError, match=message) as error:
        run(pipe, **options)
    assert "\n" not in str(error.value)


def test_schedules_and_scales():
    assert own_schedule(None, None) is None and own_schedule([9, 5], None) == {"timesteps": [9, 5]}
    assert numbers("sigmas", np.array([1.0, 0.5])) == [1.0, 0.5]
    assert scale_of_frames("guidance_scale", torch.tensor(2)) == 2.0
    assert torch.equal(scale_of_frames("guidance_scale", (1, 2)), torch.tensor([1.0, 2.0]))


# --------------------------------------------------------------------------------------------------------- texts


def test_no_negative_prompt_is_the_empty_one(pipe):
    assert torch.equal(run(pipe, negative_prompt=None), run(pipe, negative_prompt=""))
    assert Batch.of(picture(), "pan").negative_prompts == [""]


def test_encode_prompt_has_diffusers_arguments(pipe):
    one, null = pipe.encode_prompt("pan", torch.device("cpu"), 2, True, "zoom")
    assert one.shape == null.shape == (2, TOKENS, TEXT) and torch.equal(one[0], one[1])
    assert_close(null[:1], pipe.encode_prompt("zoom", do_classifier_free_guidance=False)[0])
    assert pipe.encode_prompt("pan", do_classifier_free_guidance=False)[1] is None
    given, _ = pipe.encode_prompt(None, prompt_embeds=one[:1], num_videos_per_prompt=3)
    assert torch.equal(given, one[:1].repeat(3, 1, 1))
    skipped = pipe.encode_prompt("pan", clip_skip=1)[0]
    hidden = pipe.text_encoder(pipe.tokenizer("pan", padding="max_length", return_tensors="pt").input_ids)
    assert skipped.shape == (1, TOKENS, TEXT) and not torch.allclose(skipped, hidden.last_hidden_state)
    with pytest.raises(ValueError, match="2 texts do not match 3"):
        pipe.encode_prompt(["pan"] * 3, negative_prompt=["zoom"] * 2)
    with pytest.raises(ValueError, match=r"device \(='zoom'\) is no device"):
        pipe.encode_prompt("pan", "zoom")


def test_prompts_may_be_encoded_without_the_networks(tmp_path, pipe):
    pipe.save_pretrained(tmp_path)
    blind = TripPipeline.from_pretrained(tmp_path, unet=None, vae=None)
    assert torch.equal(blind.encode_prompt("pan")[0], pipe.encode_prompt("pan")[0])
    with pytest.raises(ValueError, match="this pipeline has no vae, unet"):
        run(blind)


def test_frames_of_a_list_of_arrays(pipe):
    assert run(pipe, [np.asarray(picture())] * 2, "pan", num_inference_steps=1).shape[:2] == (2, FRAMES)


def test_a_pipeline_that_could_not_be_loaded_again_is_not_saved(tmp_path):
    blind = trip_pipeline()
    blind.unet = blind.vae = None
    with pytest.raises(ValueError, match=r"^this pipeline has no vae, unet, so it would not load again"):
        blind.save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_model_of_stills_is_no_text_to_video_model():
    with pytest.raises(ValueError, match=r"^StableDiffusionPipeline makes stills, no clips"):
        TripPipeline.from_pipe(stable_diffusion_pipeline())


def test_encoding_a_prompt_says_what_is_not_read(pipe, caplog):
    from diffusers.utils import logging

    logging.enable_propagation()
    try:
        pipe.encode_prompt(["镜头", "a" * 40], do_classifier_free_guidance=False)
    finally:
        logging.disable_propagation()
    text = caplog.text
    assert 'does not know "镜头"' in text and "over the limit of" in text and "its end is cut" in text


def test_fitting_keeps_the_words_that_are_read_whole(pipe):
    fitting = pipe.fitting("pan left and " + "on and " * 20)
    assert fitting.startswith("pan")
    assert count_tokens(pipe.tokenizer, fitting) <= TOKENS < count_tokens(pipe.tokenizer, fitting + " and")
