"""Named trade-offs between quality and time of generation. `docs/performance-presets.md` says what each costs.

    >>> pipeline, arguments = PRESETS["fast"].apply(pipeline)
    >>> frames = pipeline(image, "the camera pans left", **arguments).frames[0]

A preset decides the solver, its steps, and in which of them guidance acts. `quality` is what `TripPipeline` does when
nothing is said. The others were chosen for the bundled model on its training photographs and training wordings;
another model may want other numbers, so look at its clips. Nothing heavy is imported here.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

Pipeline = TypeVar("Pipeline")

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "pndm": "PNDMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "deis": "DEISMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lcm": "LCMScheduler",
    "tcd": "TCDScheduler",
}
"""Short names of diffusers' schedulers for noise-predicting models."""


@dataclass(frozen=True, kw_only=True)
class SamplingPreset:
    """How a clip is sampled.

    Attributes:
        scheduler: name of a scheduler's class in diffusers, put on the model's own noise schedule; None keeps the
            model's scheduler, and so does a flow model, whose process none of the named ones has.
        scheduler_options: of its configuration, in place of the model's.
        steps: denoising steps.
        guidance_interval, guidance_every: where guidance acts and how often it is evaluated, see `trip.guidance`.
    """

    scheduler: str | None = None
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 50
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_every: int = 1

    def apply(self, pipeline: Pipeline) -> tuple[Pipeline, dict[str, Any]]:
        """A pipeline that shares all networks with the given one but has this scheduler, and its call's arguments."""
        changed: Any = copy.copy(pipeline)
        changed.scheduler = self.scheduler_for(changed.scheduler)
        return changed, self.arguments()

    def scheduler_for(self, current: Any) -> Any:
        """This preset's scheduler on the noise schedule of the current one."""
        import diffusers

        from trip.schedule import is_flow

        if self.scheduler is None or is_flow(current):
            return current
        return getattr(diffusers, self.scheduler).from_config(current.config, **self.scheduler_options)

    def arguments(self) -> dict[str, Any]:
        """Arguments of `TripPipeline.__call__`."""
        return {
            "num_inference_steps": self.steps,
            "guidance_interval": self.guidance_interval,
            "guidance_every": self.guidance_every,
        }


DPM = "DPMSolverMultistepScheduler"

PRESETS: Mapping[str, SamplingPreset] = {
    "quality": SamplingPreset(),
    "balanced": SamplingPreset(scheduler=DPM, steps=12),
    "fast": SamplingPreset(scheduler=DPM, steps=4),
    "draft": SamplingPreset(scheduler=DPM, steps=2),
}
"""Name -> preset, from the best to the fastest."""


def preset(name: str) -> SamplingPreset:
    """The preset of a name.

    Raises:
        ValueError: no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
