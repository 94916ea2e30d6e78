"""The pipeline on tiny random, but real, components."""

import json
import string

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet3DConditionModel, UNetMotionModel
from PIL import Image
from torch.testing import assert_close
from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tiny_models import tiny_vae
from trip import sampler
from trip.condition import Condition, first_frame
from trip.denoiser import TripDenoiser
from trip.foreign import PerFrameText
from trip.guidance import Guidance
from trip.inputs import Batch, to_pixels
from trip.noise_fusion import OptimalNoiseFusion, TemporalNoiseFusion, TrainingFreeNoiseFusion
from trip.pipeline import TripPipeline
from trip.residual_unet import ResidualUNet3D

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

FRAMES, SIZE, TEXT = 4, 16, 16
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
UNET = {
    "sample_size": SIZE // 2,
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": TEXT,
    "attention_head_dim": 4,
}
MOTION_UNET = {
    **{name: value for name, value in UNET.items() if name != "attention_head_dim"},
    "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
    "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
    "num_attention_heads": 2,
    "motion_num_attention_heads": 2,
    "motion_max_seq_length": 8,
}


def tiny_tokenizer() -> CLIPTokenizer:
    """Every letter a token, and the letter that ends a word another."""
    pieces = [
        "<|startoftext|>",
        "<|endoftext|>",
        *string.ascii_lowercase,
        *(c + "</w>" for c in string.ascii_lowercase),
    ]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=12)


def tiny_text_encoder() -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=54, hidden_size=TEXT, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=12, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return CLIPTextModel(config)


def make(seed=0, **parts) -> TripPipeline:
    torch.manual_seed(seed)
    components = {
        "vae": tiny_vae(),
        "text_encoder": tiny_text_encoder(),
        "tokenizer": tiny_tokenizer(),
        "unet": ResidualUNet3D(**UNET),
        "fusion": OptimalNoiseFusion(sigma=[0.0, 0.3, 0.5, 0.6]),
        "scheduler": DDIMScheduler(**SD, set_alpha_to_one=False, steps_offset=1),
        **parts,
    }
    return quiet(TripPipeline(**components))


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipe


def picture(seed=0, size=(SIZE, SIZE)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def seeded(*seeds):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators[0] if len(seeds) == 1 else generators


@pytest.fixture(scope="module")
def pipe() -> TripPipeline:
    return make()


def run(pipe, image=None, prompt="pan", seeds=(0,), steps=3, output_type="pt", **options):
    image = picture() if image is None else image
    options = {
        "num_inference_steps": steps,
        "generator": seeded(*seeds),
        "output_type": output_type,
        **options,
    }
    return pipe(image, prompt, **options).frames


# --------------------------------------------------------------------------------------------- outputs, seeds


def test_output_types(pipe):
    tensor = run(pipe)
    assert tensor.shape == (1, FRAMES, 3, SIZE, SIZE)
    assert tensor.min() >= 0 and tensor.max() <= 1
    array = run(pipe, output_type="np")
    assert array.shape == (1, FRAMES, SIZE, SIZE, 3)
    stills = run(pipe, output_type="pil")
    assert len(stills) == 1 and len(stills[0]) == FRAMES and stills[0][0].size == (SIZE, SIZE)
    latents = run(pipe, output_type="latent")
    assert latents.shape == (1, 4, FRAMES, SIZE // 2, SIZE // 2)
    assert_close(torch.from_numpy(array).permute(0, 1, 4, 2, 3), tensor)
    assert isinstance(run(pipe, output_type="pt"), torch.Tensor)
    assert isinstance(pipe(picture(), "pan", num_inference_steps=1, return_dict=False), tuple)


def test_same_seed_same_bytes(pipe):
    assert torch.equal(run(pipe), run(pipe))
    assert (run(pipe) - run(pipe, seeds=(1,))).abs().max() > 0.01


def test_batch_equals_singles(pipe):
    """Row 8: 4 pictures, prompts and seeds at once or one by one, 50 guided steps."""
    images, prompts = [picture(k) for k in range(4)], ["pan", "zoom", "pan", "tilt up"]
    options = {"steps": 50, "guidance_scale": 5.0, "guidance_rescale": 0.3, "num_frames": 2, "height": 8, "width": 8}
    batch = run(pipe, images, prompts, seeds=range(4), **options)
    for k in range(4):
        single = run(pipe, images[k], prompts[k], seeds=(k,), **options)
        assert_close(batch[k : k + 1], single, atol=1e-3, rtol=0)


def test_batch_equals_singles_with_a_stochastic_scheduler(pipe):
    batch = run(pipe, picture(), ["pan", "zoom"], seeds=(3, 4), eta=1.0)
    single = run(pipe, picture(), "zoom", seeds=(4,), eta=1.0)
    assert_close(batch[1:], single, atol=1e-3, rtol=0)


def test_clips_of_one_generator_are_drawn_one_after_the_other(pipe):
    both = run(pipe, num_videos_per_prompt=2, output_type="latent")
    assert_close(both[:1], run(pipe, output_type="latent"), atol=1e-4, rtol=0)
    generator = seeded(0)
    run(pipe, generator=generator)
    assert_close(both[1:], run(pipe, generator=generator, output_type="latent"), atol=1e-4, rtol=0)


def test_order_of_several_clips(pipe):
    """Clip k of prompt i is number i * num_videos_per_prompt + k."""
    clips = run(pipe, picture(), ["pan", "zoom"], seeds=(0, 1, 2, 3), num_videos_per_prompt=2)
    assert_close(clips[2:3], run(pipe, picture(), "zoom", seeds=(2,)), atol=1e-3, rtol=0)


def test_images_and_texts_are_encoded_once(pipe, monkeypatch):
    calls = {"vae": 0, "text": 0}
    encode, forward = pipe.vae.encode, pipe.text_encoder.forward

    def count_images(pixels, *args, **kwargs):
        calls["vae"] += len(pixels)
        return encode(pixels, *args, **kwargs)

    def count_texts(ids, *args, **kwargs):
        calls["text"] += len(ids)
        return forward(ids, *args, **kwargs)

    monkeypatch.setattr(pipe.vae, "encode", count_images)
    monkeypatch.setattr(pipe.text_encoder, "forward", count_texts)
    run(pipe, picture(), ["pan", "zoom", "pan"], num_videos_per_prompt=2, steps=2)
    assert calls == {"vae": 1, "text": 3}  # "pan", "zoom" and the empty negative prompt


# ------------------------------------------------------------------------------------------------ first frame


@pytest.mark.parametrize(
    "scheduler",
    ["DDIMScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler"],
)
def test_first_frame_is_the_reconstruction(pipe, scheduler):
    """Row 7, by construction: any scheduler, any guidance, any weights."""
    pipe = make(scheduler=getattr(diffusers, scheduler).from_config(pipe.scheduler.config))
    image = picture(5)
    with torch.no_grad():
        latent = pipe.vae.encode(to_pixels(image, SIZE, SIZE)).latent_dist.mode()
        expected = (pipe.vae.decode(latent).sample / 2 + 0.5).clamp(0, 1)
    assert_close(run(pipe, image, guidance_scale=9.0)[:, 0], expected, atol=1e-4, rtol=0)


def test_motion_strength_zero_is_the_still():
    pipe = make(scheduler=diffusers.DPMSolverMultistepScheduler(beta_schedule="scaled_linear"))
    frames = run(pipe, motion_strength=0.0)
    assert_close(frames, frames[:, :1].expand_as(frames), atol=1e-4, rtol=0)


def test_reference_latents_replace_the_image(pipe):
    keyframes = torch.randn(1, 4, FRAMES, SIZE // 2, SIZE // 2, generator=seeded(0))
    scheduler = diffusers.UniPCMultistepScheduler(beta_schedule="scaled_linear")
    latents = run(make(scheduler=scheduler), reference_latents=keyframes, motion_strength=0.0, output_type="latent")
    assert_close(latents, keyframes, atol=1e-3, rtol=0)


# ------------------------------------------------------------------------------------------------------ sizes


def test_images_are_resized_to_cover(pipe):
    assert run(pipe, picture(size=(40, 24))).shape[-2:] == (SIZE, SIZE)
    assert run(pipe, picture(), height=12, width=20, steps=1).shape[-2:] == (12, 20)
    assert run(pipe, num_frames=2, steps=1).shape[1] == 2


def test_tensors_and_pictures_agree():
    image = picture(size=(20, 12))
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    assert_close(to_pixels(image, 12, 20), to_pixels(tensor, 12, 20))
    assert to_pixels(tensor, 16, 16).shape == (1, 3, 16, 16)


def test_tensor_batch_is_a_batch(pipe):
    tensor = torch.rand(2, 3, SIZE, SIZE, generator=seeded(0))
    both = run(pipe, tensor, seeds=(0, 1))
    assert_close(both[1:], run(pipe, tensor[1], seeds=(1,)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("chunk", [1, 3])
def test_decoding_in_chunks_changes_nothing(pipe, chunk):
    assert_close(run(pipe, decode_chunk_size=chunk), run(pipe), atol=1e-5, rtol=0)


def test_autoencoder_tiny():
    blocks = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    vae = AutoencoderTiny(**blocks, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=4)
    pipe = make(vae=vae)
    latent = pipe.encode_image(to_pixels(picture(), SIZE, SIZE))
    assert_close(latent[:, :, 0], vae.encode(to_pixels(picture(), SIZE, SIZE)).latents)
    assert run(pipe).shape == (1, FRAMES, 3, SIZE, SIZE)


# ------------------------------------------------------------------------------------------------ text, dtype


def test_embeddings_in_place_of_prompts(pipe):
    embeds, negative = pipe.encode_prompt("pan", negative_prompt="")
    actual = run(pipe, prompt=None, prompt_embeds=embeds, negative_prompt_embeds=negative)
    assert torch.equal(actual, run(pipe, prompt="pan"))


def test_any_encoder_with_last_hidden_state_and_zeroed_padding():
    bert = BertConfig(
        vocab_size=54, hidden_size=TEXT, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32,
    )  # fmt: skip
    pipe = make(text_encoder=BertModel(bert, add_pooling_layer=False), zero_text_padding=True, max_text_length=9)
    embeds, _ = pipe.encode_prompt(["pan", "zooms"])
    assert embeds.shape == (2, 9, TEXT)
    assert embeds[0, 5:].abs().max() == 0 and embeds[0, 4].abs().max() > 0
    assert run(pipe).shape[1] == FRAMES


def test_negative_prompt_matters_only_under_guidance(pipe):
    assert (run(pipe, negative_prompt="zoom") - run(pipe)).abs().max() > 1e-5
    unguided = {"guidance_scale": 1.0}
    assert torch.equal(run(pipe, negative_prompt="zoom", **unguided), run(pipe, **unguided))


def test_guidance_ramp(pipe):
    assert torch.equal(run(pipe, guidance_scale=[5.0] * FRAMES), run(pipe, guidance_scale=5.0))
    assert not torch.equal(run(pipe, guidance_scale=[1.0, 2.0, 3.0, 4.0]), run(pipe, guidance_scale=5.0))


def test_guidance_where_and_how_often_it_is_asked_for(pipe):
    """Outside the interval the clip is that without guidance; kept guidance is guidance, but not the same clip."""
    guided, plain = run(pipe, guidance_scale=5.0), run(pipe, guidance_scale=1.0)
    assert torch.equal(run(pipe, guidance_scale=5.0, guidance_interval=(1.0, 1.0)), plain)
    assert torch.equal(run(pipe, guidance_scale=5.0, guidance_interval=(0.0, 1.0), guidance_every=1), guided)
    kept = run(pipe, guidance_scale=5.0, guidance_every=3)
    assert not torch.equal(kept, guided) and not torch.equal(kept, plain)


def test_bfloat16(pipe):
    half = make().to(dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert_close(run(half), run(pipe), atol=0.1, rtol=0)


# -------------------------------------------------------------------------------------------------- callbacks


def test_callback_sees_and_replaces_tensors(pipe):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, int(timestep), sorted(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 2 else None

    names = ["latents", "denoised_latents", "negative_prompt_embeds"]
    options = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": names}
    assert run(pipe, output_type="latent", **options).abs().max() == 0
    assert [step for step, *_ in seen] == [0, 1, 2] and seen[0][2] == sorted(names)
    assert pipe.num_timesteps == 3


def test_interrupt(pipe):
    steps = []

    def callback(pipe, step, timestep, tensors):
        steps.append(step)
        pipe._interrupt = step == 1

    run(pipe, steps=5, callback_on_step_end=callback)
    assert steps == [0, 1]


# -------------------------------------------------------------------------------------------- saving, loading


@pytest.mark.parametrize("fusion", [OptimalNoiseFusion, TemporalNoiseFusion, TrainingFreeNoiseFusion])
def test_save_and_load_give_the_same_clip(tmp_path, fusion):
    pipe = make(fusion=fusion(), zero_text_padding=True, max_text_length=11)
    expected = run(pipe, num_frames=FRAMES)
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["unet"] == ["trip.residual_unet", "ResidualUNet3D"]
    assert index["fusion"] == ["trip.noise_fusion", fusion.__name__]
    assert not list(tmp_path.rglob("*.bin"))
    loaded = quiet(TripPipeline.from_pretrained(tmp_path))
    assert loaded.config.zero_text_padding and loaded.config.max_text_length == 11
    assert torch.equal(run(loaded, num_frames=FRAMES), expected)
    assert TripPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16).unet.dtype == torch.bfloat16


def test_components_may_be_passed_or_left_out(tmp_path, pipe):
    pipe.save_pretrained(tmp_path)
    tokens = {"text_encoder": pipe.text_encoder, "tokenizer": pipe.tokenizer}
    assert torch.equal(run(quiet(TripPipeline.from_pretrained(tmp_path, **tokens))), run(pipe))
    blind = quiet(TripPipeline.from_pretrained(tmp_path, text_encoder=None, tokenizer=None))
    with pytest.raises(ValueError, match="no text encoder"):
        run(blind)


def test_scheduler_that_clips_is_replaced():
    scheduler = DDIMScheduler()
    assert scheduler.config.clip_sample
    pipe = make(scheduler=scheduler)
    assert not pipe.scheduler.config.clip_sample
    assert scheduler.config.clip_sample


# --------------------------------------------------------------------------------------- text-to-video models


def text_to_video(prediction_type="epsilon"):
    """ModelScopeT2V's layout."""
    torch.manual_seed(1)
    return diffusers.TextToVideoSDPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_text_encoder(),
        tokenizer=tiny_tokenizer(),
        unet=UNet3DConditionModel(**UNET),
        scheduler=DDIMScheduler(**SD, prediction_type=prediction_type),
    )


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_modelscope_becomes_image_to_video(tmp_path, prediction_type):
    source = quiet(text_to_video(prediction_type))
    pipe = quiet(TripPipeline.from_text_to_video(source))
    assert isinstance(pipe.unet, ResidualUNet3D)
    assert pipe.fusion.concat == "none" and pipe.fusion.config.prediction_type == prediction_type
    assert pipe.unet.conv_in.weight.data_ptr() == source.unet.conv_in.weight.data_ptr()
    frames = run(pipe, num_frames=FRAMES)
    pipe.save_pretrained(tmp_path)
    assert torch.equal(run(quiet(TripPipeline.from_pretrained(tmp_path)), num_frames=FRAMES), frames)


def test_training_free_without_the_prior_is_the_text_to_video_model():
    """With sigma so large that the prior has no weight, the clip is the source pipeline's own."""
    source = quiet(text_to_video())
    fusion = TrainingFreeNoiseFusion(sigma=[1e4] * FRAMES)
    pipe = quiet(TripPipeline.from_text_to_video(source, fusion=fusion))
    noise = torch.randn(1, 4, FRAMES, SIZE // 2, SIZE // 2, generator=seeded(0))
    common = {"num_inference_steps": 5, "latents": noise, "guidance_scale": 6.0, "output_type": "latent"}
    expected = source("pan", num_frames=FRAMES, height=SIZE, width=SIZE, negative_prompt="", **common).frames
    actual = pipe(picture(), "pan", num_frames=FRAMES, exact_first_frame=False, **common).frames
    assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_a_saved_text_to_video_folder(tmp_path):
    source = quiet(text_to_video())
    source.save_pretrained(tmp_path)
    pipe = quiet(TripPipeline.from_text_to_video(tmp_path, dtype=torch.float32))
    expected = run(quiet(TripPipeline.from_text_to_video(source.components)), num_frames=FRAMES)
    assert torch.equal(run(pipe, num_frames=FRAMES), expected)


def test_animatediff_becomes_image_to_video(tmp_path):
    torch.manual_seed(2)
    source = diffusers.AnimateDiffPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_text_encoder(),
        tokenizer=tiny_tokenizer(),
        unet=UNetMotionModel(**MOTION_UNET),
        motion_adapter=None,
        scheduler=DDIMScheduler(**{**SD, "beta_schedule": "linear"}),
    )
    pipe = quiet(TripPipeline.from_text_to_video(source))
    assert isinstance(pipe.unet, UNetMotionModel) and pipe.max_num_frames == 8
    frames = run(pipe, num_frames=FRAMES)
    pipe.save_pretrained(tmp_path)
    assert torch.equal(run(quiet(TripPipeline.from_pretrained(tmp_path)), num_frames=FRAMES), frames)


def test_incomplete_text_to_video_model():
    with pytest.raises(ValueError, match=r"no unet, scheduler; pass"):
        TripPipeline.from_text_to_video({"vae": 1, "text_encoder": 2, "tokenizer": 3})


def test_foreign_backbone_through_denoiser_and_sampler():
    torch.manual_seed(3)
    denoiser = TripDenoiser(PerFrameText(UNetMotionModel(**MOTION_UNET)), OptimalNoiseFusion(sigma=[0.0, 0.5, 0.7]))
    z_T, image = torch.randn(2, 4, 3, 8, 8), torch.randn(2, 4, 1, 8, 8)
    text, null = torch.randn(2, 2, 5, TEXT)
    condition = Condition(reference=image, image=image, pinned=first_frame(3), text=text, null_text=null)
    options = {"steps": 3, "guidance": Guidance(scale=3.0)}
    with torch.no_grad():
        *_, step = sampler.sample(denoiser.eval(), diffusers.UniPCMultistepScheduler(), z_T, condition, **options)
    assert step.z_t.shape == z_T.shape and step.z_t.isfinite().all()
    assert torch.equal(step.z_t[:, :, :1], image)


# ----------------------------------------------------------------------------------------------------- errors


NAN = torch.full((1, 4, 1, 8, 8), torch.nan)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 5}, r"num_frames \(=5\) exceeds the model's 4; shorten"),
        ({"num_frames": 0}, r"num_frames \(=0\) must be at least 1"),
        ({"height": 15}, r"height \(=15\) is not a positive multiple of 2; use 16"),
        ({"width": 0}, r"width \(=0\) is not a positive multiple of 2; use 2"),
        ({"num_inference_steps": 0}, r"num_inference_steps \(=0\)"),
        ({"prompt": None}, "prompt .* is missing"),
        ({"prompt": 7 * ["pan"], "image": [picture()] * 2}, r"2 images do not match 7 clips"),
        ({"prompt": "word " * 10_000}, r"has 40002 tokens, over the limit of 12; shorten it"),
        ({"negative_prompt": "a very long negative one"}, "tokens, over the limit"),
        ({"generator": seeded(0, 1, 2)}, "3 generators do not match 1 clips"),
        ({"guidance_scale": [1.0, 2.0]}, "one for each of 4 frames"),
        ({"output_type": "gif"}, r"output_type \(='gif'\) is unknown"),
        ({"callback_on_step_end_tensor_inputs": ["z"]}, "callback tensors"),
        ({"reference_latents": NAN}, "reference_latents have NaN or infinite values; check how"),
        ({"reference_latents": torch.zeros(1, 4, 3, 8, 8)}, r"reference_latents has shape"),
        ({"reference_latents": torch.zeros(1, 4, 1, 4, 8)}, r"has shape \(1, 4, 1, 4, 8\)"),
        ({"latents": torch.zeros(1, 4, 1, 8, 8)}, "latents has shape"),
        ({"image": torch.full((3, 8, 8), torch.nan)}, "no picture"),
        ({"image": torch.zeros(4, 8, 8)}, "no picture"),
        ({"image": torch.full((3, 8, 8), 255.0)}, "no picture"),
        ({"image": []}, "must hold pictures"),
        ({"guidance_interval": (0.9, 0.1)}, r"guidance_interval \(=0.9, 0.1\) must be 0 <= low <= high <= 1; correct"),
        ({"guidance_every": 0}, r"guidance_every \(=0\) must be at least 1; raise it"),
    ],
)
def test_wrong_inputs_are_one_clear_line(pipe, options, message):
    with pytest.raises(ValueError, match=message) as error:
        run(pipe, **options)
    assert "\n" not in str(error.value)


def test_file_names_are_not_pictures():
    with pytest.raises(ValueError, match="must hold pictures; pass PIL images or tensors"):
        Batch.of(["a.png"], "pan")


def test_image_guidance_needs_a_network_that_sees_the_image():
    with pytest.raises(ValueError, match="does not see the image"):
        run(make(fusion=TrainingFreeNoiseFusion()), image_guidance_scale=2.0)


def test_nan_in_the_network_is_one_clear_line():
    pipe = make()
    torch.nn.init.constant_(pipe.unet.conv_out.bias, torch.nan)
    with pytest.raises(ValueError, match=r"sampled latents have NaN .*; load the model with dtype"):
        run(pipe)


def test_unsupported_scheduler():
    with pytest.raises(ValueError, match="not supported"):
        run(make(scheduler=diffusers.EDMEulerScheduler()))
