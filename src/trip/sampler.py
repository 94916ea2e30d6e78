r"""The denoising loop, as a generator, for any diffusers scheduler.

The loop works on the estimate of z_0: guidance, motion strength and what is pinned are plain statements about it. It is
converted to the scheduler's own prediction type only to be handed to `scheduler.step`.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trip.condition import Condition
from trip.guidance import Guidance
from trip.noise_prior import Clip, scale_motion
from trip.schedule import accepted, for_latents, noised, scale_model_input, schedule_at, set_timesteps
from trip.schedule import step as scheduler_step

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
        remake: ``remake(x0) -> z_t`` makes the step again from another estimate; only of a sampler that is `revised`.
    """

    index: int
    timestep: Tensor
    z_t: Clip
    x0_hat: Clip
    condition: Condition
    guidance: Guidance
    remake: Callable[[Clip], Clip]


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
    schedule: Mapping[str, Sequence[float]] | None = None,
    revised: bool = False,
) -> Iterator[SamplerStep]:
    """Denoise z_T step by step; the last step's `z_t` is the clip.

    Args:
        denoiser: ``denoiser(z_t, timestep, condition, signal, noise)`` returning an object whose `.sample` is the
            estimate of z_0, e.g. `trip.denoiser.TripDenoiser`.
        scheduler: any scheduler that `trip.schedule` reads. Its timesteps are set here. One that clips z_0 to the range
            of pixels is replaced by a copy that does not.
        z_T: standard normal noise; it is multiplied by the scheduler's `init_noise_sigma` here.
        condition: what the clips are conditioned on; text and null text where guidance needs them.
        steps: of the whole schedule.
        guidance: of text and image; None is none.
        motion_strength: g of ``z_0 <- r + g (z_0 - r)``: 0 the still, 1 as trained.
        start: where in the schedule to begin, as t over the number of training timesteps. Below 1 the steps before
            it are left out, and the clip starts from the reference, noised to where it begins.
        generator: for schedulers that add noise; a list gives each clip its own.
        eta: DDIM's noise level; ignored by schedulers without it.
        schedule: `timesteps` or `sigmas` of one's own in place of the steps.
        revised: the consumer may remake steps; takes a copy of the scheduler's state in each.

    Raises:
        ValueError: for a scheduler of none of the known kinds, or missing text features.
    """
    guidance, scheduler = guidance or Guidance(), for_latents(scheduler)
    timesteps = set_timesteps(scheduler, steps, z_T.device, schedule)
    options = accepted(scheduler.step, generator=generator, eta=eta)
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
        pin = condition.pin if index == len(timesteps) - 1 else torch.Tensor.float
        before = state(scheduler, generator) if revised else None
        make = partial(made, scheduler, index, t, z_t, options, pin)
        step = SamplerStep(
            index, t, make(x0), x0, condition, guidance, partial(remade, make, scheduler, generator, before)
        )
        yield step
        z_t, condition, guidance = step.z_t, step.condition, step.guidance


def made(
    scheduler: Any, index: int, t: torch.Tensor, z_t: Clip, options: Any, pin: Callable[[Clip], Clip], x0: Clip
) -> Clip:
    """z_t after a step with the estimate x0, pinned."""
    return pin(scheduler_step(scheduler, index, t, x0, z_t, options))


def remade(make: Callable[[Clip], Clip], scheduler: Any, generator: Generator, before: Any, x0: Clip) -> Clip:
    """The step made again with another x0, from the state before it."""
    assert before is not None, "tell the sampler that its steps are revised"
    restore(scheduler, generator, before)
    return make(x0)


def state(scheduler: Any, generator: Generator) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """What a step changes: the scheduler's attributes, and the generators' states."""
    generators = generator if isinstance(generator, list) else [generator]
    return copy.deepcopy(vars(scheduler)), [g.get_state() for g in generators if g is not None]


def restore(scheduler: Any, generator: Generator, before: tuple[dict[str, Any], list[torch.Tensor]]) -> None:
    """Undo a step."""
    vars(scheduler).update(before[0])
    generators = generator if isinstance(generator, list) else [generator]
    for each, kept in zip([g for g in generators if g is not None], before[1], strict=True):
        each.set_state(kept)
