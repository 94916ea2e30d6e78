r"""The denoising loop and its guidance, as a generator, for any diffusers scheduler.

The loop works on the estimate of z_0. Guidance is an affine combination whose weights sum to one, so it is
the same in z_0, epsilon, v and flow; motion strength and the exact first frame are plain statements about
z_0. The estimate is converted to the scheduler's own prediction type only to be handed to `scheduler.step`.

Only the scheduler owns the schedule. With ``z_t = signal z_0 + noise eps`` it is read off as follows:

================================================  =======================  ===========================
schedulers                                        signal                   noise
================================================  =======================  ===========================
timestep-indexed: DDIM, DDPM, PNDM, LCM, TCD      sqrt(alphas_cumprod[t])  sqrt(1 - alphas_cumprod[t])
sigma-indexed: Euler, Heun, LMS, DPM++, UniPC     1 / sqrt(1 + sigma^2)    sigma / sqrt(1 + sigma^2)
flow: FlowMatch*, and any with `use_flow_sigmas`  1 - sigma                sigma
================================================  =======================  ===========================

Euler, Heun, LMS and KDPM2 keep ``z_0 + sigma eps``; their `scale_model_input` divides it by
``sqrt(1 + sigma^2)``, and their epsilon, v and sample outputs are meant in terms of that scaled sample, so
the second row holds for them too.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trip.noise_prior import SMALLEST_NOISE, Clip, PredictionType, prediction_from_sample, scale_motion

Generator = torch.Generator | list[torch.Generator] | None
TextStates = Float[Tensor, "b n d"]
Reference = Float[Tensor, "b c _ h w"]
"""Clean latents of the prior: one frame per clip, or one per frame."""

Interval = tuple[float, float]
ALWAYS: Interval = (0.0, 1.0)
"""The whole schedule, as an interval of t over the number of training timesteps, both ends included."""


@dataclass
class SamplerStep:
    """State after one scheduler step.

    Attributes:
        index: step number from 0. timestep: the scheduler's timestep, 0-d.
        z_t: latents after the step, in the scheduler's own scale, float32, b c f h w. A consumer may assign
            it before it asks for the next step; the loop goes on from the assigned value.
        x0_hat: the estimate of z_0 this step was made with.
    """

    index: int
    timestep: Tensor
    z_t: Clip
    x0_hat: Clip


def sample(
    denoiser: Any,
    scheduler: Any,
    z_T: Clip,
    *,
    image_latents: Float[Tensor, "b c 1 h w"],
    reference: Reference,
    encoder_hidden_states: TextStates,
    null_hidden_states: TextStates | None = None,
    num_inference_steps: int,
    guidance_scale: float | Float[Tensor, "f"] = 1.0,
    image_guidance_scale: float = 1.0,
    guidance_rescale: float = 0.0,
    motion_strength: float = 1.0,
    exact_first_frame: bool = True,
    generator: Generator = None,
    eta: float = 0.0,
    guidance_interval: Interval = ALWAYS,
    guidance_every: int = 1,
) -> Iterator[SamplerStep]:
    """Denoise z_T step by step; the last step's `z_t` is the clip.

    Args:
        denoiser: ``denoiser(z_t, timestep, encoder_hidden_states, image_latents, reference, signal, noise)``
            returning an object whose `.sample` is the estimate of z_0, e.g. `trip.denoiser.TripDenoiser`.
        scheduler: any scheduler of the table above. Its timesteps are set here.
        z_T: standard normal noise; it is multiplied by the scheduler's `init_noise_sigma` here.
        image_latents: the image as the network sees it; zeros in the branch that drops it (image guidance).
        reference: the prior's clean latents, one per clip or one per frame; kept in every branch.
        null_hidden_states: text features of the negative prompt; needed unless `guidance_scale` is 1.
        guidance_scale: text guidance; (f,) gives every frame its own. 1 skips the unconditional branch.
        image_guidance_scale: InstructPix2Pix's second scale; 1 skips its branch.
        guidance_rescale: 0 to 1, see `rescale_guidance`.
        motion_strength: g of ``z_0 <- r + g (z_0 - r)``: 0 the still, 1 as trained.
        exact_first_frame: put the reference's frame 0 in place of the estimate's, and of the result's.
        generator: for schedulers that add noise; a list gives each clip its own.
        eta: DDIM's noise level; ignored by schedulers without it.
        guidance_interval: where guidance acts, as t over the number of training timesteps: 1 is noise, 0 the clip.
            Outside it a step costs one evaluation.
        guidance_every: in the interval, evaluate all branches in every n-th step only; see `Guidance`.

    Raises:
        ValueError: for a scheduler of none of the three kinds, missing `null_hidden_states`, or a wrong interval.
    """
    timesteps = set_timesteps(scheduler, num_inference_steps, z_T.device)
    keep_text = guidance_rescale > 0 or guidance_every > 1
    branches = guidance_branches(guidance_scale, image_guidance_scale, keep_text)
    guidance = Guidance(branches, guidance_rescale, guidance_interval, guidance_every)
    step_options = accepted(scheduler.step, generator=generator, eta=eta)
    z_t = z_T.float() * float(getattr(scheduler, "init_noise_sigma", 1.0))

    for index, t in enumerate(timesteps):
        z_in = scheduler.scale_model_input(z_t, t) if hasattr(scheduler, "scale_model_input") else z_t
        signal, noise = schedule_at(scheduler, index, t)
        due = guidance.due(float(t) / scheduler.config.get("num_train_timesteps", 1000))
        text, image = branch_inputs(due, encoder_hidden_states, null_hidden_states, image_latents)
        x0 = denoiser(repeat(z_in, due), t, text, image, repeat(reference, due), signal, noise).sample
        x0 = guidance.estimate(x0.float(), due, noise)
        x0 = scale_motion(x0, reference, motion_strength)
        x0 = with_first_frame(x0, reference) if exact_first_frame else x0
        output = prediction_from_sample(x0, z_in, signal, noise, prediction_type(scheduler))
        z_t = scheduler.step(output, t, z_t, **step_options, return_dict=False)[0]
        if exact_first_frame and index == len(timesteps) - 1:
            z_t = with_first_frame(z_t, reference)
        step = SamplerStep(index, t, z_t, x0)
        yield step
        z_t = step.z_t


# --------------------------------------------------------------------------------------------- the schedule


def set_timesteps(scheduler: Any, num_inference_steps: int, device: Any = None) -> Tensor:
    """Set the scheduler's timesteps and return them; second-order schedulers return about twice as many.

    Raises:
        ValueError: if the scheduler is of none of the kinds that `schedule_at` reads.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if config.get("use_dynamic_shifting"):
        raise ValueError(f"{name} has use_dynamic_shifting=True, which depends on the size; set it to False")
    if not is_supported(scheduler):
        raise ValueError(f"{name} is not supported; use for example DDIM, DPMSolverMultistep, UniPC or Euler")
    scheduler.set_timesteps(num_inference_steps, device=device)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    return scheduler.timesteps


def is_supported(scheduler: Any) -> bool:
    """Whether `schedule_at` reads it: not EDM's, whose outputs are preconditioned, nor Mochi's inverse."""
    if hasattr(scheduler, "precondition_outputs") or scheduler.config.get("invert_sigmas"):
        return False
    return hasattr(scheduler, "alphas_cumprod") or is_flow(scheduler)


def is_flow(scheduler: Any) -> bool:
    """Whether the scheduler's process is ``z_t = (1 - sigma) z_0 + sigma eps``."""
    return "FlowMatch" in type(scheduler).__name__ or bool(scheduler.config.get("use_flow_sigmas"))


def prediction_type(scheduler: Any) -> PredictionType:
    """What the scheduler takes the network's output to be; FlowMatch schedulers take the flow velocity."""
    return scheduler.config.get("prediction_type", "flow_prediction" if is_flow(scheduler) else "epsilon")


def schedule_at(scheduler: Any, index: int, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """(signal, noise), 0-d float32, of step `index` of a scheduler whose timesteps are set.

    Sigmas are read by step index, not by timestep: Karras and other spacings move them between the timesteps.
    """
    if not hasattr(scheduler, "sigmas"):
        alpha_bar = scheduler.alphas_cumprod[timestep.long().to(scheduler.alphas_cumprod.device)].float()
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    first_order = getattr(scheduler, "state_in_first_order", True)
    sigmas = scheduler.sigmas if first_order else getattr(scheduler, "sigmas_interpol", scheduler.sigmas)
    sigma = sigmas[index].float()
    if is_flow(scheduler):
        return 1 - sigma, sigma
    signal = (1 + sigma**2).rsqrt()
    return signal, sigma * signal


def accepted(function: Any, **options: Any) -> dict[str, Any]:
    """The options that `function` has a parameter for."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in names}


# --------------------------------------------------------------------------------------------- the guidance


@dataclass(frozen=True)
class Branch:
    """One conditional estimate of the guidance and its weight, float or (f,)."""

    weight: float | Tensor
    text: bool
    image: bool


def guidance_branches(
    guidance_scale: float | Tensor, image_guidance_scale: float = 1.0, keep_text: bool = False
) -> list[Branch]:
    """The branches of two-scale guidance that have to be evaluated, the fully conditioned one first.

    InstructPix2Pix (2211.09800), Eq. 3, ``e(0,0) + g_i (e(i,0) - e(0,0)) + g_t (e(i,t) - e(i,0))``, is
    ``g_t e(i,t) + (g_i - g_t) e(i,0) + (1 - g_i) e(0,0)``. Branches of weight zero are left out: g_t = g_i = 1
    costs one evaluation a step, g_i = 1 (classifier-free guidance) two. `keep_text` keeps the first anyway.
    """
    branches = [
        Branch(guidance_scale, text=True, image=True),
        Branch(image_guidance_scale - guidance_scale, text=False, image=True),
        Branch(1 - image_guidance_scale, text=False, image=False),
    ]
    return [b for i, b in enumerate(branches) if torch.as_tensor(b.weight).any() or (keep_text and i == 0)]


CONDITIONED = [Branch(1.0, text=True, image=True)]
"""The branches of a step without guidance."""


@dataclass
class Guidance:
    """Which branches each step evaluates; guidance may act in an interval only, and be kept for some steps.

    Guidance matters where the clip's content is decided, and does harm or nothing elsewhere (Kynkäänniemi et al.,
    2404.07724). Between two evaluations of all branches, what guidance added to the conditioned estimate is kept **as a
    velocity**, ``(guided - conditioned) / noise``: on z_0 it shrinks with the noise, as the estimates themselves draw
    together.

    Attributes:
        branches: of an evaluation with guidance. rescale: see `rescale_guidance`.
        interval: where guidance acts. every: steps that one evaluation serves, itself included; 1 keeps nothing.
        kept: what guidance added, as a velocity; None where nothing is kept. served: steps it has served.
    """

    branches: list[Branch]
    rescale: float = 0.0
    interval: Interval = ALWAYS
    every: int = 1
    kept: Clip | None = None
    served: int = 0

    def __post_init__(self):
        check_guidance(self.interval, self.every)

    def due(self, position: float) -> list[Branch]:
        """The branches to evaluate at a position of the schedule, t over the number of training timesteps."""
        low, high = self.interval
        if not low <= position <= high:
            self.kept = None
            return CONDITIONED
        return self.branches if self.kept is None or self.served >= self.every else CONDITIONED

    def estimate(self, x0: Float[Tensor, "kb c f h w"], evaluated: list[Branch], noise: Tensor) -> Clip:
        """The guided estimate out of those of the branches that `due` named."""
        if evaluated is CONDITIONED:
            self.served += 1
            return x0 if self.kept is None else x0 + noise * self.kept
        guided = combine(x0, evaluated, self.rescale)
        if self.every > 1:
            self.kept = (guided - x0.chunk(len(evaluated))[0]) / noise.clamp_min(SMALLEST_NOISE)
            self.served = 1
        return guided


def check_guidance(interval: Interval, every: int) -> None:
    """Raise ValueError unless the interval lies in [0, 1] and every evaluation serves at least one step."""
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise ValueError(f"guidance_interval (={low:g}, {high:g}) must be 0 <= low <= high <= 1; correct it")
    if every < 1:
        raise ValueError(f"guidance_every (={every}) must be at least 1; raise it")


def branch_inputs(
    branches: list[Branch], states: TextStates, null_states: TextStates | None, image_latents: Tensor
) -> tuple[Tensor, Tensor]:
    """Text features and image latents of all branches, stacked along the batch in branch order."""
    if null_states is None and not all(b.text for b in branches):
        raise ValueError("guidance needs null_hidden_states (=None); pass them or set guidance_scale=1")
    text = [states if b.text else null_states for b in branches]
    image = [image_latents if b.image else torch.zeros_like(image_latents) for b in branches]
    return torch.cat(text), torch.cat(image)  # pyright: ignore[reportArgumentType]


def repeat(tensor: Tensor, branches: list[Branch]) -> Tensor:
    """One copy of the batch per branch."""
    return torch.cat([tensor] * len(branches))


def combine(x0: Float[Tensor, "kb c f h w"], branches: list[Branch], guidance_rescale: float = 0.0) -> Clip:
    """Weighted sum of the branches' estimates, rescaled to the fully conditioned one."""
    parts = x0.chunk(len(branches))
    weights = [torch.as_tensor(b.weight, dtype=x0.dtype, device=x0.device) for b in branches]
    terms = [w.reshape(-1, 1, 1) * part for w, part in zip(weights, parts, strict=True)]
    guided = torch.stack(terms).sum(0)
    return rescale_guidance(guided, parts[0], guidance_rescale) if guidance_rescale > 0 else guided


def rescale_guidance(guided: Clip, conditioned: Clip, strength: float) -> Clip:
    """Guidance rescale of Lin et al. (2305.08891), Eqs. 15 and 16, **applied to the estimate of z_0**.

    ``guided <- strength * guided * std(conditioned) / std(guided) + (1 - strength) * guided``, the standard
    deviation over each clip. The paper rescales the network's output; on z_0 it bounds what it is meant to
    bound, the contrast of the picture, and has the same effect whatever the prediction type and timestep.
    """
    over = tuple(range(1, guided.ndim))
    ratio = conditioned.std(over, keepdim=True) / guided.std(over, keepdim=True).clamp_min(1e-8)
    return guided * (strength * ratio + (1 - strength))


def with_first_frame(clip: Clip, reference: Reference) -> Clip:
    """The clip with the reference's frame 0 as its first frame."""
    return torch.cat([reference[:, :, :1].to(clip.dtype).expand_as(clip[:, :, :1]), clip[:, :, 1:]], dim=2)
