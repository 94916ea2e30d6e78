"""The sampler against oracles, and against loops written with diffusers' schedulers alone."""

import math
from dataclasses import dataclass

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from trip.condition import Condition, first_frame
from trip.guidance import Guidance, rescale_guidance
from trip.noise_prior import prediction_from_sample, sample_from_prediction
from trip.sampler import sample
from trip.schedule import schedule_at, set_timesteps

# diffusers 0.42 hands tensors to NumPy functions, which NumPy 2.4 warns about
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DDIM = {**SD, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
ZERO_SNR = {
    **SD,
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "prediction_type": "v_prediction",
}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}

SCHEDULERS = {
    "ddim": (diffusers.DDIMScheduler, {**SD, "clip_sample": False}),
    "ddim-v": (diffusers.DDIMScheduler, {**SD, "clip_sample": False, "prediction_type": "v_prediction"}),
    "ddim-sample": (diffusers.DDIMScheduler, {**SD, "clip_sample": False, "prediction_type": "sample"}),
    "ddim-zero-snr": (diffusers.DDIMScheduler, {**ZERO_SNR, "clip_sample": False}),
    "dpm++": (diffusers.DPMSolverMultistepScheduler, SD),
    "dpm++-karras": (diffusers.DPMSolverMultistepScheduler, {**SD, "use_karras_sigmas": True}),
    "dpm++-v": (diffusers.DPMSolverMultistepScheduler, {**SD, "prediction_type": "v_prediction"}),
    "dpm++-flow": (diffusers.DPMSolverMultistepScheduler, FLOW),
    "unipc": (diffusers.UniPCMultistepScheduler, SD),
    "unipc-v": (diffusers.UniPCMultistepScheduler, {**SD, "prediction_type": "v_prediction"}),
    "unipc-flow": (diffusers.UniPCMultistepScheduler, FLOW),
    "euler": (diffusers.EulerDiscreteScheduler, SD),
    "euler-leading": (diffusers.EulerDiscreteScheduler, {**SD, "timestep_spacing": "leading"}),
    "euler-v": (diffusers.EulerDiscreteScheduler, {**SD, "prediction_type": "v_prediction"}),
    "heun": (diffusers.HeunDiscreteScheduler, SD),
    "kdpm2": (diffusers.KDPM2DiscreteScheduler, SD),
    "lms": (diffusers.LMSDiscreteScheduler, SD),
    "flow-euler": (diffusers.FlowMatchEulerDiscreteScheduler, {"shift": 3.0}),
    "flow-heun": (diffusers.FlowMatchHeunDiscreteScheduler, {}),
}
"""Deterministic schedulers whose last step ends at z_0. DDIM here uses `set_alpha_to_one`, the default."""


@dataclass
class Output:
    sample: torch.Tensor


class Oracle(torch.nn.Module):
    """Knows z_0. Records how far inputs are from `signal z_0 + noise eps` with the eps of the first one."""

    def __init__(self, z_0):
        super().__init__()
        self.z_0, self.eps, self.error = z_0, None, 0.0

    def forward(self, z_t, timestep, condition, signal, noise):
        if self.eps is None:
            self.eps = (z_t - signal * self.z_0) / noise
        self.error = max(self.error, float((z_t - signal * self.z_0 - noise * self.eps).abs().max()))
        return Output(self.z_0)


class Nonlinear(torch.nn.Module):
    """A random smooth epsilon-predicting network of (z_t, t, text, image), as an estimate of z_0.

    `raw` is what a text-to-video loop of diffusers calls; `forward` is what the sampler calls.
    """

    def __init__(self, prediction_type="epsilon"):
        super().__init__()
        self.prediction_type = prediction_type
        self.mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)) / 2

    def raw(self, z_t, timestep, text, image):
        t = torch.as_tensor(timestep).float().reshape(-1, 1, 1, 1, 1) / 1000
        mixed = torch.einsum("ij,bjfhw->bifhw", self.mix, z_t + 0.3 * image)
        return torch.tanh(mixed + t) + text.mean((1, 2)).reshape(-1, 1, 1, 1, 1)

    def forward(self, z_t, timestep, condition, signal, noise):
        raw = self.raw(z_t, timestep, condition.text, condition.image)
        return Output(sample_from_prediction(raw, z_t, signal, noise, self.prediction_type))


@pytest.fixture
def clip(rng):
    """z_0, z_T, image latents, text states, null states of two clips of 5 frames."""
    z_0, z_T = torch.randn(2, 2, 4, 5, 3, 4, generator=rng)
    text, null = torch.randn(2, 2, 6, 8, generator=rng)
    return z_0, z_T, z_0[:, :, :1], text, null


def run(denoiser, scheduler, clip, steps=20, guidance=None, condition=None, **options):
    _, z_T, image, text, null = clip
    condition = Condition(**{"reference": image, "image": image, "text": text, "null_text": null, **(condition or {})})
    guidance = Guidance(**(guidance or {}))
    return list(sample(denoiser, scheduler, z_T, condition, steps=steps, guidance=guidance, **options))[-1].z_t


# ------------------------------------------------------------------------------------------ row 4: the oracle


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_oracle_recovers_the_clip(name, steps, clip):
    kind, config = SCHEDULERS[name]
    z = run(Oracle(clip[0]), kind(**config), clip, steps)
    assert_close(z, clip[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_signal_and_noise_are_those_of_the_scheduler(name, clip):
    """With the true z_0 a deterministic solver keeps eps, so every z_t must be `signal z_0 + noise eps`."""
    kind, config = SCHEDULERS[name]
    oracle = Oracle(clip[0])
    run(oracle, kind(**config), clip, 20)
    assert oracle.error < 1e-3


@pytest.mark.parametrize("name", ["euler", "euler-leading", "euler-v", "heun", "lms", "kdpm2"])
def test_signal_is_the_scale_of_sigma_schedulers(name):
    kind, config = SCHEDULERS[name]
    scheduler = kind(**config)
    for index, t in enumerate(set_timesteps(scheduler, 12)):
        scaled = scheduler.scale_model_input(torch.ones(1), t)
        signal, noise = schedule_at(scheduler, index, t)
        assert_close(scaled[0], signal.to(scaled.dtype))
        assert_close(signal**2 + noise**2, torch.tensor(1.0))
        scheduler.step(torch.zeros(1), t, torch.ones(1))


@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc"])
def test_schedule_agrees_with_alphas_cumprod(name):
    kind, config = SCHEDULERS[name]
    scheduler = kind(**config)
    for index, t in enumerate(set_timesteps(scheduler, 10)):
        assert_close(schedule_at(scheduler, index, t)[0] ** 2, scheduler.alphas_cumprod[t], atol=1e-6, rtol=1e-5)


# --------------------------------------------------------------------------- row 4: diffusers' own DDIM loop


def diffusers_loop(model, scheduler, clip, steps, guidance_scale=None, **step_options):
    """The textbook loop in the network's own prediction type, classifier-free guidance included."""
    _, z, image, text, null = clip
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        z_in = scheduler.scale_model_input(z, t)
        output = model.raw(z_in, t, text, image)
        if guidance_scale is not None:
            uncond = model.raw(z_in, t, null, image)
            output = uncond + guidance_scale * (output - uncond)
        z = scheduler.step(output, t, z, **step_options).prev_sample
    return z


@pytest.mark.parametrize("guidance_scale", [None, 0.0, 7.5])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_ddim_equals_diffusers(clip, prediction_type, guidance_scale):
    model = Nonlinear(prediction_type)
    config = {**DDIM, "prediction_type": prediction_type}
    expected = diffusers_loop(model, diffusers.DDIMScheduler(**config), clip, 50, guidance_scale)
    scale = 1.0 if guidance_scale is None else guidance_scale
    actual = run(model, diffusers.DDIMScheduler(**config), clip, 50, {"scale": scale})
    assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["dpm++", "unipc", "euler", "heun", "lms", "deis"])
def test_other_schedulers_equal_diffusers(name, clip):
    kind, config = {**SCHEDULERS, "deis": (diffusers.DEISMultistepScheduler, SD)}[name]
    model, scheduler = Nonlinear(), kind(**config)
    scheduler.set_timesteps(20)
    scaled = (clip[0], clip[1] * scheduler.init_noise_sigma, *clip[2:])
    expected = diffusers_loop(model, kind(**config), scaled, 20, 3.0)
    assert_close(run(model, kind(**config), clip, 20, {"scale": 3.0}), expected, atol=1e-4, rtol=1e-4)


def test_stochastic_ddim_equals_diffusers_with_the_same_generator(clip):
    seeded = torch.Generator().manual_seed
    expected = diffusers_loop(Nonlinear(), diffusers.DDIMScheduler(**DDIM), clip, 20, eta=0.7, generator=seeded(3))
    actual = run(Nonlinear(), diffusers.DDIMScheduler(**DDIM), clip, eta=0.7, generator=seeded(3))
    assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    other = run(Nonlinear(), diffusers.DDIMScheduler(**DDIM), clip, eta=0.7, generator=seeded(4))
    assert (actual - other).abs().max() > 0.1


def test_stochastic_clip_does_not_depend_on_its_batch(clip):
    def gens():
        return [torch.Generator().manual_seed(k) for k in range(2)]

    both = run(Nonlinear(), diffusers.DDIMScheduler(**DDIM), clip, eta=1.0, generator=gens())
    second = tuple(tensor[1:] for tensor in clip)
    alone = run(Nonlinear(), diffusers.DDIMScheduler(**DDIM), second, eta=1.0, generator=gens()[1:])
    assert_close(both[1:], alone, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------- guidance


def counted(model):
    """The batch sizes the denoiser was called with."""
    sizes = []
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    return sizes


@pytest.mark.parametrize(("scales", "branches"), [((1, 1), 1), ((3, 1), 2), ((0, 1), 1), ((3, 2), 3), ((2, 2), 2)])
def test_only_branches_with_weight_are_evaluated(clip, scales, branches):
    model = Nonlinear()
    sizes = counted(model)
    guidance = {"scale": scales[0], "image_scale": scales[1]}
    run(model, diffusers.DDIMScheduler(**DDIM), clip, 2, guidance)
    assert sizes == [2 * branches] * 2
    assert sum(float(b.weight) for b in Guidance(**guidance).branches) == pytest.approx(1)


def test_two_scale_guidance_is_that_of_instruct_pix2pix(clip):
    """In epsilon space, by the published formula, one step at a time."""
    g_text, g_image = 5.0, 1.7
    model, scheduler = Nonlinear(), diffusers.DDIMScheduler(**DDIM)
    _, z, image, text, null = clip
    scheduler.set_timesteps(10)
    for t in scheduler.timesteps:
        e00 = model.raw(z, t, null, torch.zeros_like(image))
        e10, e11 = model.raw(z, t, null, image), model.raw(z, t, text, image)
        z = scheduler.step(e00 + g_image * (e10 - e00) + g_text * (e11 - e10), t, z).prev_sample
    guidance = {"scale": g_text, "image_scale": g_image}
    actual = run(model, diffusers.DDIMScheduler(**DDIM), clip, 10, guidance)
    assert_close(actual, z, atol=1e-5, rtol=1e-5)


def test_frame_ramp_gives_every_frame_its_scale(clip):
    """The network mixes no frames, so each frame must equal that of a run with its scale throughout."""
    ramp = torch.tensor([1.0, 2.0, 4.0, 6.0, 7.5])
    actual = run(Nonlinear(), diffusers.DDIMScheduler(**DDIM), clip, 10, {"scale": ramp})
    for frame, scale in enumerate(ramp.tolist()):
        uniform = run(Nonlinear(), diffusers.DDIMScheduler(**DDIM), clip, 10, {"scale": scale})
        assert_close(actual[:, :, frame], uniform[:, :, frame], atol=1e-5, rtol=1e-5)


def test_rescale_restores_the_conditioned_contrast(clip):
    guided, conditioned = 3 * clip[0], clip[1]
    over = (1, 2, 3, 4)
    assert_close(rescale_guidance(guided, conditioned, 1.0).std(over), conditioned.std(over))
    assert_close(rescale_guidance(guided, conditioned, 0.0), guided)
    half = (rescale_guidance(guided, conditioned, 1.0) + guided) / 2
    assert_close(rescale_guidance(guided, conditioned, 0.5), half)


def test_rescale_keeps_the_conditioned_branch():
    assert [b.text for b in Guidance(scale=0.0, rescale=0.5).branches] == [True, False]


# ------------------------------------------------------------------------- where and how often guidance acts


def guided_loop(model, clip, steps, scale_at, every=1):
    """DDIM with a guidance scale for every t; between evaluations, what guidance adds to v is kept."""
    _, z, image, text, null = clip
    scheduler = diffusers.DDIMScheduler(**DDIM)
    scheduler.set_timesteps(steps)
    kept, served = None, 0
    for t in scheduler.timesteps:
        a, _ = schedule_at(scheduler, 0, t)
        eps, scale = model.raw(z, t, text, image), scale_at(int(t) / 1000)
        if scale == 1:
            kept = None
        elif kept is None or served == every:
            eps_guided = eps + (scale - 1) * (eps - model.raw(z, t, null, image))
            kept, served = (eps_guided - eps) / a, 1  # at fixed z_t, a difference in eps is a times one in v
            eps = eps_guided
        else:
            eps, served = eps + a * kept, served + 1
        z = scheduler.step(eps, t, z).prev_sample
    return z


STRONG = {"scale": 4.0, "rescale": 0.3}


@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc", "heun", "flow-euler"])
def test_the_whole_interval_changes_nothing(name, clip):
    kind, config = SCHEDULERS[name]
    plain = run(Nonlinear(), kind(**config), clip, 6, STRONG)
    whole = run(Nonlinear(), kind(**config), clip, 6, {"interval": (0.0, 1.0), "every": 1, **STRONG})
    assert torch.equal(whole, plain)


@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc", "heun"])
def test_an_empty_interval_is_no_guidance(name, clip):
    kind, config = SCHEDULERS[name]
    plain = run(Nonlinear(), kind(**config), clip, 6)
    assert torch.equal(run(Nonlinear(), kind(**config), clip, 6, {"interval": (1.0, 1.0), **STRONG}), plain)


@pytest.mark.parametrize("interval", [(0.4, 1.0), (0.0, 0.6), (0.25, 0.75)])
def test_guidance_acts_inside_the_interval_only(interval, clip):
    expected = guided_loop(Nonlinear(), clip, 12, lambda t: 5.0 if interval[0] <= t <= interval[1] else 1.0)
    scheduler = diffusers.DDIMScheduler(**DDIM)
    actual = run(Nonlinear(), scheduler, clip, 12, {"scale": 5.0, "interval": interval})
    assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("every", [2, 3, 100])
def test_guidance_is_kept_as_a_velocity(every, clip):
    expected = guided_loop(Nonlinear(), clip, 12, lambda t: 5.0 if t >= 0.2 else 1.0, every)
    guidance = {"scale": 5.0, "interval": (0.2, 1.0), "every": every}
    actual = run(Nonlinear(), diffusers.DDIMScheduler(**DDIM), clip, 12, guidance)
    assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@given(
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    every=st.integers(1, 5),
    steps=st.integers(1, 12),
    name=st.sampled_from(["ddim", "dpm++", "unipc"]),
)
def test_evaluations_are_as_promised(ends, every, steps, name):
    """One a step, and another in the first and then every n-th step of the interval."""
    kind, config = SCHEDULERS[name]
    interval, model, scheduler = (min(ends), max(ends)), Nonlinear(), kind(**config)
    sizes, tensors = counted(model), [torch.ones(2, 4, 2, 1, 1), torch.ones(2, 4, 1, 1, 1), torch.ones(2, 3, 8)]
    clip = (tensors[0], tensors[0], tensors[1], tensors[2], 0 * tensors[2])
    run(model, scheduler, clip, steps, {"scale": 3.0, "interval": interval, "every": every})
    guided = sum(interval[0] <= float(t) / 1000 <= interval[1] for t in scheduler.timesteps)
    assert sum(sizes) == 2 * (len(scheduler.timesteps) + math.ceil(guided / every))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"interval": (0.6, 0.4)},
            r"guidance_interval \(=0.6, 0.4\) must be 0 <= low <= high <= 1; correct it",
        ),
        ({"interval": (-0.1, 1.0)}, r"guidance_interval \(=-0.1, 1\)"),
        ({"interval": (0.0, 1000.0)}, r"guidance_interval \(=0, 1000\)"),
        ({"interval": (float("nan"), 1.0)}, r"guidance_interval \(=nan, 1\)"),
        ({"every": 0}, r"guidance_every \(=0\) must be at least 1; raise it"),
    ],
)
def test_wrong_guidance_is_one_clear_line(options, message):
    with pytest.raises(ValueError, match=message) as error:
        Guidance(**options)
    assert "\n" not in str(error.value)


def test_missing_null_text_is_an_error(clip):
    with pytest.raises(ValueError, match="null_text"):
        run(Nonlinear(), diffusers.DDIMScheduler(**DDIM), clip, 20, {"scale": 2.0}, {"null_text": None})


# ------------------------------------------------------------------------------- statements about the clip


@pytest.mark.parametrize("name", ["ddim", "unipc", "euler", "flow-euler"])
def test_exact_first_frame(name, clip):
    kind, config = SCHEDULERS[name]
    z = run(Nonlinear(), kind(**config), clip, 20, {"scale": 6.0}, {"pinned": first_frame(5)})
    assert torch.equal(z[:, :, 0], clip[2][:, :, 0])


def test_exact_first_frame_where_the_schedule_ends_above_zero_noise(clip):
    """SD's DDIM ends at alpha_bar = 0.99915 (set_alpha_to_one=False), which leaves noise in the others."""
    z = run(Nonlinear(), diffusers.DDIMScheduler(**DDIM), clip, condition={"pinned": first_frame(5)})
    assert torch.equal(z[:, :, 0], clip[2][:, :, 0])


def test_motion_strength_scales_the_displacement(clip):
    z_0, _, image, *_ = clip
    for g in (0.0, 0.5, 1.5):
        z = run(Oracle(z_0), diffusers.DPMSolverMultistepScheduler(**SD), clip, motion_strength=g)
        assert_close(z, image + g * (z_0 - image), atol=1e-4, rtol=0)


def test_references_per_frame(clip):
    z_0, reference = clip[0], clip[1]
    z = run(
        Oracle(z_0),
        diffusers.UniPCMultistepScheduler(**SD),
        clip,
        condition={"reference": reference},
        motion_strength=0.0,
    )
    assert_close(z, reference, atol=1e-4, rtol=0)


def test_a_consumer_may_replace_the_latents(clip):
    _, z_T, image, text, _ = clip
    condition = Condition(reference=image, image=image, text=text)
    steps = sample(Nonlinear(), diffusers.DDIMScheduler(**DDIM), z_T, condition, steps=4)
    for step in steps:
        step.z_t = torch.zeros_like(step.z_t) if step.index == 2 else step.z_t
    model, scheduler = Nonlinear(), diffusers.DDIMScheduler(**DDIM)
    scheduler.set_timesteps(4)
    zero, t = torch.zeros_like(z_T), scheduler.timesteps[-1]
    assert_close(step.z_t, scheduler.step(model.raw(zero, t, text, image), t, zero).prev_sample, atol=1e-5, rtol=0)
    assert [step.index, int(step.timestep)] == [3, int(t)]


def test_half_precision_start_gives_a_float32_clip(clip):
    half = tuple(tensor.half() for tensor in clip)
    assert run(Nonlinear(), diffusers.DDIMScheduler(**DDIM), half, 2).dtype == torch.float32


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.EDMEulerScheduler(),
        diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        diffusers.ScoreSdeVeScheduler(),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_schedulers_that_cannot_be_read_are_refused(scheduler):
    with pytest.raises(ValueError, match=r"not supported; use|set it to False"):
        set_timesteps(scheduler, 4)


def test_conversion_round_trip_in_every_type(clip):
    z_0, eps = clip[0], clip[1]
    for kind in ("epsilon", "v_prediction", "sample"):
        z_t = 0.6 * z_0 + 0.8 * eps
        back = sample_from_prediction(prediction_from_sample(z_0, z_t, 0.6, 0.8, kind), z_t, 0.6, 0.8, kind)
        assert_close(back, z_0, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------- condition and start


@pytest.mark.parametrize("name", ["ddim", "dpm++", "euler", "heun", "flow-euler"])
def test_a_late_start_begins_at_the_noised_reference(name, clip):
    """With the true clip as reference, every z_t of an oracle is signal z_0 + noise z_T from the first step on."""
    kind, config = SCHEDULERS[name]
    oracle, sizes = Oracle(clip[0]), []
    oracle.register_forward_pre_hook(lambda _, args: sizes.append(float(args[1])))
    oracle.eps = clip[1]
    late = run(oracle, kind(**config), clip, 20, condition={"reference": clip[0]}, start=0.5)
    assert_close(late, clip[0], atol=1e-4, rtol=0)
    assert oracle.error < 1e-3
    assert 0.35 < max(sizes) / 1000 <= 0.5


def test_a_start_outside_the_schedule_is_refused(clip):
    for start in (0.0, -1.0, 1.5):
        with pytest.raises(ValueError, match=r"start \(=.*must lie above 0 and be at most 1"):
            run(Nonlinear(), diffusers.DDIMScheduler(**DDIM), clip, 4, start=start)
    with pytest.raises(ValueError, match=r"start \(=0.01\) leaves none of the 4 steps"):
        run(Nonlinear(), diffusers.DDIMScheduler(**DDIM, timestep_spacing="trailing"), clip, 4, start=0.01)


def test_what_is_pinned_is_the_reference_and_the_rest_is_free(clip):
    mask = torch.zeros(1, 1, 5, 3, 4)
    mask[:, :, 2:4, 1:, :2] = 1
    condition = {"reference": clip[1], "pinned": mask}
    z = run(Nonlinear(), diffusers.UniPCMultistepScheduler(**SD), clip, 8, {"scale": 3.0}, condition)
    where = mask.bool().expand_as(z)
    assert torch.equal(z[where], clip[1][where])
    assert not torch.isclose(z[~where], clip[1][~where]).any(dim=0).all()


def test_a_consumer_may_replace_condition_and_guidance(clip):
    _, z_T, image, text, null = clip
    condition = Condition(reference=image, image=image, text=text, null_text=null)
    model, sizes = Nonlinear(), []
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    for step in sample(model, diffusers.DDIMScheduler(**DDIM), z_T, condition, steps=4, guidance=Guidance(scale=3.0)):
        if step.index == 1:
            step.guidance, step.condition = Guidance(), condition.without_text()
            z, rest = step.z_t, step.timestep
    assert sizes == [4, 4, 2, 2]
    scheduler = diffusers.DDIMScheduler(**DDIM)
    scheduler.set_timesteps(4)
    for t in scheduler.timesteps[scheduler.timesteps < rest]:
        z = scheduler.step(model.raw(z, t, null, image), t, z).prev_sample
    assert_close(step.z_t, z, atol=1e-5, rtol=1e-5)
