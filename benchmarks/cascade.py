"""What does a clip gain at four times its size? Against clips rendered with the asked motion, on the held-out set.

    python -m benchmarks.cascade --json docs/results/cascade.json --bases bases.npz

The bundled model animates stills of its own size; the clips are judged at `--size`. Nothing is tuned on these pairs.

==============  ===============================================================================================
method          clip
==============  ===============================================================================================
`still`         the photograph, repeated
`base`          the base clip, enlarged (bicubic)
`warp`          the photograph moved along the motion of the base clip, mirrored at its edges
`composite`     that where it is visible, the enlarged base elsewhere
`cascade`       `trip.cascade.upsample`
==============  ===============================================================================================

`psnr` is of the later frames to the truth, `energy` and `energy_last` are the gradient energy of the later frames and
of the last one, as a share of the truth's (medians); `as_prompted` counts the cascade's clips that move so, judged at
`--size` by the rule of `benchmarks.motion`. `gain` is the cascade's PSNR less another method's, paired. Intervals are
at 95 %.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
from lab.motion.fidelity import Pair, gradient_energy, object_motion
from lab.motion.pairs import object_pairs, rendered_camera_pairs
from PIL import Image
from tqdm import tqdm
from tyro.conf import arg

from benchmarks.command import command
from benchmarks.motion import circumstances, heldout_set, model_identity
from benchmarks.pages import write_json
from benchmarks.presets import make_clips
from trip.cascade import upsample
from trip.evaluation.intervals import Rate
from trip.evaluation.motion import Frames, camera_motion, dense_flows
from trip.evaluation.pictures import psnr
from trip.models import BUNDLED_MODEL
from trip.motion.estimation import Estimate, estimate_motion
from trip.motion.fields import warp
from trip.opening import choose_device, choose_dtype, load_pipeline
from trip.presets import preset


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Command line."""

    json: Path
    """File for the results."""
    bases: Annotated[Path | None, arg(metavar="FILE.npz", help_behavior_hint="")] = None
    """Base clips: read if the file is there, else written to it."""
    model: str = BUNDLED_MODEL
    """Model folder or hub id."""
    preset: str = "fast"
    """Of the base clips."""
    count: int = 64
    """Pairs with a camera move, and as many with a moving object."""
    size: int = 256
    """Width and height of the clips, pixels."""
    seed: int = 0
    """Of pairs and noise."""
    device: str = "auto"
    """Device to run on."""
    dtype: str = "auto"
    """Precision of the networks."""
    batch_size: int = 8
    """Base clips generated at once."""
    debug: bool = False
    """Traceback on errors."""


def pairs_of(settings: Settings) -> dict[str, list[Pair]]:
    """Rendered pairs, camera and objects apart."""
    photos, cutouts = heldout_set()
    shape: dict[str, Any] = {"size": settings.size, "seed": settings.seed}
    return {
        "camera": rendered_camera_pairs(photos, settings.count, **shape),
        "objects": object_pairs(photos, cutouts, settings.count, **shape),
    }


def base_clips(settings: Settings, sets: dict[str, list[Pair]]) -> dict[str, np.ndarray]:
    """uint8 b f h w 3 of every set, made at the model's own size."""
    if settings.bases is not None and settings.bases.is_file():
        with np.load(settings.bases) as file:
            return {name: file[name][: settings.count] for name in sets}
    device = choose_device(settings.device)
    pipeline = load_pipeline(settings.model, device=device, dtype=choose_dtype(settings.dtype, device))  # pyright: ignore
    side = (pipeline.default_size or (settings.size,) * 2)[0]
    clips = {}
    for name, pairs in sets.items():
        parts = [pairs[i : i + settings.batch_size] for i in range(0, len(pairs), settings.batch_size)]
        small = [[_shrunk(pair, side) for pair in part] for part in parts]
        clips[name] = np.concatenate(
            [make_clips(pipeline, preset(settings.preset), part) for part in tqdm(small, desc=name, disable=None)]
        )
    if settings.bases is not None:
        np.savez(settings.bases, **clips)  # pyright: ignore
    return clips


def _shrunk(pair: Pair, side: int) -> Pair:
    """The pair with its picture at the model's size."""
    image = cv2.resize(pair.image, (side, side), interpolation=cv2.INTER_AREA)
    return Pair(np.asarray(Image.fromarray(image)), pair.prompt, pair.kind, pair.seed)


def methods(still: Frames, base: Frames) -> tuple[dict[str, Frames], Estimate]:
    """Every method's clip of one pair, and the motion that they share."""
    size = still.shape[0]
    photograph = torch.from_numpy(still).permute(2, 0, 1)
    clip = torch.from_numpy(base).permute(0, 3, 1, 2)
    motion = estimate_motion(clip)
    large = motion.resize(size, size)
    enlarged = np.stack([cv2.resize(frame, (size, size), interpolation=cv2.INTER_CUBIC) for frame in base])
    warped = warp(photograph[None], large.field)[0].permute(1, 2, 3, 0).numpy()
    visible = large.visible.permute(0, 2, 3, 1).numpy()
    cascade = upsample(photograph, clip, height=size, width=size, motion=motion).permute(0, 2, 3, 1).numpy()
    return {
        "still": np.repeat(still[None], len(base), 0),
        "base": enlarged.clip(0, 1),
        "warp": warped.clip(0, 1),
        "composite": (visible * warped + (1 - visible) * enlarged).clip(0, 1),
        "cascade": cascade,
    }, motion


def measure(frames: Frames, pair: Pair) -> dict[str, float]:
    """One clip against the truth."""
    assert pair.truth is not None
    later, truth = frames[1:], pair.truth[1:]
    energies = [gradient_energy(frame) for frame in later], [gradient_energy(frame) for frame in truth]
    return {
        "psnr": psnr(np.concatenate(later), np.concatenate(truth)),
        "energy": float(np.sum(energies[0]) / max(np.sum(energies[1]), 1e-12)),
        "energy_last": energies[0][-1] / max(energies[1][-1], 1e-12),
    }


def follows(frames: Frames, pair: Pair) -> bool:
    """Whether a clip moves as prompted."""
    flows, width = dense_flows(frames), frames.shape[2]
    if pair.mask is None:
        return camera_motion(flows.sum(0)).follows(pair.kind, width)
    return object_motion(flows, pair.mask).follows(pair.kind, width)


def mean_row(values: Sequence[float]) -> dict[str, Any]:
    """Mean and its 95 % interval."""
    mean, half = float(np.mean(values)), float(1.96 * np.std(values, ddof=1) / np.sqrt(len(values)))
    return {"mean": mean, "interval_95": [mean - half, mean + half]}


def summary(rows: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Every method's figures over the pairs of a set."""
    table = {}
    for name in rows[0]:
        column = {key: [row[name][key] for row in rows] for key in rows[0][name]}
        table[name] = {
            "psnr": mean_row(column["psnr"]),
            "energy": float(np.median(column["energy"])),
            "energy_last": float(np.median(column["energy_last"])),
            "gain": mean_row([row["cascade"]["psnr"] - row[name]["psnr"] for row in rows]),
        }
    return table


def run(settings: Settings) -> dict[str, Any]:
    """Measure all pairs.

    Returns:
        What is written as JSON.
    """
    if settings.count < 2:
        raise ValueError(f"count (={settings.count}) must be at least 2; ask for more pairs")
    sets = pairs_of(settings)
    bases, results = base_clips(settings, sets), {}
    for name, pairs in sets.items():
        rows, kinds, verdicts = [], {}, []
        for pair, base in tqdm(list(zip(pairs, bases[name], strict=True)), desc=name, disable=None):
            clips, motion = methods(pair.image.astype(np.float32) / 255, base.astype(np.float32) / 255)
            rows.append({method: measure(frames, pair) for method, frames in clips.items()})
            verdicts.append(follows(clips["cascade"], pair))
            kinds[motion.kind] = kinds.get(motion.kind, 0) + 1
        results[name] = {
            "n": len(pairs),
            "explained_as": kinds,
            "as_prompted": Rate.of(verdicts).as_dict(),
            "methods": summary(rows),
        }
    values = {k: v for k, v in asdict(settings).items() if k not in ("json", "bases", "debug")}
    return {"model": model_identity(settings.model), "settings": values, **circumstances(), "results": results}


def main(settings: Settings) -> None:
    """Measure, write, and show."""
    report = run(settings)
    write_json(settings.json, report)
    for name, result in report["results"].items():
        print(f"{name}, N {result['n']}, {result['explained_as']}, as prompted {result['as_prompted']['rate']:.1%}")
        for method, row in result["methods"].items():
            low, high = row["psnr"]["interval_95"]
            print(
                f"  {method:10} {row['psnr']['mean']:6.2f} dB ({low:.2f} to {high:.2f})  energy {row['energy']:.2f}, "
                f"last {row['energy_last']:.2f}  "
                f"cascade gains {row['gain']['mean']:+.2f} dB"
            )


if __name__ == "__main__":
    command("benchmarks.cascade", Settings, __doc__, main)
