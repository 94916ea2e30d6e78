"""One call does not reach into another: schedulers, threads, callbacks; and the same parts are the same model."""

import copy
import sys
import threading
import types

import diffusers
import numpy as np
import pytest
import torch
from diffusers.callbacks import IPAdapterScaleCutoffCallback, MultiPipelineCallbacks, SDCFGCutoffCallback
from PIL import Image
from torch.testing import assert_close

from tiny_models import FRAMES, SIZE, text_to_video_pipeline, tiny_text, trip_pipeline
from trip import discovery
from trip.models import bundled_model_path
from trip.noise_fusion import OptimalNoiseFusion
from trip.pipeline import TripPipeline
from trip.schedule import for_latents, rehearse

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def make() -> TripPipeline:
    made = trip_pipeline()
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def pipe() -> TripPipeline:
    return make()


def run(pipe, prompt="pan", seed=0, **options):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
    options = {"num_inference_steps": 3, "output_type": "latent", "guidance_scale": 4.0, **options}
    return pipe(image, prompt, generator=torch.Generator().manual_seed(seed), **options).frames


# ---------------------------------------------------------------------------------------------------- schedulers


@pytest.mark.parametrize("setting", ["clip_sample", "thresholding"])
@pytest.mark.parametrize("way", ["attribute", "config", "constructor", "from_pipe"])
def test_schedulers_that_clip_are_repaired_however_they_come_in(setting, way):
    pipe = make()
    expected = run(pipe)
    config = {**pipe.scheduler.config, "clip_sample": False, "thresholding": False, setting: True}
    clipping = diffusers.DDIMScheduler.from_config(config)
    if way == "attribute":
        pipe.scheduler = clipping
    elif way == "config":
        pipe.scheduler.register_to_config(**{setting: True})
    elif way == "constructor":
        pipe = TripPipeline(**{**pipe.components, "scheduler": clipping})
    else:
        pipe = TripPipeline.from_pipe(pipe, scheduler=clipping)
    pipe.set_progress_bar_config(disable=True)
    assert torch.equal(run(pipe), expected)


USABLE = [
    *("DDIM", "DDPM", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep", "EulerAncestralDiscrete"),
    *("EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM"),
    *("SASolver", "TCD", "UnCLIP", "UniPCMultistep", "CogVideoXDDIM", "FlowMatchEulerDiscrete"),
    *("FlowMatchHeunDiscrete", "FlowMatchLCM", "DDIMParallel", "DDPMParallel"),
]


@pytest.mark.parametrize("name", USABLE)
def test_usable_schedulers_lead_to_a_clip_beyond_the_range_of_pixels(name):
    """From perfect estimates of +-10; with default settings, some of them clip to [-1, 1]."""
    scheduler = for_latents(getattr(diffusers, name + "Scheduler")())
    assert rehearse(scheduler, 6) >= 6
    assert not hasattr(scheduler, "step_index") or scheduler.step_index is None


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("DDIMInverse", {}),
        ("DPMSolverMultistepInverse", {}),
        ("RePaint", {}),
        ("CogVideoXDPM", {}),
        ("EDMEuler", {}),
        ("DDPM", {"variance_type": "learned_range"}),
        ("DPMSolverMultistep", {"variance_type": "learned"}),
        ("LCM", {"rescale_betas_zero_snr": True}),
        ("DDIM", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
        ("EulerAncestralDiscrete", {"prediction_type": "sample"}),
        ("FlowMatchEulerDiscrete", {"use_dynamic_shifting": True}),
    ],
)
def test_schedulers_that_ruin_latents_are_refused_before_any_work(name, settings, monkeypatch):
    pipe = make()
    pipe.scheduler = getattr(diffusers, name + "Scheduler")(**settings)
    monkeypatch.setattr(pipe.vae, "encode", None)
    with pytest.raises(ValueError, match=name) as error:
        run(pipe)
    assert "\n" not in str(error.value)


def test_another_noise_process_is_said(caplog):
    pipe = make()
    diffusers.utils.logging.enable_propagation()
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    assert not caplog.text
    pipe.scheduler = diffusers.DDIMScheduler(clip_sample=False)
    assert "noises clips otherwise than the model was trained with" in caplog.text
    diffusers.utils.logging.disable_propagation()


def test_own_timesteps_and_sigmas():
    pipe = make()
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    seen = []

    def note(pipe, step, timestep, tensors):
        seen.append(int(timestep))

    run(pipe, timesteps=[901, 500, 20], callback_on_step_end=note)
    assert seen == [901, 500, 20]
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    run(pipe, sigmas=[10.0, 1.0, 0.1, 0.0], callback_on_step_end=lambda p, *_: seen.append(p.scheduler.sigmas.tolist()))
    assert_close(seen[-1], [10.0, 1.0, 0.1, 0.0], atol=1e-6, rtol=0)


# ------------------------------------------------------------------------------------------------------- threads


def test_threads_share_a_pipeline(pipe):
    """Step counts, guidance, prompts and interruptions of their own, and the clips that they make alone."""
    kinds = [
        {"num_inference_steps": 2, "guidance_scale": 1.0},
        {"num_inference_steps": 7, "prompt": "zoom", "callback_on_step_end": halve},
        {"num_inference_steps": 5, "callback_on_step_end": stop},
        {"num_inference_steps": 4, "eta": 1.0, "prompt": "a long tilt"},
    ]
    expected = [run(pipe, seed=k, **kind) for k, kind in enumerate(kinds)]
    made, ends = {}, {}

    def work(k):
        for _ in range(3):
            made.setdefault(k, []).append(run(pipe, seed=k, **kinds[k]))
        ends[k] = pipe.num_timesteps, pipe.interrupt

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(kinds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(clip, expected[k]) for k in made for clip in made[k]) and len(made) == len(kinds)
    assert ends == {0: (2, False), 1: (7, False), 2: (5, True), 3: (4, False)}


def halve(pipe, step, timestep, tensors):
    pipe._guidance_scale = pipe.guidance_scale / 2


def stop(pipe, step, timestep, tensors):
    pipe._interrupt = step == 1


def test_another_thread_may_stop_a_call(pipe):
    steps = []

    def callback(own, step, timestep, tensors):
        steps.append(step)
        stopper = threading.Thread(target=lambda: setattr(pipe, "_interrupt", True))
        stopper.start()
        stopper.join()

    run(pipe, callback_on_step_end=callback)
    assert steps == [0]
    run(pipe, callback_on_step_end=lambda own, step, *_: steps.append(step))
    assert steps == [0, 0, 1, 2]


def test_a_callback_may_call_the_pipeline(pipe):
    expected, inner = run(pipe), []

    def callback(own, step, timestep, tensors):
        inner.append(run(own, num_inference_steps=2, guidance_scale=1.0))
        assert own.num_timesteps == 3

    assert torch.equal(run(pipe, callback_on_step_end=callback), expected)
    assert torch.equal(inner[0], run(pipe, num_inference_steps=2, guidance_scale=1.0))


def test_the_pipelines_scheduler_is_not_touched(pipe):
    before = copy.deepcopy(vars(pipe.scheduler))
    run(pipe)
    assert all(torch.equal(v, before[k]) for k, v in vars(pipe.scheduler).items() if isinstance(v, torch.Tensor))
    assert pipe.scheduler.num_inference_steps is None


# ------------------------------------------------------------------------------------------------------ callbacks


def returning(name, change, at=0):
    def callback(pipe, step, timestep, tensors):
        return {name: change(tensors[name])} if step == at else None

    return {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": [name]}


@pytest.mark.parametrize(("name", "text"), [("prompt_embeds", "prompt"), ("negative_prompt_embeds", "negative_prompt")])
def test_new_text_acts_from_the_next_step_on(pipe, name, text):
    other, _ = pipe.encode_prompt("zoom", do_classifier_free_guidance=False)
    changed = run(pipe, **returning(name, lambda _: other))
    assert not torch.equal(changed, run(pipe)) and not torch.equal(changed, run(pipe, **{text: "zoom"}))
    last = run(pipe, **returning(name, lambda _: other, at=2))
    assert torch.equal(last, run(pipe))


def test_a_new_estimate_makes_the_step_again(pipe):
    """DDIM's last step returns its estimate, so a new one is the clip; an unchanged one changes nothing."""
    target = torch.full((1, 4, FRAMES, SIZE // 2, SIZE // 2), 3.0)
    changed = run(pipe, exact_first_frame=False, **returning("denoised_latents", lambda _: target, at=2))
    a = float(pipe.scheduler.final_alpha_cumprod) ** 0.5
    assert abs(changed.mean() - a * 3.0) < 0.1
    assert torch.equal(run(pipe, eta=1.0, **returning("denoised_latents", lambda x: x.clone())), run(pipe, eta=1.0))
    in_place = run(pipe, exact_first_frame=False, **returning("denoised_latents", lambda x: x.fill_(3.0), at=2))
    assert_close(in_place, changed)


def test_guidance_of_the_next_step_may_be_set(pipe):
    plain, guided = run(pipe, guidance_scale=1.0), run(pipe)

    def off(own, step, timestep, tensors):
        own._guidance_scale = 0.0
        assert not own.do_classifier_free_guidance and own.guidance_scale == 0.0

    def on(own, step, timestep, tensors):
        own._guidance_scale = 4.0
        assert own.do_classifier_free_guidance

    cut, raised = run(pipe, callback_on_step_end=off), run(pipe, guidance_scale=1.0, callback_on_step_end=on)
    for mixed in (cut, raised):
        assert not torch.equal(mixed, plain) and not torch.equal(mixed, guided)
    assert pipe.guidance_scale == 4.0 and pipe.num_timesteps == 3


@pytest.mark.parametrize("prompts", ["pan", ["pan", "zoom"]])
def test_diffusers_cutoff_callback(pipe, prompts):
    """It keeps the last of the prompts' features; every clip keeps its own prompt all the same."""

    def off(own, step, timestep, tensors):
        if step == 1:
            own._guidance_scale = 0.0

    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
    expected = run(pipe, prompts, callback_on_step_end=off)
    assert torch.equal(run(pipe, prompts, callback_on_step_end=cutoff), expected)
    assert torch.equal(run(pipe, prompts, callback_on_step_end=MultiPipelineCallbacks([cutoff])), expected)


def test_callbacks_that_cannot_work_are_one_line(pipe):
    with pytest.raises(ValueError, match="needs an IP adapter"):
        run(pipe, callback_on_step_end=IPAdapterScaleCutoffCallback())
    with pytest.raises(ValueError, match=r"callback's latents has shape \(1,\); return \(1, 4"):
        run(pipe, **returning("latents", lambda _: torch.zeros(1)))
    with pytest.raises(ValueError, match="the callback returned True; return a dict"):
        run(pipe, callback_on_step_end=lambda *_: True)
    with pytest.raises(ValueError, match=r"prompt_embeds \(='x'\) must be a tensor"):
        run(pipe, **returning("prompt_embeds", lambda _: "x"))


# ------------------------------------------------------------------------------------- the same parts, the same model


def test_parts_make_the_same_model_again(tmp_path):
    tokenizer, encoder = tiny_text()
    parts = {**trip_pipeline().components, "tokenizer": tokenizer, "text_encoder": encoder}
    settings = {"zero_text_padding": True, "max_text_length": 9, "default_guidance_scale": 2.5}
    pipe = TripPipeline(**parts, **settings)
    pipe.save_pretrained(tmp_path)
    loaded = TripPipeline.from_pretrained(tmp_path)
    unet = type(pipe.unet).from_pretrained(tmp_path, subfolder="unet")
    again = [
        TripPipeline(**pipe.components),
        TripPipeline.from_pipe(pipe),
        TripPipeline(**{**pipe.components, "unet": unet}),
        TripPipeline(**loaded.components),
        copy.deepcopy(pipe),
    ]
    expected = run(pipe, guidance_scale=None)
    for made in (pipe, loaded, *again):
        made.set_progress_bar_config(disable=True)
        assert torch.equal(run(made, guidance_scale=None), expected)
        assert {name: made.config[name] for name in settings} == settings
    assert TripPipeline(**pipe.components, max_text_length=8).config["max_text_length"] == 8
    with pytest.raises(ValueError, match="from_pipe takes no fps"):
        TripPipeline.from_pipe(pipe, fps=8)


def test_parts_of_the_shipped_model_with_its_packaged_encoder(tmp_path):
    pipe = TripPipeline.from_pretrained(bundled_model_path())
    again = TripPipeline(**pipe.components)
    for made in (pipe, again):
        made.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 1, "guidance_scale": None}
    assert torch.equal(run(again, "the camera pans left", **options), run(pipe, "the camera pans left", **options))
    assert again.text_encoder is pipe.text_encoder and again.config["packaged_text_encoder"]
    again.save_pretrained(tmp_path)
    assert not (tmp_path / "text_encoder").exists()


def test_from_pipe_keeps_types_and_takes_text_to_video():
    half = make().to(dtype=torch.bfloat16)
    assert TripPipeline.from_pipe(half).unet.dtype == torch.bfloat16
    assert TripPipeline.from_pipe(text_to_video_pipeline()).fusion.concat == "none"


@pytest.mark.parametrize("imported", [False, True])
def test_diffusers_finds_the_class_once_trip_is_imported(monkeypatch, imported):
    """Now, where diffusers is imported already; else when it is, without which nothing is imported."""
    found = types.ModuleType("diffusers")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    if imported:
        monkeypatch.setitem(sys.modules, "diffusers", found)
        discovery.announce()
    else:
        monkeypatch.delitem(sys.modules, "diffusers")
        discovery.announce()
        assert isinstance(sys.meta_path[0], discovery.Finder)
        spec = sys.meta_path[0].find_spec("diffusers", None)
        assert spec is not None and not any(isinstance(finder, discovery.Finder) for finder in sys.meta_path)
        discovery.give_name(found)
    assert found.TripPipeline is TripPipeline


def test_diffusers_loads_a_folder(tmp_path):
    pipe = make()
    pipe.save_pretrained(tmp_path)
    loaded = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert isinstance(loaded, TripPipeline) and torch.equal(run(loaded), run(pipe))


def test_pickles_are_not_written(tmp_path, pipe):
    pipe.save_pretrained(tmp_path, safe_serialization=False)
    assert not list(tmp_path.rglob("*.bin"))
    assert torch.equal(TripPipeline.from_pretrained(tmp_path).unet.conv_in.weight, pipe.unet.conv_in.weight)


# ------------------------------------------------------------------------------------------------- LoRA, switches


def adapted(tmp_path) -> torch.Tensor:
    peft = pytest.importorskip("peft")
    pipe = make()
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipe.unet.add_adapter(config, adapter_name="a")
    layers = peft.get_peft_model_state_dict(pipe.unet, adapter_name="a")
    pipe.save_lora_weights(tmp_path, unet_lora_layers=layers)
    return run(pipe)


def test_lora_by_diffusers_mixin(tmp_path):
    expected = adapted(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["pytorch_lora_weights.safetensors"]
    pipe = make()
    plain = run(pipe)
    pipe.load_lora_weights(tmp_path, adapter_name="a")
    assert_close(run(pipe), expected)
    assert pipe.get_active_adapters() == ["a"] and pipe.get_list_adapters() == {"unet": ["a"]}
    pipe.set_adapters("a", 0.5)
    half = run(pipe)
    assert not torch.equal(half, plain) and not torch.equal(half, expected)
    pipe.set_adapters("a", 1.0)
    assert_close(run(pipe, cross_attention_kwargs={"scale": 0.5}), half)
    assert_close(run(pipe, cross_attention_kwargs={"scale": 0.0}), plain)
    assert_close(run(pipe), expected)
    pipe.fuse_lora()
    assert_close(run(pipe), expected, atol=1e-4, rtol=1e-4)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    assert_close(run(pipe), plain, atol=1e-4, rtol=1e-4)


def test_lora_that_is_no_safetensors_is_one_line(tmp_path):
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"x" * 50)
    with pytest.raises(ValueError, match=r"LoRA .* cannot be loaded") as error:
        make().load_lora_weights(tmp_path)
    assert "\n" not in str(error.value)


def test_switches_act_or_refuse(caplog):
    pipe = make()
    expected = run(pipe, output_type="pt")
    pipe.enable_vae_slicing()
    pipe.enable_vae_tiling()
    assert pipe.vae.use_slicing and pipe.vae.use_tiling
    assert_close(run(pipe, output_type="pt"), expected, atol=1e-3, rtol=0)
    pipe.disable_vae_slicing()
    pipe.disable_vae_tiling()
    assert not pipe.vae.use_slicing and not pipe.vae.use_tiling
    diffusers.utils.logging.enable_propagation()
    pipe.enable_attention_slicing()
    assert "attention slicing changes nothing" in caplog.text
    diffusers.utils.logging.disable_propagation()
    pipe.disable_attention_slicing()
    pipe.enable_freeu(0.9, 0.2, 1.2, 1.4)
    assert not torch.equal(run(pipe, output_type="pt"), expected)
    pipe.disable_freeu()
    with pytest.raises(ValueError, match="Identity has no enable_freeu"):
        pipe._switch(torch.nn.Identity(), "enable_freeu")
    with pytest.raises(ValueError, match="xformers"):
        pipe.enable_xformers_memory_efficient_attention()
    assert torch.equal(run(pipe, output_type="pt"), expected)


def test_fused_projections_give_the_same_clip():
    pipe = make()
    expected = run(pipe)
    pipe.fuse_qkv_projections(vae=False)
    assert_close(run(pipe), expected, atol=1e-4, rtol=1e-4)
    pipe.unfuse_qkv_projections()
    assert_close(run(pipe), expected, atol=1e-4, rtol=1e-4)
    pipe.vae.decoder.mid_block.attentions = pipe.vae.encoder.mid_block.attentions = torch.nn.ModuleList()
    with pytest.raises(ValueError, match="no attention whose projections can be fused"):
        pipe.fuse_qkv_projections(unet=False)


def test_parts_of_other_fusions_stay_apart():
    parts = make().components
    other = TripPipeline(**{**parts, "fusion": OptimalNoiseFusion(sigma=[0.0, 0.1, 0.1, 0.1])})
    other.set_progress_bar_config(disable=True)
    assert not torch.equal(run(other), run(make()))
