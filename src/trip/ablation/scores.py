r"""What one network is worth on held-out clips: its error at fixed noise, and the clips that it makes.

**Error.** For clip k, timestep t and a noise that depends on k and t alone: ``z_t = a z_0 + s eps``, the network's
estimate z_0_hat, and the mean square of ``z_0_hat - z_0`` over channels and positions of every frame. As an error of
the noise (TRIP Eq. 10) it is snr times that, ``eps_hat - eps = -(a / s) (z_0_hat - z_0)``.

**Clips.** Sampled from each held-out clip's first frame and caption with its own seed: whether they move as prompted
(`trip.evaluation.motion`), how much, and how consistent their frames' features are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from trip.condition import still
from trip.data.cache.latents import LatentClips
from trip.data.synthetic.captions import CAMERA_KINDS, draw_caption
from trip.data.text import printable
from trip.evaluation.features.base import FeatureNetwork
from trip.evaluation.metrics.consistency import PAIRINGS, frame_consistency
from trip.evaluation.motion import camera_motion, clip_motion, dense_flows
from trip.noise_prior import per_clip
from trip.pipeline import TripPipeline
from trip.schedule import noise_levels

TIMESTEPS = (62, 187, 312, 437, 562, 687, 812, 937)
"""Two in every quarter of 0 ... 999."""

CONSISTENCY_FRAMES = {"4": 4, "all": None}


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out clips: latents n c f h w, captions, and the camera move that a caption asks for, where it is one."""

    latents: Float[Tensor, "n c f h w"]
    captions: list[str]
    kinds: list[str | None]

    def first(self, count: int) -> "HeldOut":
        """The first so many of the clips."""
        return HeldOut(latents=self.latents[:count], captions=self.captions[:count], kinds=self.kinds[:count])


def held_out_clips(folder: Path, count: int) -> HeldOut:
    """The first `count` camera moves of a cache of synthetic motion, or the first clips of any other.

    Synthetic clips get wordings of the training split, always the same: the question is the fusion, not the language.

    Raises:
        ValueError: fewer clips than asked.
    """
    clips = LatentClips(folder)
    kinds = [kind if isinstance(kind := about.get("kind"), str) else None for about in clips.descriptions]
    synthetic = any(kind is not None for kind in kinds)
    chosen = [i for i, kind in enumerate(kinds) if not synthetic or kind in CAMERA_KINDS][:count]
    if len(chosen) < count:
        raise ValueError(f"{folder} has {len(chosen)} clips to score on, {count} are wanted; add some or ask for fewer")
    latents, about = zip(*(clips[i] for i in chosen), strict=True)
    try:
        captions = [caption_of(description, index) for index, description in zip(chosen, about, strict=True)]
    except (KeyError, TypeError, ValueError) as error:
        reason = printable(error, 200)
        raise ValueError(
            f"{folder} has descriptions that no caption can be made of ({reason}); cache it again"
        ) from None
    return HeldOut(latents=torch.stack(latents).float(), captions=captions, kinds=[kinds[i] for i in chosen])


def caption_of(about: dict[str, Any], index: int) -> str:
    """A cached clip's caption; of synthetic ones, a wording that depends on the index."""
    if "kind" not in about:
        if not isinstance(about.get("caption"), str):
            raise ValueError(f"clip {index} has no caption")
        return about["caption"]
    rng = np.random.default_rng((7, index))
    return draw_caption(about["kind"], rng, "train", about["subject"], about["speed"])


# ----------------------------------------------------------------------------------------------------- errors


@torch.no_grad()
def sample_errors(
    pipeline: TripPipeline, clips: HeldOut, timesteps: Sequence[int] = TIMESTEPS, batch_size: int = 16
) -> Float[np.ndarray, "n t f"]:
    """Mean square of z_0_hat - z_0 over channels and positions, for every clip, timestep and frame."""
    errors = np.empty((len(clips.latents), len(timesteps), clips.latents.shape[2]), np.float32)
    for start in range(0, len(clips.latents), batch_size):
        part = slice(start, start + batch_size)
        z_0, text = (
            clips.latents[part],
            pipeline.encode_prompt(clips.captions[part], do_classifier_free_guidance=False)[0],
        )
        for column, t in enumerate(timesteps):
            eps = torch.stack([fixed_noise(z_0[0].shape, start + row, t) for row in range(len(z_0))])
            estimate = estimate_at(pipeline, z_0, text, t, eps)
            errors[part, column] = (estimate - z_0).square().mean(dim=(1, 3, 4)).numpy()
    return errors


def fixed_noise(shape: Sequence[int], clip: int, t: int) -> Tensor:
    """Noise of a clip at a timestep, the same for every network."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1000 * clip + t))


def estimate_at(pipeline: TripPipeline, z_0: Tensor, text: Any, t: int, eps: Tensor) -> Tensor:
    """The network's estimate of z_0 from z_0 noised to t, with its first frame given."""
    timestep, signal, noise = noise_levels(pipeline.scheduler, torch.full((len(z_0),), t))
    z_t = per_clip(signal, z_0) * z_0 + per_clip(noise, z_0) * eps
    return pipeline.denoiser(z_t, timestep, still(z_0[:, :, :1], text=text), signal, noise).sample


def static_errors(clips: HeldOut, timesteps: Sequence[int] = TIMESTEPS) -> Float[np.ndarray, "n t f"]:
    """The same of the estimate that every frame is the image."""
    error = (clips.latents - clips.latents[:, :, :1]).square().mean(dim=(1, 3, 4)).numpy()
    return np.repeat(error[:, None], len(timesteps), axis=1)


def snr_at(scheduler: Any, timesteps: Sequence[int] = TIMESTEPS) -> Float[np.ndarray, " t"]:
    """(signal / noise)^2 of every timestep."""
    _, signal, noise = noise_levels(scheduler, torch.tensor(timesteps))
    return ((signal / noise) ** 2).double().numpy()


# ------------------------------------------------------------------------------------------------------ clips


@torch.no_grad()
def make_clips(
    pipeline: TripPipeline, clips: HeldOut, steps: int, guidance_scale: float, batch_size: int = 8
) -> list[UInt8[np.ndarray, "f H W 3"]]:
    """A clip from every first frame and caption, with the clip's own seed."""
    made: list[np.ndarray] = []
    call: Any = pipeline
    for start in range(0, len(clips.latents), batch_size):
        latents = clips.latents[start : start + batch_size]
        frames = call(
            list(first_frames(pipeline, latents)),
            [pipeline.fitting(caption) for caption in clips.captions[start : start + batch_size]],
            generator=[torch.Generator().manual_seed(start + row) for row in range(len(latents))],
            num_frames=latents.shape[2],
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            output_type="np",
        ).frames
        made += list((frames * 255 + 0.5).astype(np.uint8))
    return made


def still_clips(pipeline: TripPipeline, clips: HeldOut) -> list[UInt8[np.ndarray, "f H W 3"]]:
    """Every first frame, held."""
    stills = (first_frames(pipeline, clips.latents) * 255 + 0.5).byte().permute(0, 2, 3, 1).numpy()
    return [np.repeat(still[None], clips.latents.shape[2], axis=0) for still in stills]


@torch.no_grad()
def first_frames(pipeline: TripPipeline, latents: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b 3 H W"]:
    """First frames as the autoencoder shows them, in [0, 1]."""
    return (pipeline.decode_latents(latents[:, :, :1])[:, :, 0].float() / 2 + 0.5).clamp(0, 1)


def clip_scores(
    made: list[UInt8[np.ndarray, "f H W 3"]], kinds: Sequence[str | None], features: FeatureNetwork | None
) -> dict[str, Float[np.ndarray, " n"]]:
    """Numbers of every clip: `follows` (0 or 1, camera moves only), `flow` (% of the width a frame), consistency."""
    motions = [clip_motion(frames) for frames in made]
    scores = {"flow": [m.flow for m in motions], "warping": [m.warping_error for m in motions]}
    if all(kind in CAMERA_KINDS for kind in kinds):
        scores["follows"] = [float(follows(frames, str(kind))) for frames, kind in zip(made, kinds, strict=True)]
    arrays = {name: np.asarray(values, np.float64) for name, values in scores.items()}
    if features is not None:
        arrays |= consistency_scores(features(torch.from_numpy(np.stack(made))))
    return arrays


def follows(frames: UInt8[np.ndarray, "f H W 3"], kind: str) -> bool:
    """Whether a clip shows the camera move."""
    flow = dense_flows(frames.astype(np.float32) / np.float32(255)).sum(0)
    return camera_motion(flow).follows(kind, frames.shape[2])


def consistency_scores(features: Float[Tensor, "n f d"]) -> dict[str, Float[np.ndarray, " n"]]:
    """F-Consistency over the first four and all frames, in both pairings."""
    return {
        f"consistency-{frames}-{pairing}": frame_consistency(features, pairing, count)
        for frames, count in CONSISTENCY_FRAMES.items()
        for pairing in PAIRINGS
    }
