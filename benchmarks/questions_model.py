r"""What a trained network and its temporal noise fusion add to the prior, and what happens when clips are chained.

The network runs once for every clip and timestep; its residual is then fused in four ways on the same noise:

==============  ==================================================================================================
`prior`         variance-optimal fusion with residual 0: the shortcut path alone
`optimal`       variance-optimal fusion of the network's residual: TNF's learned part left out
`rescaled`      the same with the residual times a number a timestep and frame, fitted on the other half of the clips
`tnf`           the model as it is
==============  ==================================================================================================

Network and TNF were trained together: `optimal` asks what breaks without TNF, `rescaled` what the residual holds.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from lab.motion.fidelity import gradient_energy
from lab.motion.pairs import whole_photo
from torch import Tensor

from trip.ablation.scores import TIMESTEPS, HeldOut, fixed_noise, follows, snr_at
from trip.condition import still
from trip.data.synthetic.bank import Photo
from trip.data.synthetic.captions import CAMERA_KINDS, draw_caption
from trip.evaluation.intervals import bootstrap_interval
from trip.evaluation.pictures import psnr
from trip.noise_fusion import OptimalNoiseFusion, TemporalNoiseFusion
from trip.noise_prior import per_clip
from trip.pipeline import TripPipeline
from trip.schedule import noise_levels

FUSIONS = ("prior", "optimal", "rescaled", "tnf")
STEPS = (("prior", "optimal"), ("prior", "rescaled"), ("optimal", "tnf"), ("rescaled", "tnf"))
"""What is compared with what."""

BATCH = 8
Errors = dict[str, Float[np.ndarray, "n t f"]]


# --------------------------------------------------------------------------------------------- errors, four ways


def check_fusion(pipeline: TripPipeline) -> TemporalNoiseFusion:
    """The model's fusion.

    Raises:
        ValueError: none that refines the variance-optimal one.
    """
    fusion = pipeline.fusion
    if not isinstance(fusion, TemporalNoiseFusion) or fusion.to_gate is None:
        raise ValueError(
            f"the model's fusion (={type(fusion).__name__}) is no TemporalNoiseFusion of base 'optimal'; choose another"
        )
    return fusion


@torch.no_grad()
def measure_network(pipeline: TripPipeline, clips: HeldOut) -> dict[str, Any]:
    """Errors of z_0 of the four fusions with paired intervals, and what TNF attends to."""
    fusion, n, f = check_fusion(pipeline), len(clips.latents), clips.latents.shape[2]
    errors = {name: np.empty((n, len(TIMESTEPS), f)) for name in (*FUSIONS, "product", "step")}
    looks: list[list[dict[str, Tensor]]] = [[] for _ in TIMESTEPS]
    for start in range(0, n, BATCH):
        part = slice(start, start + BATCH)
        z_0, text = (
            clips.latents[part],
            pipeline.encode_prompt(clips.captions[part], do_classifier_free_guidance=False)[0],
        )
        for column, t in enumerate(TIMESTEPS):
            eps = torch.stack([fixed_noise(z_0[0].shape, start + row, t) for row in range(len(z_0))])
            with watched(fusion, f, looks[column]):
                estimates = estimates_at(pipeline, z_0, text, t, eps)
            for name, values in squares(estimates, z_0).items():
                errors[name][part, column] = values.mean(dim=(1, 3, 4)).numpy()
    errors["rescaled"] = rescaled(errors["prior"], errors.pop("product"), errors.pop("step"))
    return {
        "n": n,
        "errors": summarised(errors, snr_at(pipeline.scheduler)),
        "attention": {name: [mean_of(rows, name) for rows in looks] for name in looks[0][0]},
    }


def estimates_at(pipeline: TripPipeline, z_0: Tensor, text: Any, t: int, eps: Tensor) -> dict[str, Tensor]:
    """z_0 from z_0 noised to t by every fusion; one pass through the network."""
    timestep, signal, noise = noise_levels(pipeline.scheduler, torch.full((len(z_0),), t))
    z_t, condition = per_clip(signal, z_0) * z_0 + per_clip(noise, z_0) * eps, still(z_0[:, :, :1], text=text)
    made = pipeline.denoiser(z_t, timestep, condition, signal, noise)
    optimal = OptimalNoiseFusion(sigma=pipeline.fusion.config["sigma"])
    return {
        "prior": optimal(z_t, condition, torch.zeros_like(z_t), signal, noise, timestep),
        "optimal": optimal(z_t, condition, made.residual.float(), signal, noise, timestep),
        "tnf": made.sample,
    }


def squares(estimates: dict[str, Tensor], z_0: Tensor) -> dict[str, Tensor]:
    """Squared errors; squared step from the prior's estimate to that with the residual; product of step and error."""
    off, step = estimates["prior"] - z_0, estimates["prior"] - estimates["optimal"]
    return {name: (e - z_0).square() for name, e in estimates.items()} | {"product": off * step, "step": step.square()}


def rescaled(
    prior: Float[np.ndarray, "n t f"], product: Float[np.ndarray, "n t f"], step: Float[np.ndarray, "n t f"]
) -> Float[np.ndarray, "n t f"]:
    """Errors with ``c(t, f)`` times the residual; c is the least-squares fit of the clips of the other parity."""
    errors = np.empty_like(prior)
    for parity in (0, 1):
        own, other = slice(parity, None, 2), slice(1 - parity, None, 2)
        c = product[other].sum(0) / np.maximum(step[other].sum(0), 1e-12)
        errors[own] = prior[own] - 2 * c * product[own] + c**2 * step[own]
    return errors


def summarised(errors: Errors, snr: Float[np.ndarray, " t"]) -> dict[str, Any]:
    """Errors of frames 2 and later by timestep, by quarter of t and by frame, and their differences.

    `noise` is the error of epsilon, snr times that of z_0: the part of the noise's variance that is left.
    """
    moving = {name: e[:, :, 1:] for name, e in errors.items()}
    quarters = {name: np.stack([q.mean(axis=(1, 2)) for q in np.split(e, 4, axis=1)], 1) for name, e in moving.items()}
    frames = {name: e.mean(axis=1) for name, e in moving.items()}
    return {
        "noise": {name: snr * e.mean(axis=(0, 2)) for name, e in moving.items()},
        "by_quarter": compared(quarters),
        "by_frame": compared(frames),
    }


def compared(columns: dict[str, Float[np.ndarray, "n k"]]) -> dict[str, Any]:
    """Means over clips, and paired changes in percent of the mean that they start from, with bootstrap intervals."""
    means = {name: values.mean(0) for name, values in columns.items()}
    changes = {}
    for old, new in STEPS:
        scaled = 100 * (columns[new] - columns[old]) / means[old]
        changes[f"{new}-{old}"] = [
            {"value": float(column.mean()), "interval": bootstrap_interval(column)} for column in scaled.T
        ]
    return {"means": means, "changes": changes}


# ---------------------------------------------------------------------------------------------- what TNF attends to


@contextmanager
def watched(fusion: TemporalNoiseFusion, num_frames: int, looks: list[dict[str, Tensor]]) -> Iterator[None]:
    """While active, every pass of the fusion appends to `looks` what its attention and its two outputs did."""
    look: dict[str, Tensor] = {"prior": torch.empty(0), "own_frame": torch.empty(0)}
    masses: list[Tensor] = []

    def attend(module: Any, inputs: tuple[Tensor, Tensor]) -> None:
        masses.append(attention_mass(module, *inputs, num_frames))

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Tensor) -> None:
            moving = output[:, output.shape[1] // num_frames :].float()  # frame 1 is given: its outputs have no effect
            look[name] = moving.square().mean().sqrt() if name == "correction" else moving.clamp(-6, 6).mean()

        return hook

    with ExitStack() as hooks:
        for block in fusion.blocks:
            handle = block.cross_attention.register_forward_pre_hook(attend)  # pyright: ignore[reportAttributeAccessIssue]
            hooks.callback(handle.remove)
        hooks.callback(fusion.to_correction.register_forward_hook(keep("correction")).remove)
        hooks.callback(fusion.to_gate.register_forward_hook(keep("gate")).remove)  # pyright: ignore[reportOptionalMemberAccess]
        yield
    mass = torch.cat(masses)
    looks.append(
        look
        | {
            "prior": mass[:, :, 0].sum(-1).mean(-1),
            "own_frame": mass.sum(2).diagonal(dim1=1, dim2=2).mean(-1),
            "first_frame": mass.sum(2)[:, :, 0].mean(-1),
        }
    )


def attention_mass(module: Any, x: Tensor, context: Tensor, num_frames: int) -> Float[Tensor, "k f 2 g"]:
    """Mass that queries of frame f put on the prior's (0) and residual's (1) tokens of frame g, by head; sums to 1."""
    split = "b n (k d) -> b k n d"
    q = rearrange(module.to_q(x), split, k=module.num_heads)
    k = rearrange(module.to_kv(context).chunk(2, dim=-1)[0], split, k=module.num_heads)
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    mass = rearrange(weights, "b k (f p) (s g q) -> b k f p s g q", f=num_frames, s=2, g=num_frames)
    return mass.sum(-1).mean(dim=(0, 3))


def mean_of(rows: Sequence[dict[str, Tensor]], name: str) -> Any:
    """Mean over batches."""
    return torch.stack([row[name] for row in rows]).mean(0).numpy().tolist()


# ----------------------------------------------------------------------------------------------------- chained clips


@torch.no_grad()
def measure_chain(
    pipeline: TripPipeline, photos: Sequence[Photo], *, segments: int, steps: int, seed: int
) -> tuple[dict[str, Any], Float[np.ndarray, "n f H W 3"]]:
    """Chain clips of photographs, each segment from the last latent of the one before, and measure along the chain.

    Half of the prompts ask for stillness, where PSNR against frame 1 is drift and nothing else; the others for a camera
    move, where sharpness is judged and whether every segment follows.

    Returns:
        The measurements, and the frames in [0, 1]: still prompts first, then moves.
    """
    size = (pipeline.default_size or (64, 64))[0]
    rng, moves = np.random.default_rng([seed, 1]), [CAMERA_KINDS[k % len(CAMERA_KINDS)] for k in range(len(photos))]
    kinds = ["still"] * len(photos) + moves
    captions = [
        draw_caption(kind, rng, "heldout", p.caption) for kind, p in zip(kinds, [*photos, *photos], strict=True)
    ]
    stills = [torch.from_numpy(whole_photo(p, size)).movedim(-1, 0).float() / 255 for p in photos] * 2
    latents, length = chained(pipeline, stills, captions, segments=segments, steps=steps, seed=seed)
    frames = pixels(pipeline, latents)
    still, moving = frames[: len(photos)], frames[len(photos) :]
    return {
        "n": len(photos),
        "segments": segments,
        "segment_frames": length,
        "drift": along(still, similarity, start=1),
        "sharpness_still": along(still, sharpness),
        "sharpness": along(moving, sharpness),
        "follows": [count_follows(moving[:, k * (length - 1) :][:, :length], moves) for k in range(segments)],
        "round_trip_psnr": round_trips(pipeline, latents[:, :, length - 1 : length]),
    }, frames


def chained(
    pipeline: TripPipeline, stills: Sequence[Tensor], captions: list[str], *, segments: int, steps: int, seed: int
) -> tuple[Tensor, int]:
    """Latents of the whole chain, whose seams are shared frames, and the frames of a segment.

    The prior's reference of a later segment is the last latent itself; the network sees that frame decoded and encoded.
    """
    chain, call, length = torch.empty(0), _caller(pipeline), 0
    images, reference = list(stills), None
    for segment in range(segments):
        seeds = [1000 * seed + 100 * segment + row for row in range(len(stills))]
        parts = [
            call(images[k : k + BATCH], captions[k : k + BATCH], seeds[k : k + BATCH], steps, of_batch(reference, k))
            for k in range(0, len(stills), BATCH)
        ]
        made = torch.cat(parts)
        length = made.shape[2]
        chain = made if segment == 0 else torch.cat([chain, made[:, :, 1:]], dim=2)
        reference = made[:, :, -1:]
        last = torch.from_numpy(pixels(pipeline, reference)[:, 0])
        images = list(last.movedim(-1, 1))
    return chain, length


def _caller(pipeline: TripPipeline) -> Callable[..., Tensor]:
    """The pipeline as a function to latents."""

    def call(images: Any, captions: Any, seeds: Sequence[int], steps: int, reference: Tensor | None) -> Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        options: dict[str, Any] = {
            "num_inference_steps": steps,
            "reference_latents": reference,
            "output_type": "latent",
        }
        return pipeline(images, captions, generator=generators, **options).frames  # pyright: ignore

    return call


def of_batch(reference: Tensor | None, start: int) -> Tensor | None:
    """The references of a batch of clips."""
    return None if reference is None else reference[start : start + BATCH]


@torch.no_grad()
def pixels(pipeline: TripPipeline, latents: Tensor) -> Float[np.ndarray, "n f H W 3"]:
    """Frames in [0, 1]."""
    decoded = torch.cat([pipeline.decode_latents(clip[None]) for clip in latents])
    return (decoded / 2 + 0.5).clamp(0, 1).movedim(1, -1).float().numpy()


def sharpness(clip: Float[np.ndarray, "f H W 3"], k: int) -> float:
    """Gradient energy of frame k over frame 0's."""
    return gradient_energy(clip[k]) / max(gradient_energy(clip[0]), 1e-12)


def similarity(clip: Float[np.ndarray, "f H W 3"], k: int) -> float:
    """PSNR in dB of frame k to frame 0; at most 60, so that equal frames have a mean."""
    return min(psnr(clip[k], clip[0]), 60.0)


def along(
    clips: Float[np.ndarray, "n f H W 3"], measure: Callable[[np.ndarray, int], float], start: int = 0
) -> dict[str, Any]:
    """Mean over clips of a number a frame, with bootstrap intervals; `frame` counts from 1."""
    places = range(start, clips.shape[1])
    values = np.array([[measure(clip, k) for k in places] for clip in clips])
    ends = [bootstrap_interval(column) or (float(column[0]),) * 2 for column in values.T]
    low, high = zip(*ends, strict=True)
    return {"frame": [k + 1 for k in places], "mean": values.mean(0), "low": low, "high": high}


def count_follows(clips: Float[np.ndarray, "n f H W 3"], kinds: Sequence[str]) -> int:
    """Clips that show the camera move asked for."""
    as_bytes = (clips * 255 + 0.5).astype(np.uint8)
    return sum(follows(frames, kind) for frames, kind in zip(as_bytes, kinds, strict=True))


def round_trips(pipeline: TripPipeline, latents: Tensor) -> float:
    """Mean PSNR in dB of latents decoded, encoded and decoded again to the same decoded once: a seam in pixels."""
    once = pixels(pipeline, latents)
    images = torch.from_numpy(once[:, 0]).movedim(-1, 1) * 2 - 1
    twice = pixels(pipeline, pipeline.encode_image(images))
    return float(np.mean([psnr(a[0], b[0]) for a, b in zip(once, twice, strict=True)]))
