"""The flags of `trip animate` that say how a clip is sampled, checked and joined with the preset. Imports no torch."""

from dataclasses import replace
from typing import Any

from trip.apps.options import Animate, check_scheduler
from trip.data.video import FPS_RANGE
from trip.presets import SamplingPreset, preset


def check_options(options: Animate) -> None:
    """What can be said before anything is loaded."""
    if options.scheduler is not None:
        check_scheduler(options.scheduler)
    chosen_preset(options)
    rules = {
        "--steps": (options.steps, 1, None),
        "--guidance-every": (options.guidance_every, 1, None),
        "--num-frames": (options.num_frames, 1, None),
        "--decode-chunk-size": (options.decode_chunk_size, 1, None),
        "--motion-strength": (options.motion_strength, 0, None),
        "--guidance-rescale": (options.guidance_rescale, 0, 1),
        "--fps": (options.fps, *FPS_RANGE),
    }
    for flag, (value, low, high) in rules.items():
        if value is not None and not (low <= value and (high is None or value <= high)):
            rule = f"at least {low}" if high is None else f"in {low} to {high}"
            raise ValueError(f"{flag} (={value}) must be {rule}; choose such a value")


def chosen_preset(options: Animate) -> SamplingPreset:
    """The preset, with the flags that were given in the place of its own settings.

    Raises:
        ValueError: an unknown preset, or an interval that is none.
    """
    chosen, interval = preset(options.preset), options.guidance_interval
    if options.scheduler is not None:  # `load_pipeline` puts it in place
        chosen = replace(chosen, scheduler=None, scheduler_options={})
    flags: dict[str, Any] = {
        "steps": options.steps,
        "guidance_interval": None if interval is None else read_interval(interval),
        "guidance_every": options.guidance_every,
    }
    return replace(chosen, **{name: value for name, value in flags.items() if value is not None})


def read_interval(text: str) -> tuple[float, float]:
    """(low, high) of "LOW,HIGH"."""
    try:
        low, high = (float(part) for part in text.split(","))
        assert 0 <= low <= high <= 1
    except (ValueError, AssertionError):
        raise ValueError(
            f"--guidance-interval (={text}) must be LOW,HIGH with 0 <= LOW <= HIGH <= 1, such as 0.4,1; correct it"
        ) from None
    return low, high
