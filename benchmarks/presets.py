"""What do the sampling presets cost in quality, and what do they save? Against `quality`, on the held-out set.

    python -m benchmarks.presets --json docs/results/presets.json --page docs/performance-presets.md
    python -m benchmarks.presets --json docs/results/preset-variants.json --variants --photos DIR --rounds 0
      --page docs/results/presets.md                                              what they were chosen by

Every preset makes a clip of the same pictures, prompts and noise. Pictures and wordings are those of
`benchmarks/heldout`; the presets were chosen on training photographs and training wordings.

===============  ===============================================================================================
`seconds`        one clip, in rounds in which every preset has its turn; medians, and of the ratios to `quality`
`evaluations`    of the network for one clip, counted; a guided step takes two
`psnr`, `ssim`   frames 2 to N against those of `quality`, mean over clips; frame 1 is equal by construction
`agreement`      clips that move as prompted (`trip.evaluation.motion`), and the difference to `quality` in points
`consistency`    F-Consistency by EfficientNet-Lite0, consecutive frames, where its weights are at hand
`fvd`            with --fvd: I3D against clips rendered with the asked motion; far too high at these counts, so to be
                 compared with the other rows only
===============  ===============================================================================================

Intervals are at 95 %. That of the difference is for paired proportions (Agresti and Min 2005: half a clip is added to
each of the four kinds of outcome), so that few clips that differ by chance do not give an interval of width zero.
"""

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from lab.motion.fidelity import Pair
from lab.motion.pairs import camera_pairs, rendered_camera_pairs
from PIL import Image
from tqdm import tqdm
from tyro.conf import arg

from benchmarks.command import command
from benchmarks.motion import circumstances, heldout_set, model_identity
from benchmarks.pages import fill_pages, write_json
from benchmarks.preset_variants import variants
from trip.data.synthetic.bank import Photo, SceneBank
from trip.evaluation.features.base import FrameFeatures
from trip.evaluation.features.efficientnet import efficientnet_features
from trip.evaluation.features.i3d import i3d_features
from trip.evaluation.frechet import FeatureSet
from trip.evaluation.intervals import Rate
from trip.evaluation.metric import Result, mean_result
from trip.evaluation.metrics.consistency import frame_consistency
from trip.evaluation.metrics.frechet import frechet_result
from trip.evaluation.motion import camera_motion, dense_flows
from trip.evaluation.pictures import psnr, ssim
from trip.evaluation.weights import find_weights
from trip.models import BUNDLED_MODEL
from trip.opening import choose_device, choose_dtype, load_pipeline
from trip.pipeline import TripPipeline
from trip.presets import PRESETS, SamplingPreset

Clips = np.ndarray
"""uint8, b f H W 3."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Command line."""

    json: Path
    """File for the results."""
    page: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Markdown file whose table `presets`, or `variants`, is replaced."""
    model: str = BUNDLED_MODEL
    """Model folder or hub id."""
    variants: bool = False
    """Measure other ways to save evaluations, in place of all presets."""
    photos: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Training photographs (`python -m lab.photographs DIR`), asked with training wordings, in place of the
    held-out set: what presets may be chosen by."""
    count: int = 200
    """Pairs of a picture and a camera move."""
    rounds: int = 5
    """Clips timed for each preset; 0 times nothing."""
    seed: int = 0
    """Of wordings and noise."""
    fvd: bool = False
    """Measure FVD too, 2 s a clip."""
    weights: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of feature networks (default: the cache of `trip weights`)."""
    dtype: str = "auto"
    """Precision of the networks: auto, float32, bfloat16 or float16."""
    device: str = "auto"
    """Device to run on."""
    batch_size: int = 8
    """Clips generated at once, except where they are timed."""
    debug: bool = False
    """Traceback on errors."""

    @property
    def split(self) -> str:
        """Of photographs and wordings."""
        return "heldout" if self.photos is None else "train"

    @property
    def presets(self) -> Mapping[str, SamplingPreset]:
        """What is measured."""
        return variants() if self.variants else PRESETS


# --------------------------------------------------------------------------------------------------- generation


def make_clips(pipeline: TripPipeline, chosen: SamplingPreset, pairs: Sequence[Pair]) -> Clips:
    """One clip of every pair, in one batch; the noise is the pair's."""
    changed, arguments = chosen.apply(pipeline)
    call: Any = changed
    output = call(
        [Image.fromarray(pair.image) for pair in pairs],
        [pair.prompt for pair in pairs],
        generator=[torch.Generator().manual_seed(pair.seed) for pair in pairs],
        output_type="np",
        **arguments,
    )
    return np.rint(output.frames * 255).astype(np.uint8)


def all_clips(
    pipeline: TripPipeline, presets: Mapping[str, SamplingPreset], pairs: Sequence[Pair], batch_size: int
) -> dict[str, Clips]:
    """Preset -> its clips of all pairs; batch after batch, so that all presets share the machine's moods."""
    parts: dict[str, list[Clips]] = {name: [] for name in presets}
    for start in tqdm(range(0, len(pairs), batch_size), desc="batches", disable=None):
        for name, chosen in presets.items():
            parts[name].append(make_clips(pipeline, chosen, pairs[start : start + batch_size]))
    return {name: np.concatenate(clips) for name, clips in parts.items()}


def count_evaluations(pipeline: TripPipeline, chosen: SamplingPreset, pair: Pair) -> int:
    """Clips that the network sees while it makes one."""
    seen: list[int] = []
    handle = pipeline.unet.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    try:
        make_clips(pipeline, chosen, [pair])
    finally:
        handle.remove()
    return sum(seen)


def time_presets(
    pipeline: TripPipeline, presets: Mapping[str, SamplingPreset], pair: Pair, rounds: int
) -> dict[str, list[float]]:
    """Preset -> seconds of one clip from picture to frames, once a round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in presets}
    for number in range(rounds + 1):
        for name, chosen in presets.items():
            started = time.perf_counter()
            make_clips(pipeline, chosen, [pair])
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


# -------------------------------------------------------------------------------------------------- measurements


def timing_row(seconds: Sequence[float], reference: Sequence[float]) -> dict[str, Any]:
    """Median seconds, and the median over rounds of how many times faster than `quality`."""
    ratios = [slow / fast for slow, fast in zip(reference, seconds, strict=True)]
    return {
        "median": statistics.median(seconds),
        "runs": [round(value, 4) for value in seconds],
        "times_faster": statistics.median(ratios),
        "times_faster_range": [min(ratios), max(ratios)],
    }


def fidelity_rows(clips: Clips, reference: Clips) -> dict[str, Any]:
    """Mean PSNR and SSIM against `quality`'s clips, frames 2 to N, with intervals over clips."""
    rows = {}
    for name, measure in (("psnr", psnr), ("ssim", ssim)):
        values = [np.mean([*map(measure, pictures(a), pictures(b))]) for a, b in zip(clips, reference, strict=True)]
        rows[name] = mean_result(name, values).as_dict()
    return rows


def pictures(clip: np.ndarray) -> np.ndarray:
    """Frames 2 to N, f H W 3 in [0, 1]."""
    return clip[1:].astype(np.float32) / np.float32(255)


def verdicts_of(clips: Clips, pairs: Sequence[Pair]) -> list[bool]:
    """Whether each clip moves as prompted."""
    motions = [camera_motion(dense_flows(clip.astype(np.float32) / 255).sum(0)) for clip in clips]
    return [motion.follows(pair.kind, clips.shape[3]) for motion, pair in zip(motions, pairs, strict=True)]


def agreement_row(verdicts: Sequence[bool], reference: Sequence[bool]) -> dict[str, Any]:
    """The rate, and its difference to `quality` in points with an interval for paired proportions."""
    gained = sum(a and not b for a, b in zip(verdicts, reference, strict=True))
    lost = sum(b and not a for a, b in zip(verdicts, reference, strict=True))
    difference, interval = paired_difference(gained, lost, len(verdicts))
    return {
        **Rate.of(verdicts).as_dict(),
        "gained": gained,
        "lost": lost,
        "points_to_quality": difference,
        "points_interval": interval,
    }


def paired_difference(gained: int, lost: int, total: int, z: float = 1.959963984540054) -> tuple[float, list[float]]:
    """Difference of two paired proportions in points, and Agresti and Min's interval (2005)."""
    n, plus, minus = total + 2, gained + 0.5, lost + 0.5
    centre = (plus - minus) / n
    half = z * np.sqrt(plus + minus - (plus - minus) ** 2 / n) / n
    return 100 * (gained - lost) / total, [100 * (centre - half), 100 * (centre + half)]


def consistency_row(clips: Clips, network: FrameFeatures) -> dict[str, Any]:
    """F-Consistency of consecutive frames, mean over clips."""
    values = [frame_consistency(network(torch.from_numpy(clip[None])))[0] for clip in clips]
    return mean_result("F-Consistency", values, features=network.name).as_dict()


def find_network(name: str, build: Any, settings: Settings) -> Any:
    """A feature network; None, and a line that says why, where its weights are not at hand."""
    try:
        return build(find_weights(name, settings.weights))
    except ValueError as error:
        print(f"not measured: {error}", file=sys.stderr)
        return None


def fvd_row(clips: FeatureSet, truth: FeatureSet) -> Result:
    """FVD with its note."""
    return frechet_result("FVD", clips, truth, allow_few=True)


def video_features(clips: Clips, network: Any) -> FeatureSet:
    """I3D's features of clips."""
    features = FeatureSet(network.name, 400)
    for clip in clips:
        features.add(network(torch.from_numpy(clip[None])).numpy()[:, None])
    return features


# ------------------------------------------------------------------------------------------------------- report

NOT_SETTINGS = ("json", "page", "photos", "weights", "debug")
"""Paths, which say nothing of the result."""


def run(settings: Settings) -> dict[str, Any]:
    """Measure all presets.

    Returns:
        What is written as JSON: settings, date, commit, machine, model, and one entry per preset.
    """
    started, device = time.perf_counter(), choose_device(settings.device)
    pipeline = load_pipeline(settings.model, device=device, dtype=choose_dtype(settings.dtype, device))
    size = (pipeline.default_size or (64, 64))[0]
    pairs = camera_pairs(pictures_of(settings), settings.count, size=size, seed=settings.seed, split=settings.split)
    clips = all_clips(pipeline, settings.presets, pairs, settings.batch_size)
    seconds = time_presets(pipeline, settings.presets, pairs[0], settings.rounds) if settings.rounds else {}
    rows = quality_rows(clips, pairs, settings)
    for name, chosen in settings.presets.items():
        rows[name] |= {"settings": asdict(chosen), "evaluations": count_evaluations(pipeline, chosen, pairs[0])}
        if seconds:
            rows[name]["seconds"] = timing_row(seconds[name], seconds["quality"])
    kept = {name: value for name, value in asdict(settings).items() if name not in NOT_SETTINGS}
    return {
        "model": model_identity(settings.model),
        "settings": kept | {"split": settings.split, "threads": torch.get_num_threads()},
        **circumstances(),
        "seconds": round(time.perf_counter() - started, 1),
        "presets": rows,
    }


def pictures_of(settings: Settings) -> Sequence[Photo]:
    """The photographs to animate."""
    return heldout_set()[0] if settings.photos is None else SceneBank.load(settings.photos, "train").photos


def quality_rows(clips: Mapping[str, Clips], pairs: Sequence[Pair], settings: Settings) -> dict[str, dict[str, Any]]:
    """Everything but time, preset by preset."""
    frames = find_network("efficientnet-lite0", efficientnet_features, settings)
    video = find_network("i3d", i3d_features, settings) if settings.fvd else None
    truth = None if video is None else video_features(rendered(pairs, settings), video)
    verdicts = {name: verdicts_of(made, pairs) for name, made in clips.items()}
    rows: dict[str, dict[str, Any]] = {}
    for name, made in tqdm(clips.items(), desc="measuring", disable=None):
        rows[name] = {"agreement": agreement_row(verdicts[name], verdicts["quality"])}
        if name != "quality":
            rows[name] |= fidelity_rows(made, clips["quality"])
        if frames is not None:
            rows[name]["consistency"] = consistency_row(made, frames)
        if truth is not None:
            rows[name]["fvd"] = fvd_row(video_features(made, video), truth).as_dict()
    return rows


def rendered(pairs: Sequence[Pair], settings: Settings) -> Clips:
    """Clips with the asked motion, of the same photographs, moves and speeds."""
    questions = {"size": pairs[0].image.shape[0], "seed": settings.seed, "split": settings.split}
    truths = rendered_camera_pairs(pictures_of(settings), len(pairs), **questions)
    return np.stack([np.rint(pair.truth * 255).astype(np.uint8) for pair in truths if pair.truth is not None])


def table(results: dict[str, Any]) -> str:
    """The results as a table in Markdown."""
    lines = [
        "| preset | evaluations | seconds | times faster | PSNR | SSIM | agreement | difference | F-Consistency | FVD |"
    ]
    lines.append("|---|" + "---:|" * 9)
    for name, row in results["presets"].items():
        timing, agreement = row.get("seconds"), row["agreement"]
        low, high = agreement["points_interval"]
        cells = [
            f"{row['evaluations']}",
            f"{timing['median']:.2f}" if timing else "",
            f"{timing['times_faster']:.1f}" if timing else "",
            with_interval(row.get("psnr"), 1),
            with_interval(row.get("ssim"), 3),
            f"{agreement['rate']:.1%}",
            "" if name == "quality" else f"{agreement['points_to_quality']:+.1f} ({low:+.1f} to {high:+.1f})",
            with_interval(row.get("consistency"), 2),
            with_interval(row.get("fvd"), 0),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_interval(metric: dict[str, Any] | None, digits: int) -> str:
    """A mean and its interval."""
    if metric is None:
        return ""
    text = f"{metric['value']:.{digits}f}"
    return text if not metric["interval"] else f"{text} ({' to '.join(f'{x:.{digits}f}' for x in metric['interval'])})"


def main(settings: Settings) -> None:
    """Measure, write, and show."""
    results = run(settings)
    write_json(settings.json, results)
    if settings.page is not None:
        fill_pages([settings.page], {"variants" if settings.variants else "presets": table(results)})
    print(table(results))


if __name__ == "__main__":
    command("benchmarks.presets", Settings, __doc__, main)
