"""Does `trip evaluate` see what it should, and what does it cost?

    python -m benchmarks.evaluation --json docs/results/evaluation.json
    python -m benchmarks.evaluation --rows cost --threads 2 --json cost.json

Real clips are those of a folder with metadata.jsonl (`--clips`), the feature networks those of `--weights` or of the
cache. Nothing here needs a model.

==========  ============================================================================================================
row         measured
==========  ============================================================================================================
`cost`      FVD and F-Consistency of `--count` clips of 16 frames against as many: seconds, CPU seconds, peak memory.
            The clips are distinct windows of the real ones. Bar: 10 minutes on 2 cores, 4 GB
`sanity`    `--sanity-count` real clips, their blurred, frozen and shuffled copies. In each of 20 random halvings, one
            half of each kind is measured against the other, real half: FVD of real clips should be the least. Beside
            it, over all clips: F-Consistency, flow magnitude, warping error
==========  ============================================================================================================
"""

import json
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from benchmarks.command import command
from trip.data.video.reading import read_video
from trip.data.video.writing import write_video
from trip.evaluation.frechet import frechet_of_samples
from trip.evaluation.metric import mean_result
from trip.evaluation.metrics.consistency import frame_consistency, motion_warning
from trip.evaluation.motion import FLOW, clip_motion
from trip.evaluation.networks import Networks
from trip.evaluation.report import EvaluationSettings, evaluate_folders
from trip.files import write_json

FRAMES = 16
SPLITS = 20
BLUR = 2.0
"""Standard deviation in pixels."""

BAR_COUNT, MINUTES_BAR, MEMORY_BAR = 256, 10, 4.0
GIGABYTE = 2**30


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Command line."""

    json: Path
    """File for the results; rows that are not measured again stay as they are."""
    rows: str = "cost,sanity"
    """What to measure."""
    clips: Path = Path("../shared/clips")
    """Folder whose subfolders train and test hold clips of at least 16 frames."""
    weights: Path | None = Path("../shared/weights")
    """Folder of weights; one that is not there means the cache."""
    count: int = BAR_COUNT
    """Clips a side of the row cost."""
    sanity_count: int = 216
    """Clips of the row sanity, before they are halved."""
    threads: int | None = None
    """Threads of PyTorch (default: its own choice)."""
    seed: int = 0
    """Of what is drawn."""
    debug: bool = False
    """Traceback on errors."""


@dataclass(frozen=True)
class Window:
    """16 frames of a file, from `start` on."""

    file: Path
    start: int

    def frames(self) -> np.ndarray:
        """uint8 f H W 3."""
        return read_video(self.file, max_frames=self.start + FRAMES).frames[self.start :]


def windows(folder: Path, count: int, seed: int) -> list[Window]:
    """Distinct windows, drawn so that every clip gives one before any gives two.

    Raises:
        ValueError: there are fewer.
    """
    lengths = [
        (folder / part / row["file_name"], int(row["frames"]))
        for part in ("train", "test")
        for row in map(json.loads, (folder / part / "metadata.jsonl").read_text(encoding="utf-8").splitlines())
    ]
    rng = np.random.default_rng(seed)
    order = [lengths[i] for i in rng.permutation(len(lengths))]
    found = [Window(file, start) for start in range(64) for file, length in order if start + FRAMES <= length]
    if len(found) < count:
        raise ValueError(f"{folder} has {len(found)} windows of {FRAMES} frames, not {count}; ask for fewer")
    return found[:count]


# ------------------------------------------------------------------------------------------------------ cost


def cost(settings: Settings) -> dict[str, Any]:
    """Time and memory of one evaluation; the clips are written beforehand, as PNGs, and decoded in it."""
    chosen = windows(settings.clips, 2 * settings.count, settings.seed)
    with tempfile.TemporaryDirectory(prefix="trip-cost-") as scratch:
        sides = [Path(scratch) / name for name in ("generated", "reference")]
        for number, window in enumerate(tqdm(chosen, desc="writing", leave=False, disable=None)):
            side = sides[number % 2]
            side.mkdir(exist_ok=True)
            write_video(f"{side}/{number:05d}/", window.frames(), fps=8)
        return timed(sides, settings)


def timed(sides: list[Path], settings: Settings) -> dict[str, Any]:
    """One evaluation with a clock."""
    peaks: list[float] = []
    options = EvaluationSettings(
        metrics=("fvd", "f-consistency"), allow_few=True, weights=weights_folder(settings), seed=settings.seed
    )
    wall, cpu = time.perf_counter(), time.process_time()
    with tqdm(total=2 * settings.count, desc="cost", leave=False, disable=None) as bar:

        def progress(file: Path) -> None:
            bar.update()
            peaks.append(peak_memory())

        found = evaluate_folders(*sides, settings=options, progress=progress)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    marks = {f"after {count} clips": round(peaks[count - 1], 2) for count in marked(len(peaks))}
    return {
        "clips": f"{settings.count} against {settings.count}, {FRAMES} frames of 128x128",
        "metrics": {name: result.value for name, result in found.metrics.items()},
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "cpu_s_per_clip": round(cpu / (2 * settings.count), 3),
        "peak_memory_gb": round(peak_memory(), 2),
        "peak_memory_gb_over_time": marks,
        "bar": f"{BAR_COUNT} against {BAR_COUNT} in {MINUTES_BAR} min, {MEMORY_BAR:g} GB",
        "passes": within_bar(settings.count, wall),
    }


def within_bar(count: int, wall: float) -> bool | None:
    """Whether time and memory keep to the bar; None of fewer clips than it speaks of."""
    return None if count < BAR_COUNT else wall <= 60 * MINUTES_BAR and peak_memory() <= MEMORY_BAR


def marked(count: int) -> list[int]:
    """A quarter, a half and all."""
    return sorted({max(count // 4, 1), max(count // 2, 1), count})


def peak_memory() -> float:
    """Largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIGABYTE


# ---------------------------------------------------------------------------------------------------- sanity


def shuffled(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The frames in another order."""
    return clip[rng.permutation(len(clip))]


CHANGES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "real": lambda clip, rng: clip,
    "blurred": lambda clip, rng: np.stack([cv2.GaussianBlur(frame, (0, 0), BLUR) for frame in clip]),
    "frozen": lambda clip, rng: np.repeat(clip[:1], len(clip), axis=0),
    "shuffled": shuffled,
}


@dataclass
class Kind:
    """What was measured on one kind of clips: I3D's logits, and numbers a clip."""

    features: np.ndarray
    numbers: dict[str, list[float]]


def sanity(settings: Settings) -> dict[str, Any]:
    """Every kind of clips, measured once; then distances over halvings."""
    networks = Networks(weights=weights_folder(settings))
    chosen = windows(settings.clips, settings.sanity_count, settings.seed)
    kinds = {name: measured(name, chosen, networks, settings.seed) for name in CHANGES}
    warning = motion_warning(flow_of(kinds["frozen"]), flow_of(kinds["real"]))
    return {
        "clips": f"{len(chosen)} windows of {FRAMES} frames of 128x128, no two of one file while there are enough",
        "fvd": distances(kinds, settings.seed),
        "per_clip": {name: summaries(kind, settings.seed) for name, kind in kinds.items()},
        "warning_of_frozen_clips": warning,
    }


def measured(name: str, chosen: list[Window], networks: Networks, seed: int) -> Kind:
    """One kind."""
    features, numbers = [], {"F-Consistency_all (EfficientNet-Lite0)": [], FLOW: [], "Warping error (DIS)": []}
    rng = np.random.default_rng(seed)
    for pair in pairs(tqdm(chosen, desc=name, leave=False, disable=None)):
        clips = [np.ascontiguousarray(CHANGES[name](window.frames(), rng)) for window in pair]
        batch = torch.from_numpy(np.stack(clips))
        features.append(networks.local("i3d")(batch).numpy())
        consistency = frame_consistency(networks.local("efficientnet-lite0")(batch)).tolist()
        motion = [clip_motion(clip) for clip in clips]
        found = (consistency, [m.flow for m in motion], [m.warping_error for m in motion])
        for values, more in zip(numbers.values(), found, strict=True):
            values.extend(more)
    return Kind(np.concatenate(features), numbers)


def pairs(items: Any) -> Iterator[list[Any]]:
    """Two at a time; the last may be alone."""
    waiting: list[Any] = []
    for item in items:
        waiting.append(item)
        if len(waiting) == 2:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def distances(kinds: dict[str, Kind], seed: int) -> dict[str, Any]:
    """FVD of one half of every kind against the other, real half, over random halvings."""
    rng = np.random.default_rng(seed)
    real, found = kinds["real"].features, {name: [] for name in kinds}
    for _ in range(SPLITS):
        order = rng.permutation(len(real))
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        for name, kind in kinds.items():
            found[name].append(frechet_of_samples(kind.features[first], real[second]))
    table = {name: np.array(values) for name, values in found.items()}
    rows = {name: spread(values) for name, values in table.items()}
    orders = {f"real < {name}": int((table["real"] < table[name]).sum()) for name in table if name != "real"}
    orders |= {f"blurred < {name}": int((table["blurred"] < table[name]).sum()) for name in ("frozen", "shuffled")}
    note = f"{len(real) // 2} clips a side: far too few for 400 features, so compare the rows with one another only"
    return {"mean and 95 % range over halvings": rows, f"halvings of {SPLITS} in which": orders, "note": note}


def spread(values: np.ndarray) -> list[float]:
    """Mean, and the 2.5 and 97.5 % percentiles."""
    return [round(float(x), 2) for x in (values.mean(), *np.percentile(values, [2.5, 97.5]))]


def summaries(kind: Kind, seed: int) -> dict[str, Any]:
    """Means over clips with bootstrap intervals."""
    return {name: mean_result(name, values, seed=seed).as_dict() for name, values in kind.numbers.items()}


def flow_of(kind: Kind) -> Any:
    """Flow magnitude as a metric."""
    return mean_result(FLOW, kind.numbers[FLOW])


# -------------------------------------------------------------------------------------------------- the rest


ROWS = {"cost": cost, "sanity": sanity}


def weights_folder(settings: Settings) -> Path | None:
    """The folder of weights, or None for the cache."""
    return settings.weights if settings.weights is not None and settings.weights.is_dir() else None


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "cpu": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main(settings: Settings) -> None:
    """Measure the rows and write them, each when it is done."""
    rows = [row.strip() for row in settings.rows.split(",") if row.strip()]
    if unknown := [row for row in rows if row not in ROWS] or not rows:
        raise ValueError(f"rows (={settings.rows!r}) must name some of {', '.join(ROWS)}; unknown: {unknown}")
    if not (settings.clips / "train" / "metadata.jsonl").is_file():
        raise ValueError(f"--clips (={settings.clips}) holds no train/metadata.jsonl; name a folder of clips")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    results = json.loads(settings.json.read_text(encoding="utf-8")) if settings.json.is_file() else {}
    for row in rows:
        found = ROWS[row](settings)
        results[row] = {"date": datetime.now(UTC).date().isoformat(), "machine": machine()} | found
        write_json(settings.json, results)
        print(json.dumps({row: results[row]}, indent=2))


if __name__ == "__main__":
    command("benchmarks.evaluation", Settings, __doc__, main)
