r"""The denoising loop, as a generator, for any diffusers scheduler.

The loop works on the estimate of z_0: guidance, motion strength and what is pinned are plain statements about it. It is
converted to the scheduler's own prediction type only to be handed to `scheduler.step`.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trip.condition import Condition
from trip.guidance import Guidance
from trip.noise_prior import Clip, prediction_from_sample, scale_motion
from trip.schedule import noised, prediction_type, scale_model_input, schedule_at, set_timesteps

Generator = torch.Generator | list[torch.Generator] | None


@dataclass
class SamplerStep:
    """State after one scheduler step.

    A consumer may assign `z_t`, `condition` and `guidance` before it asks for the next step, which goes on from them.

    Attributes:
        index: step number from 0. timestep: the scheduler's timestep, 0-d.
        z_t: latents after the step, in the scheduler's own scale, float32, b c f h w.
        x0_hat: the estimate of z_0 this step was made with.
        condition, guidance: those of the next step.
    """

    index: int
    timestep: Tensor
    z_t: Clip
    x0_hat: Clip
    condition: Condition
    guidance: Guidance


def sample(
    denoiser: Any,
    scheduler: Any,
    z_T: Clip,
    condition: Condition,
    *,
    steps: int,
    guidance: Guidance | None = None,
    motion_strength: float = 1.0,
    start: float = 1.0,
    generator: Generator = None,
    eta: float = 0.0,
) -> Iterator[SamplerStep]:
    """Denoise z_T step by step; the last step's `z_t` is the clip.

    Args:
        denoiser: ``denoiser(z_t, timestep, condition, signal, noise)`` returning an object whose `.sample` is the
            estimate of z_0, e.g. `trip.denoiser.TripDenoiser`.
        scheduler: any scheduler that `trip.schedule` reads. Its timesteps are set here.
        z_T: standard normal noise; it is multiplied by the scheduler's `init_noise_sigma` here.
        condition: what the clips are conditioned on; text and null text where guidance needs them.
        steps: of the whole schedule.
        guidance: of text and image; None is none.
        motion_strength: g of ``z_0 <- r + g (z_0 - r)``: 0 the still, 1 as trained.
        start: where in the schedule to begin, as t over the number of training timesteps. Below 1 the steps before
            it are left out, and the clip starts from the reference, noised to where it begins.
        generator: for schedulers that add noise; a list gives each clip its own.
        eta: DDIM's noise level; ignored by schedulers without it.

    Raises:
        ValueError: for a scheduler of none of the known kinds, or missing text features.
    """
    guidance = guidance or Guidance()
    timesteps = set_timesteps(scheduler, steps, z_T.device)
    step_options = accepted(scheduler.step, generator=generator, eta=eta)
    positions = [t / scheduler.config.get("num_train_timesteps", 1000) for t in timesteps.tolist()]
    z_t, first = noised(scheduler, z_T.float(), condition.reference, positions, start)
    change = None

    for index, t in enumerate(timesteps[first:], first):
        z_in = scale_model_input(scheduler, z_t, t)
        signal, noise = schedule_at(scheduler, index, t)
        plan = guidance.plan(index - first, positions[first:])
        x0 = denoiser(torch.cat([z_in] * len(plan.branches)), t, plan.condition(condition), signal, noise).sample
        x0, change = plan.combine(x0.float(), change, noise)
        x0 = condition.pin(scale_motion(x0, condition.reference, motion_strength))
        output = prediction_from_sample(x0, z_in, signal, noise, prediction_type(scheduler))
        z_t = scheduler.step(output, t, z_t, **step_options, return_dict=False)[0]
        z_t = condition.pin(z_t) if index == len(timesteps) - 1 else z_t
        step = SamplerStep(index, t, z_t, x0, condition, guidance)
        yield step
        z_t, condition, guidance = step.z_t, step.condition, step.guidance


def accepted(function: Any, **options: Any) -> dict[str, Any]:
    """The options that `function` has a parameter for."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in names}
