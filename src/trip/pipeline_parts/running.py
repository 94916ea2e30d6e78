"""What a running call shows and lets callbacks change, by the names that diffusers gives them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
)
from torch import Tensor

from trip import calls, sampler
from trip.inputs import (
    same_shape,
    scale_of_frames,
    shown,
)
from trip.noise_prior import Clip


class Running(DiffusionPipeline):
    """Progress, callbacks, and the properties of a call."""

    @property
    def guidance_scale(self) -> Any:
        """Text guidance of the running or last call; set `pipe._guidance_scale` in a callback to change it."""
        return calls.of_thread(self).guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the next step evaluates the negative prompt; a scale up to 1, set in a callback, turns it off."""
        call = calls.of_thread(self)
        scale = torch.as_tensor(1.0 if call.guidance_scale is None else call.guidance_scale)
        return bool((scale > 1).any() if call.changed else (scale != 1).any())

    @property
    def num_timesteps(self) -> int:
        """Steps of the running or last call."""
        return calls.of_thread(self).num_timesteps

    @property
    def interrupt(self) -> bool:
        """Set `pipe._interrupt = True` to stop after the current step; from another thread, it stops all calls."""
        return calls.of_thread(self).interrupt

    @property
    def cross_attention_kwargs(self) -> dict[str, Any] | None:
        """Of the running or last call."""
        return calls.of_thread(self).cross_attention_kwargs

    @property
    def clip_skip(self) -> int | None:
        """Of the running or last call."""
        return calls.of_thread(self).clip_skip

    @property
    def _guidance_scale(self) -> Any:
        return self.guidance_scale

    @_guidance_scale.setter
    def _guidance_scale(self, scale: Any) -> None:
        call = calls.of_thread(self)
        call.guidance_scale, call.changed = scale_of_frames("guidance_scale", scale), True

    @property
    def _num_timesteps(self) -> int:
        return self.num_timesteps

    @property
    def _interrupt(self) -> bool:
        return self.interrupt

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        calls.interrupt(self, bool(value))

    def _follow(
        self,
        steps: Iterable[sampler.SamplerStep],
        call: calls.Call,
        callback: Callable[..., dict[str, Any] | None] | None,
        names: Sequence[str],
        null_text: Callable[[], Tensor],
    ) -> Clip:
        """Run the sampler with progress bar and callback, and return the last step's latents."""
        latents = None
        with self.progress_bar(total=call.num_timesteps) as bar:  # pyright: ignore
            for step in steps:
                if callback is not None:
                    self._call_back(step, call, callback, names, null_text)
                latents = step.z_t
                bar.update()
                if call.interrupt:
                    break
        assert latents is not None  # at least one step
        return latents

    def _call_back(
        self,
        step: sampler.SamplerStep,
        call: calls.Call,
        callback: Callable[..., dict[str, Any] | None],
        names: Sequence[str],
        null_text: Callable[[], Tensor],
    ) -> None:
        """Give a step to the callback and take over what it changed, in place or by returning it."""
        old = {
            "latents": step.z_t,
            "denoised_latents": step.x0_hat,
            "prompt_embeds": step.condition.text,
            "negative_prompt_embeds": step.condition.null_text,
        }
        given = {name: old[name] if old[name] is None else old[name].clone() for name in names}
        returned = callback(self, step.index, step.timestep, dict(given))
        if not isinstance(returned, Mapping | None):
            raise ValueError(f"the callback returned {shown(returned)}; return a dict of tensors by name, or None")
        returned = returned or {}
        new = {name: same_shape(name, returned.get(name, given.get(name)), tensor) for name, tensor in old.items()}
        if new["denoised_latents"] is not None:
            step.z_t = step.remake(new["denoised_latents"])
        if new["latents"] is not None:
            step.z_t = new["latents"]
        texts = {"text": new["prompt_embeds"], "null_text": new["negative_prompt_embeds"]}
        if call.changed:
            scale = call.guidance_scale if self.do_classifier_free_guidance else 1.0
            self.check_guidance(scale, step.guidance.image_scale, step.z_t.shape[2])
            step.guidance = replace(step.guidance, scale=scale)
            if step.guidance.needs_null_text and step.condition.null_text is None and texts["null_text"] is None:
                texts["null_text"] = null_text()
        step.condition = replace(step.condition, **{k: v for k, v in texts.items() if v is not None})
