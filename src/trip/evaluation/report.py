"""From folders of clips to a report: every clip is decoded once, shown to the metrics, and let go.

Generated and real clips take the same path. A metric that is not the paper's own because another network stands in
for CLIP says so in its name: "F-Consistency_4 (EfficientNet-Lite0)".
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import trip.evaluation.metrics  # noqa: F401  registers them
from trip.evaluation.clips import ClipFolder, Clips, common_length, stream_clips
from trip.evaluation.metric import FLOOR, GENERATED, METRICS, REFERENCE, Metric, Result
from trip.evaluation.networks import Networks

DEFAULT_METRICS = ("fvd", "fid", "f-consistency", "motion")

Progress = Callable[[Path], object]
"""Called with every clip that has been measured."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is measured, and how.

    Attributes:
        metrics: of `trip.evaluation.metric.METRICS`. num_frames: of every clip the first so many; None: all.
        weights: folder looked into before the cache. clip: CLIP by short name, hub id or folder; None: F-Consistency
            by EfficientNet-Lite0. videomae: VideoMAE by hub id or folder, for a second FVD.
        allow_few: Fréchet distances of fewer samples than features. seed: of bootstraps.
        batch_size: clips in memory at once. device: of the networks.
    """

    metrics: Sequence[str] = DEFAULT_METRICS
    num_frames: int | None = None
    weights: Path | None = None
    clip: str | None = None
    videomae: str | None = None
    allow_few: bool = False
    seed: int = 0
    batch_size: int = 4
    device: str = "cpu"

    def networks(self) -> Networks:
        """Where features come from."""
        return Networks(weights=self.weights, clip=self.clip, videomae=self.videomae, device=self.device)

    def build(self, networks: Networks) -> dict[str, Metric]:
        """New objects of all metrics, in the order of a report."""
        options = {"seed": self.seed, "allow_few": self.allow_few}
        return {name: kind(networks, **options) for name, kind in METRICS.items() if name in self.metrics}


@dataclass(frozen=True, kw_only=True)
class Side:
    """A folder that was measured: how many clips, and their frame rates and sizes ("WIDTHxHEIGHT"), sorted."""

    folder: str
    clips: int
    fps: list[float]
    sizes: list[str]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an evaluation found.

    Attributes:
        metrics: of the generated clips, by name. reference: of the real ones.
        floor: distances of real clips from real clips. warnings: what makes the numbers doubtful.
        settings: as asked for. num_frames: of every clip. hashes: network's name -> SHA-256 of its file.
        sides: the folders, by role. data: name of a published set, where a protocol took one.
        run: of generated clips, what made them.
    """

    metrics: dict[str, Result]
    reference: dict[str, Result]
    floor: dict[str, Result]
    warnings: list[str]
    settings: EvaluationSettings
    num_frames: int
    hashes: dict[str, str]
    sides: dict[str, Side]
    data: str = ""
    run: dict[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Generated clips."""
        return self.sides[GENERATED].clips

    def record(self) -> dict[str, Any]:
        """All that made the numbers, for JSON: settings, folders, counts, hashes of weights."""
        record = asdict(self.settings) | {"metrics": list(self.settings.metrics), "num_frames": self.num_frames}
        record["weights"] = self.hashes
        record |= {role: asdict(side) for role, side in self.sides.items()}
        return record | ({"data": self.data} if self.data else {})

    def as_dict(self) -> dict[str, Any]:
        """For JSON: metrics, reference, floor, warnings, settings, n, and what made generated clips."""
        numbers = {
            name: {metric: result.as_dict() for metric, result in getattr(self, name).items()}
            for name in ("metrics", "reference", "floor")
        }
        return numbers | {"warnings": self.warnings, "settings": self.record(), "n": self.n} | self.run


def evaluate_folders(
    generated: Clips,
    reference: Clips | None = None,
    floor: Clips | None = None,
    settings: EvaluationSettings | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure a folder of generated clips, against real ones where a metric needs them.

    Args:
        generated, reference: folders of clips. floor: a second folder of real clips; their Fréchet distances from the
            reference are what a perfect model would get at these counts.
        settings: what to measure. progress: called once a clip.

    Raises:
        ValueError: unknown metrics, folders or weights missing, broken clips, unequal frame counts, too few clips.
    """
    settings = settings or EvaluationSettings()
    check_metrics(settings, reference is not None, floor is not None)
    given = {GENERATED: generated, REFERENCE: reference, FLOOR: floor}
    folders = {role: ClipFolder.of(folder) for role, folder in given.items() if folder is not None}
    networks = settings.networks()
    metrics = {
        role: {name: metric for name, metric in settings.build(networks).items() if role in metric.sides}
        for role in given
    }
    for metric in metrics[GENERATED].values():
        metric.prepare(folders[GENERATED], folders.get(REFERENCE))
    frames = check_lengths(folders, settings.num_frames)
    real = folders.get(REFERENCE)
    for role in (GENERATED, FLOOR):
        if role in folders:
            check_counts(metrics[role].values(), len(folders[role].files), len(real.files) if real else 0, frames)
    sides = {role: measure(folder, metrics[role].values(), settings, progress) for role, folder in folders.items()}
    beside: Mapping[str, Metric] = metrics[REFERENCE] if real else {}
    return Report(
        metrics=results(metrics[GENERATED], beside),
        reference=results(beside, {}),
        floor=results(metrics[FLOOR], beside) if FLOOR in folders else {},
        warnings=warnings_of(metrics[GENERATED], beside, sides),
        settings=settings,
        num_frames=frames,
        hashes=networks.hashes,
        sides=sides,
    )


def rehearse(settings: EvaluationSettings, clips: int, real: int, frames: int) -> None:
    """What a measurement will need, asked for before its clips are generated: networks, metrics, counts, lengths.

    Raises:
        ValueError: what `evaluate_folders` would raise for want of them.
    """
    check_metrics(settings, reference=True)
    check_counts(settings.build(settings.networks()).values(), clips, real, frames)


def check_metrics(settings: EvaluationSettings, reference: bool, floor: bool = False) -> None:
    """Metrics must be known, and what they need be there."""
    unknown = [name for name in settings.metrics if name not in METRICS]
    if unknown or not settings.metrics:
        what = f"metric {unknown[0]!r} is unknown" if unknown else "no metrics are asked for"
        raise ValueError(f"{what}; choose of {', '.join(METRICS)}")
    if settings.num_frames is not None and settings.num_frames < 2:
        raise ValueError(f"num_frames (={settings.num_frames}) must be at least 2; motion needs two frames")
    lacking = [name for name in settings.metrics if METRICS[name].against]
    if not reference and (lacking or floor):
        raise ValueError(f"{lacking[0] if lacking else 'a floor'} needs real clips; name a folder with --reference")
    for name in settings.metrics if settings.clip is None else ():
        if METRICS[name].needs_clip:
            raise ValueError(f"{name} needs CLIP; name one with --clip, such as ViT-B/32 or a folder")


def check_lengths(folders: Mapping[str, ClipFolder], num_frames: int | None) -> int:
    """Frames of every clip, which must be as many on all sides; the sides must differ."""
    floor, reference = folders.get(FLOOR), folders.get(REFERENCE)
    if reference and floor and floor.path.resolve() == reference.path.resolve():
        what = f"the floor (={floor.path}) is the reference, whose distance to itself is 0"
        raise ValueError(f"{what}; name other real clips")
    lengths = {folder.path: common_length(folder, num_frames) for folder in folders.values()}
    frames = lengths[folders[GENERATED].path]
    for path, count in lengths.items():
        if count != frames:
            fewest = min(count, frames)
            raise ValueError(
                f"clips of {path} have {count} frames, the generated ones {frames}; "
                f"take the first {fewest} of all (--num-frames {fewest})"
            )
    return frames


def check_counts(metrics: Iterable[Metric], clips: int, real: int, frames: int) -> None:
    """Ask every metric whether it can measure so many clips."""
    for metric in metrics:
        metric.check(clips, real, frames)


def measure(
    folder: ClipFolder, metrics: Iterable[Metric], settings: EvaluationSettings, progress: Progress | None
) -> Side:
    """Decode all clips of a folder once and show them to the metrics."""
    metrics, fps, sizes = list(metrics), set[float](), set[str]()
    for batch in stream_clips(folder, settings.num_frames, settings.batch_size):
        for metric in metrics:
            metric.update(batch)
        fps.update(round(rate, 3) for rate in batch.fps)
        sizes.add(f"{batch.clips.shape[3]}x{batch.clips.shape[2]}")
        for file in batch.files if progress else ():
            progress(file)  # pyright: ignore[reportOptionalCall]
    return Side(folder=str(folder.path), clips=len(folder.files), fps=sorted(fps), sizes=sorted(sizes))


def results(metrics: Mapping[str, Metric], real: Mapping[str, Metric]) -> dict[str, Result]:
    """All numbers of one side by name, beside those of the real clips."""
    found = [result for name, metric in metrics.items() for result in metric.result(real.get(name))]
    return {result.name: result for result in found}


def warnings_of(metrics: Mapping[str, Metric], real: Mapping[str, Metric], sides: Mapping[str, Side]) -> list[str]:
    """What makes the numbers doubtful, one line each."""
    lines = [line for name, metric in metrics.items() for line in metric.warnings(real.get(name))]
    fake = sides[GENERATED]
    for side in sides.values():
        if side.fps != fake.fps:
            rates = [", ".join(f"{rate:g}" for rate in s.fps) for s in (fake, side)]
            lines.append(
                f"frame rates differ ({rates[0]} in {fake.folder}, {rates[1]} in {side.folder}): so does motion"
            )
        if side.sizes != fake.sizes:
            sizes = [", ".join(s.sizes) for s in (fake, side)]
            lines.append(f"frame sizes differ ({sizes[0]} in {fake.folder}, {sizes[1]} in {side.folder})")
    return list(dict.fromkeys(lines))
