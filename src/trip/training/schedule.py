r"""The scheduler that a trained pipeline will carry."""

from typing import Any

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from trip.schedule import is_flow

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def make_scheduler(
    prediction_type: str = "epsilon", zero_terminal_snr: bool = False, like: Any = None
) -> SchedulerMixin:
    """DDIM over the whole range of t; Euler's rule for flow.

    Args:
        prediction_type: the fusion's. zero_terminal_snr: rescale the betas so that t = 999 is pure noise
            (Lin et al. 2024). like: scheduler whose betas are kept; None has Stable Diffusion's.

    Raises:
        ValueError: zero terminal SNR with epsilon, which does not determine z_0 there.
    """
    if prediction_type == "flow_prediction":
        return FlowMatchEulerDiscreteScheduler()
    if zero_terminal_snr and prediction_type == "epsilon":
        raise ValueError(
            "zero_terminal_snr does not go with prediction_type 'epsilon', which leaves z_0 open at t = 999; "
            "choose 'v_prediction', 'sample' or 'flow_prediction'"
        )
    settings: dict[str, Any] = {**STABLE_DIFFUSION, **({} if like is None or is_flow(like) else betas(like))}
    settings["prediction_type"] = prediction_type
    return DDIMScheduler(
        **settings,
        rescale_betas_zero_snr=zero_terminal_snr,
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="trailing",
    )


def betas(scheduler: Any) -> dict[str, Any]:
    """What defines another scheduler's betas."""
    names = ("num_train_timesteps", *STABLE_DIFFUSION)
    return {name: scheduler.config[name] for name in names if name in scheduler.config}
