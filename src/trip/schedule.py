r"""The noise schedule: (signal, noise) of any diffusers scheduler, for sampling and for training.

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

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.utils import logging
from jaxtyping import Float, Int
from torch import Tensor

from trip.noise_prior import Clip, PredictionType, Reference, prediction_from_sample, vp_coefficients

logger = logging.get_logger(__name__)

# ------------------------------------------------------------------------------------------------- sampling


def set_timesteps(
    scheduler: Any, num_inference_steps: int, device: Any = None, custom: Mapping[str, Sequence[float]] | None = None
) -> Tensor:
    """Set the scheduler's timesteps and return them; second-order schedulers return about twice as many.

    Args:
        custom: `timesteps` or `sigmas` in place of the number of steps.

    Raises:
        ValueError: if the scheduler is of none of the kinds that `schedule_at` reads, or takes no such schedule.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if config.get("use_dynamic_shifting"):
        raise ValueError(f"{name} has use_dynamic_shifting=True, which depends on the size; set it to False")
    if not is_supported(scheduler):
        raise ValueError(f"{name} is not supported; use for example DDIM, DPMSolverMultistep, UniPC or Euler")
    names = inspect.signature(scheduler.set_timesteps).parameters
    if unknown := [option for option in custom or () if option not in names]:
        raise ValueError(f"{name} takes no {unknown[0]} of one's own; leave them out, or use another scheduler")
    options = dict(custom) if custom else {"num_inference_steps": num_inference_steps}
    try:
        scheduler.set_timesteps(**options, device=device)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} takes no such steps ({reason}); choose others, or another scheduler") from None
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    return scheduler.timesteps


RUINOUS = {"clip_sample": False, "thresholding": False}
"""Settings of schedulers that confine the estimate of z_0 to the range of pixels, and their values for latents."""


def for_latents(scheduler: Any) -> Any:
    """The scheduler, or its copy without the settings that clip z_0 to [-1, 1], with a warning."""
    if not (wrong := [name for name in RUINOUS if scheduler.config.get(name)]):
        return scheduler
    logger.warning(
        f"{type(scheduler).__name__} clips samples to the range of pixels, which latents leave; using "
        f"{' and '.join(f'{name}=False' for name in wrong)}"
    )
    return type(scheduler).from_config(scheduler.config, **{name: RUINOUS[name] for name in wrong})


def warn_of_another_process(scheduler: Any, trained: Any) -> None:
    """Warn if a scheduler noises clips otherwise than the one it takes the place of."""
    ours, theirs = (getattr(each, "alphas_cumprod", None) for each in (scheduler, trained))
    if is_flow(scheduler) != is_flow(trained):
        differ = True
    elif not isinstance(ours, Tensor) or not isinstance(theirs, Tensor):
        differ = False
    else:
        rescaled = scheduler.config.get("rescale_betas_zero_snr") != trained.config.get("rescale_betas_zero_snr")
        differ = ours.shape != theirs.shape or bool((ours.cpu() - theirs.cpu()).abs().max() > 1e-3 and not rescaled)
    if differ:
        name = type(scheduler).__name__
        logger.warning(
            f"{name} noises clips otherwise than the model was trained with (betas or flow); "
            f"make it with {name}.from_config(pipe.scheduler.config)"
        )


def rehearse(
    scheduler: Any,
    num_inference_steps: int,
    channels: int = 4,
    custom: Mapping[str, Sequence[float]] | None = None,
    eta: float = 0.0,
) -> int:
    """The number of steps, after a copy of the scheduler has made them on a clip of one pixel.

    Given the true z_0 as its estimate in every step, a scheduler must end there. One that clips, runs backwards, wants
    other inputs, or divides by zero does not, and is found before any work is done.

    Raises:
        ValueError: it fails, or ends elsewhere.
    """
    rehearsed, name = copy.deepcopy(scheduler), type(scheduler).__name__
    generator = torch.Generator().manual_seed(0)
    timesteps = set_timesteps(rehearsed, num_inference_steps, "cpu", custom)
    if "Inverse" in name or timesteps[0] < timesteps[-1]:
        raise ValueError(f"{name} goes from clip to noise; use for example DDIM, DPMSolverMultistep, UniPC or Euler")
    options = accepted(rehearsed.step, generator=generator, eta=eta)
    z_0 = 10.0 * (1 - 2 * (torch.arange(channels) % 2)).reshape(1, channels, 1, 1, 1)
    eps = torch.randn(z_0.shape, generator=generator)
    remedy = "use for example DDIM, DPMSolverMultistep, UniPC or Euler, made with from_config(pipe.scheduler.config)"
    try:
        with torch.random.fork_rng(devices=[]):
            signal, noise = schedule_at(rehearsed, 0, timesteps[0])
            z_t = (signal * z_0 + noise * eps) / scale_model_input(rehearsed, torch.ones_like(z_0), timesteps[0])
            for index, t in enumerate(timesteps):
                z_t = step(rehearsed, index, t, z_0, z_t, options)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name} cannot make {len(timesteps)} steps ({reason}); {remedy}") from None
    if not float((z_t - z_0).abs().max()) < 2.5:
        raise ValueError(f"{name} with its settings does not lead to a clip, even from perfect estimates; {remedy}")
    return len(timesteps)


def step(scheduler: Any, index: int, t: Tensor, x0: Tensor, z_t: Tensor, options: Mapping[str, Any]) -> Tensor:
    """z_t after the scheduler's step `index`, made with the estimate x0 of z_0."""
    z_in = scale_model_input(scheduler, z_t, t)
    signal, noise = schedule_at(scheduler, index, t)
    output = prediction_from_sample(x0, z_in, signal, noise, prediction_type(scheduler))
    return scheduler.step(output, t, z_t, **options, return_dict=False)[0]


def accepted(function: Any, **options: Any) -> dict[str, Any]:
    """The options that `function` has a parameter for."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in names}


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


def noised(
    scheduler: Any, noise: Clip, reference: Reference, positions: Sequence[float], start: float
) -> tuple[Clip, int]:
    """(latents in the scheduler's own scale, number of the first step) of a clip that begins at `start`.

    At 1 it is pure noise. Below, it is the reference noised to the first of the `positions` that are not above `start`
    (SDEdit, 2108.01073), which the scheduler is told to begin with.

    Raises:
        ValueError: a start outside (0, 1], or one that leaves no step.
    """
    if not 0 < start <= 1:
        raise ValueError(f"start (={start:g}) must lie above 0 and be at most 1; choose such a part of the schedule")
    if start == 1:
        return noise * float(getattr(scheduler, "init_noise_sigma", 1.0)), 0
    order = getattr(scheduler, "order", 1)
    begins = [i for i, position in enumerate(positions) if position <= start and i % order == 0]
    if not begins:
        raise ValueError(f"start (={start:g}) leaves none of the {len(positions)} steps; raise it or take more steps")
    first = begins[0]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    t = scheduler.timesteps[first]
    signal, level = schedule_at(scheduler, first, t)
    z_t = signal * reference.float() + level * noise
    return z_t / scale_model_input(scheduler, torch.ones_like(z_t[:1, :1, :1, :1, :1]), t), first


def scale_model_input(scheduler: Any, z_t: Clip, timestep: Tensor) -> Clip:
    """Latents as the network takes them, of latents in the scheduler's own scale; flow schedulers have but one."""
    return scheduler.scale_model_input(z_t, timestep) if hasattr(scheduler, "scale_model_input") else z_t


# ------------------------------------------------------------------------------------------------- training


def noise_levels(
    scheduler: Any, t: Int[Tensor, " b"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"], Float[Tensor, " b"]]:
    """(timestep as the network sees it, signal, noise) of integer steps 0 ... num_train_timesteps - 1.

    Flow: step t is the time (t + 1) / num_train_timesteps, so that the last one is pure noise.
    """
    if is_flow(scheduler):
        time = (t + 1).float() / scheduler.config.num_train_timesteps
        return time * scheduler.config.num_train_timesteps, 1 - time, time
    signal, noise = vp_coefficients(scheduler.alphas_cumprod.to(t.device)[t])
    return t.float(), signal, noise
