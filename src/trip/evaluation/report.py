"""From folders of clips to a report: every clip is decoded once, measured, and let go.

Generated and real clips take the same path. A metric that is not the paper's own because another network stands in
for CLIP says so in its name: "F-Consistency_4 (EfficientNet-Lite0)". F-Consistency never comes without motion, since
a frozen clip wins it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from trip.data.metadata import find_metadata
from trip.data.video import read_video
from trip.evaluation.clips import Batch, ClipFolder, Clips, common_length, listed, prompt_of, stream_clips
from trip.evaluation.features.base import FeatureNetwork
from trip.evaluation.features.efficientnet import efficientnet_features
from trip.evaluation.features.i3d import i3d_features
from trip.evaluation.features.inception import inception_features
from trip.evaluation.metrics import (
    PAIRINGS,
    TO_FIRST,
    FeatureSet,
    Metric,
    check_samples,
    clip_motion,
    frame_consistency,
    frechet_metric,
    mean_metric,
    motion_warning,
    psnr,
    share_metric,
    ssim,
    text_similarity,
)
from trip.evaluation.weights import find_weights, sha256_of

METRICS = ("fvd", "fid", "f-consistency", "text", "first-frame", "motion")
DEFAULT_METRICS = ("fvd", "fid", "f-consistency", "motion")
AGAINST_REFERENCE = ("fvd", "fid", "first-frame")

FLOW = "Flow magnitude (DIS), % of width"
FIRST_FEW = 4
"""Frames of F-Consistency_4."""

Progress = Callable[[Path], object]
"""Called with every clip that has been measured."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is measured, and how.

    Attributes:
        metrics: of `METRICS`. num_frames: of every clip the first so many; None: all.
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


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The feature networks that an evaluation needs; None where it needs none.

    Attributes:
        distances: metric's name -> network of a Fréchet distance. consistency: of F-Consistency. clip: of texts.
        hashes: network's name -> SHA-256 of its file.
    """

    distances: dict[str, FeatureNetwork]
    consistency: FeatureNetwork | None
    clip: Any
    hashes: dict[str, str]


@dataclass(kw_only=True)
class Measurements:
    """What one folder amounts to: statistics of features, and numbers of every clip."""

    folder: Path
    clips: int = 0
    frames: int = 0
    fps: Counter[float] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    features: dict[str, FeatureSet] = field(default_factory=dict)
    numbers: dict[str, list[float]] = field(default_factory=dict)

    def extend(self, name: str, values: Sequence[float] | np.ndarray) -> None:
        """More numbers of one kind."""
        self.numbers.setdefault(name, []).extend(float(value) for value in values)


def evaluate_folders(
    generated: Clips,
    reference: Clips | None = None,
    floor: Clips | None = None,
    settings: EvaluationSettings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a folder of generated clips, against real ones where a metric needs them.

    Args:
        generated, reference: folders of clips. floor: a second folder of real clips; their Fréchet distances from the
            reference are what a perfect model would get at these counts.
        settings: what to measure. progress: called once a clip.

    Returns:
        ``{"metrics": {name: {"value", "n", "interval", "features"}}, "reference": the same of the real clips,
        "floor": the same of real against real, "warnings": [...], "settings": {...}, "n": clips}``.

    Raises:
        ValueError: unknown metrics, folders or weights missing, broken clips, unequal frame counts, too few clips.
    """
    settings = settings or EvaluationSettings()
    check_metrics(settings, reference is not None, floor is not None)
    made = listed(generated)
    other, more = (None if side is None else listed(side) for side in (reference, floor))
    check_names(settings, made, other)
    frames = check_lengths(settings, made, other, more)
    networks = load_networks(settings)
    for side in (made, more):
        if side is not None and other is not None:
            check_distances(networks, len(side.files), len(other.files), frames, settings)
    fake = measure_folder(made, networks, settings, progress, first_frames_of=other)
    real = measure_folder(other, networks, settings, progress, frames) if other else None
    second = measure_floor(more, networks, settings, progress, frames) if more else None
    metrics = distances(fake, real, networks, settings) if real else []
    metrics += clip_metrics(fake, networks, settings)
    references = clip_metrics(real, networks, settings) if real else []
    floors = distances(second, real, networks, settings) if second and real else []
    return {
        "metrics": as_dicts(metrics),
        "reference": as_dicts(references),
        "floor": as_dicts(floors),
        "warnings": warnings_of(fake, real, second, metrics, references),
        "settings": record_of(settings, networks, fake, real, second),
        "n": fake.clips,
    }


def check_names(settings: EvaluationSettings, generated: ClipFolder, reference: ClipFolder | None) -> None:
    """Every generated clip needs its picture for first frames, and its prompt for text similarity."""
    if "first-frame" in settings.metrics and reference is not None:
        there = {file.stem for file in reference.files}
        for file in generated.files:
            if file.stem not in there:
                what = f"{reference.path} holds no clip named {file.stem}"
                raise ValueError(f"{what}, whose first frame {file.name} should show")
    for file in generated.files if "text" in settings.metrics else ():
        if not prompt_of(file, None) and not prompt_of(file, find_metadata(file)):
            raise ValueError(f"{file} has no prompt; write it to {file.stem}.txt beside it")


def check_lengths(
    settings: EvaluationSettings, generated: ClipFolder, reference: ClipFolder | None, floor: ClipFolder | None
) -> int:
    """Frames of every clip, which must be as many on all sides; the sides must differ."""
    if reference and floor and floor.path.resolve() == reference.path.resolve():
        what = f"the floor (={floor.path}) is the reference, whose distance to itself is 0"
        raise ValueError(f"{what}; name other real clips")
    frames = common_length(generated, settings.num_frames)
    for side in filter(None, (reference, floor)):
        check_frames(side.path, common_length(side, settings.num_frames), frames)
    return frames


def check_metrics(settings: EvaluationSettings, reference: bool, floor: bool = False) -> None:
    """Metrics must be known, and what they need be there."""
    unknown = [name for name in settings.metrics if name not in METRICS]
    if unknown or not settings.metrics:
        what = f"metric {unknown[0]!r} is unknown" if unknown else "no metrics are asked for"
        raise ValueError(f"{what}; choose of {', '.join(METRICS)}")
    if settings.num_frames is not None and settings.num_frames < 2:
        raise ValueError(f"num_frames (={settings.num_frames}) must be at least 2; motion needs two frames")
    lacking = [name for name in settings.metrics if name in AGAINST_REFERENCE]
    if not reference and (lacking or floor):
        raise ValueError(f"{lacking[0] if lacking else 'a floor'} needs real clips; name a folder with --reference")
    if "text" in settings.metrics and settings.clip is None:
        raise ValueError("text similarity needs CLIP; name one with --clip, such as ViT-B/32 or a folder")


def check_distances(networks: Networks, clips: int, real: int, frames: int, settings: EvaluationSettings) -> None:
    """Ask the networks of Fréchet distances, by a black clip, whether so many clips of so many frames are enough.

    Raises:
        ValueError: too few clips, or clips that are too short for a network.
    """
    for name, network in networks.distances.items():
        features = network(torch.zeros(1, frames, 32, 32, 3, dtype=torch.uint8))
        check_samples(
            name, features.shape[-1], (clips, real), features[0].numel() // features.shape[-1], settings.allow_few
        )


def rehearse(settings: EvaluationSettings, clips: int, real: int, frames: int) -> None:
    """What a measurement will need, asked for before its clips are generated: networks, metrics, counts, lengths.

    Raises:
        ValueError: what `evaluate_folders` would raise for want of them.
    """
    check_metrics(settings, reference=True)
    check_distances(load_networks(settings), clips, real, frames, settings)


# ------------------------------------------------------------------------------------------------- networks


def load_networks(settings: EvaluationSettings) -> Networks:
    """The networks that the settings ask for, with the hashes of their files."""
    distances: dict[str, FeatureNetwork] = {}
    hashes: dict[str, str] = {}

    def local(name: str) -> FeatureNetwork:
        file = find_weights(name, settings.weights)
        network = LOADERS[name](file, settings.device)
        hashes[network.name] = sha256_of(file)
        return network

    if "fvd" in settings.metrics:
        distances["FVD"] = local("i3d")
        if settings.videomae is not None:
            from trip.evaluation.features.videomae import videomae_features

            network = videomae_features(settings.videomae, settings.device)
            distances[f"FVD ({network.name})"] = network
    if "fid" in settings.metrics:
        distances["FID"] = local("inception")
    clip = None
    if settings.clip is not None and {"text", "f-consistency"} & set(settings.metrics):
        from trip.evaluation.features.clip import clip_features

        clip = clip_features(settings.clip, settings.device)
    consistency = None
    if "f-consistency" in settings.metrics:
        consistency = clip if clip is not None else local("efficientnet-lite0")
    return Networks(distances=distances, consistency=consistency, clip=clip, hashes=hashes)


LOADERS: dict[str, Callable[[Path, str], FeatureNetwork]] = {
    "i3d": i3d_features,
    "inception": inception_features,
    "efficientnet-lite0": efficientnet_features,
}
"""Name of the weights -> ``load(file, device)``."""


# -------------------------------------------------------------------------------------------------- measuring


def measure_folder(
    folder: ClipFolder,
    networks: Networks,
    settings: EvaluationSettings,
    progress: Progress | None = None,
    frames: int | None = None,
    first_frames_of: ClipFolder | None = None,
) -> Measurements:
    """Decode and measure all clips of a folder once.

    Args:
        folder: of clips. networks, settings: see there. progress: called once a clip.
        frames: how many the clips must have; None: any number. first_frames_of: folder of clips of the same names,
            whose first frames are the pictures that were animated.
    """
    found = Measurements(folder=folder.path)
    for batch in stream_clips(folder, settings.num_frames, settings.batch_size):
        check_frames(folder.path, batch.clips.shape[1], frames)
        measure_features(found, batch, networks.distances)
        measure_clips(found, batch, networks, settings)
        if first_frames_of is not None and "first-frame" in settings.metrics:
            measure_first_frames(found, batch, first_frames_of)
        found.clips += len(batch.files)
        found.frames = batch.clips.shape[1]
        found.fps.update(round(rate, 3) for rate in batch.fps)
        found.sizes[f"{batch.clips.shape[3]}x{batch.clips.shape[2]}"] += len(batch.files)
        for file in batch.files if progress else ():
            progress(file)  # pyright: ignore[reportOptionalCall]
    return found


def measure_floor(
    folder: ClipFolder, networks: Networks, settings: EvaluationSettings, progress: Progress | None, frames: int
) -> Measurements:
    """Only what Fréchet distances need."""
    only = replace(settings, metrics=[name for name in settings.metrics if name in ("fvd", "fid")])
    return measure_folder(folder, networks, only, progress, frames)


def check_frames(folder: Path, count: int, frames: int | None) -> None:
    """Both sides must be of one length."""
    if frames is not None and count != frames:
        fewest = min(count, frames)
        raise ValueError(
            f"clips of {folder} have {count} frames, the generated ones {frames}; "
            f"take the first {fewest} of all (--num-frames {fewest})"
        )


def measure_features(found: Measurements, batch: Batch, networks: dict[str, FeatureNetwork]) -> None:
    """Statistics for Fréchet distances, by the metric's name."""
    for metric, network in networks.items():
        features = network(batch.clips).numpy()
        features = features if features.ndim == 3 else features[:, None]
        if metric not in found.features:
            found.features[metric] = FeatureSet(network.name, features.shape[-1])
        found.features[metric].add(features)


def measure_clips(found: Measurements, batch: Batch, networks: Networks, settings: EvaluationSettings) -> None:
    """Consistency, text similarity and motion of every clip."""
    frames = networks.consistency(batch.clips) if "f-consistency" in settings.metrics and networks.consistency else None
    if frames is not None:
        for pairing in PAIRINGS:
            found.extend(f"all {pairing}", frame_consistency(frames, pairing))
            if frames.shape[1] >= FIRST_FEW:
                found.extend(f"{FIRST_FEW} {pairing}", frame_consistency(frames, pairing, FIRST_FEW))
    if "text" in settings.metrics and all(batch.prompts):
        frames = frames if frames is not None else networks.clip(batch.clips)
        found.extend("text", text_similarity(frames, networks.clip.text(batch.prompts)))
    if {"f-consistency", "motion"} & set(settings.metrics):
        for clip, rate in zip(batch.clips.numpy(), batch.fps, strict=True):
            motion = clip_motion(clip, rate)
            for name, value in asdict(motion).items():
                found.extend(name, [value])


def measure_first_frames(found: Measurements, batch: Batch, folder: ClipFolder) -> None:
    """PSNR and SSIM of first frames against those of the clips of the same names, brought to their size."""
    originals = {file.stem: file for file in folder.files}
    for file, clip in zip(batch.files, batch.clips, strict=True):
        picture = torch.from_numpy(read_video(originals[file.stem], max_frames=1).frames.copy())
        picture, first = (rearrange(x, "1 H W c -> 1 c H W").float() / 255 for x in (picture, clip[:1]))
        if picture.shape != first.shape:
            picture = F.interpolate(picture, first.shape[-2:], mode="bilinear", antialias=True)
        found.extend("psnr", psnr(first, picture).tolist())
        found.extend("ssim", ssim(first, picture).tolist())


# -------------------------------------------------------------------------------------------------- reporting


def distances(fake: Measurements, real: Measurements, networks: Networks, settings: EvaluationSettings) -> list[Metric]:
    """The Fréchet distances of two folders."""
    return [
        frechet_metric(name, fake.features[name], real.features[name], allow_few=settings.allow_few, seed=settings.seed)
        for name in networks.distances
    ]


def clip_metrics(found: Measurements, networks: Networks, settings: EvaluationSettings) -> list[Metric]:
    """Means and shares over the clips of one folder."""
    metrics = [*consistency_metrics(found, networks, settings), *motion_metrics(found, settings)]
    if "text" in found.numbers:
        name = f"Text similarity ({networks.clip.name})"
        metrics.append(mean_metric(name, found.numbers["text"], features=networks.clip.name, seed=settings.seed))
    for key, name in (("psnr", "First frame PSNR, dB"), ("ssim", "First frame SSIM")):
        if key in found.numbers:
            metrics.append(mean_metric(name, found.numbers[key], seed=settings.seed))
    return metrics


def consistency_metrics(found: Measurements, networks: Networks, settings: EvaluationSettings) -> list[Metric]:
    """F-Consistency_4 and _all, in both pairings, named after the network unless it is CLIP."""
    if networks.consistency is None:
        return []
    features, metrics = networks.consistency.name, []
    substitute = "" if networks.consistency is networks.clip else f" ({features})"
    for pairing in PAIRINGS:
        for count in (str(FIRST_FEW), "all"):
            if values := found.numbers.get(f"{count} {pairing}"):
                name = f"F-Consistency_{count}{' to-first' if pairing == TO_FIRST else ''}{substitute}"
                note = f"pairs: {pairing}; a frozen clip scores 100"
                metrics.append(mean_metric(name, values, features=features, note=note, seed=settings.seed))
    return metrics


def motion_metrics(found: Measurements, settings: EvaluationSettings) -> list[Metric]:
    """Flow always where it was measured; the rest where motion is asked for."""
    if "flow" not in found.numbers:
        return []
    metrics = [mean_metric(FLOW, found.numbers["flow"], seed=settings.seed)]
    if "motion" in settings.metrics:
        dynamic = [bool(value) for value in found.numbers["dynamic"]]
        note = "mean squared error in [0, 1], visible pixels; a frozen clip scores 0"
        errors = found.numbers["warping_error"]
        metrics.append(share_metric("Dynamic degree (DIS), %", dynamic, note="VBench's rule with DIS instead of RAFT"))
        metrics.append(mean_metric("Warping error (DIS)", errors, note=note, seed=settings.seed))
    return metrics


def as_dicts(metrics: Sequence[Metric]) -> dict[str, Any]:
    """For JSON."""
    return {metric.name: metric.as_dict() for metric in metrics}


def warnings_of(
    fake: Measurements,
    real: Measurements | None,
    second: Measurements | None,
    metrics: Sequence[Metric],
    references: Sequence[Metric],
) -> list[str]:
    """What makes the numbers doubtful, one line each."""
    lines = []
    moved, real_moved = ({m.name: m for m in side}.get(FLOW) for side in (metrics, references))
    if any(m.name.startswith("F-Consistency") for m in metrics) and moved is not None:
        lines.append(motion_warning(moved, real_moved))
    for side in filter(None, (real, second)):
        if side.fps.keys() != fake.fps.keys():
            rates = [", ".join(f"{rate:g}" for rate in sorted(s.fps)) for s in (fake, side)]
            lines.append(
                f"frame rates differ ({rates[0]} in {fake.folder}, {rates[1]} in {side.folder}): so does motion"
            )
        if side.sizes.keys() != fake.sizes.keys():
            sizes = [", ".join(sorted(s.sizes)) for s in (fake, side)]
            lines.append(f"frame sizes differ ({sizes[0]} in {fake.folder}, {sizes[1]} in {side.folder})")
    return list(dict.fromkeys(line for line in lines if line))


def record_of(
    settings: EvaluationSettings, networks: Networks, fake: Measurements, *others: Measurements | None
) -> dict[str, Any]:
    """All that made the numbers: settings, folders, counts, hashes of weights."""
    record = asdict(settings) | {"metrics": list(settings.metrics), "num_frames": fake.frames}
    record["weights"] = networks.hashes
    for role, side in zip(("generated", "reference", "floor"), (fake, *others), strict=True):
        if side is not None:
            rates = sorted(side.fps)
            record[role] = {"folder": str(side.folder), "clips": side.clips, "fps": rates, "sizes": sorted(side.sizes)}
    return record
