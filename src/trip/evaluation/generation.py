"""Clips generated one by one into a folder, by any number of processes, resumable after any kill.

=====================  =============================================================================================
`OUT/settings.json`    what the folder was made with; another run with other settings is refused
`OUT/jobs.jsonl`       every clip's name, key, prompt and seed
`OUT/reference/`       real clips, resampled once: folders of PNGs
`OUT/generated/`       generated clips of the same length, rate and size: folders of PNGs
`OUT/left-out/`        real clips that cannot be used: one JSON each, with the reason; delete it to try them again
=====================  =============================================================================================

PNG, because metrics see what a codec does to frames: H.264 blurs generated and real clips differently, and lossless
video would save a third of the space at the price of another writer. A clip is there in whole or not at all, since it
is made under a hidden name. Nothing depends on which clips were there before, so that a resumed run ends in the same
bytes as one that was never stopped: clips are generated one a call, each from a seed of its own.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trip.data.sets.decoding import ClipFault, decode_clip
from trip.data.text import printable, read_json
from trip.data.video.frames import Frame, Frames
from trip.data.video.reading import read_video
from trip.data.video.writing import write_video
from trip.evaluation.metric import GENERATED, REFERENCE
from trip.evaluation.protocols import Job, Protocol, start_of
from trip.evaluation.report import EvaluationSettings, Progress, Report, evaluate_folders
from trip.files import lock_folder, sweep, write_json, write_text

Generate = Callable[[Frame, str, int], Frames]
"""``generate(picture, prompt, seed)``: the clip; its size and length are the picture's and the model's."""

Still = Callable[[Job], Frame | None]
"""The picture that a job animates, or None for one that is left out."""

SETTINGS, JOBS = "settings.json", "jobs.jsonl"
LEFT_OUT = "left-out"


# ------------------------------------------------------------------------------------------------- the folder


@contextmanager
def held(folder: Path, settings: Mapping[str, Any], jobs: Sequence[Job]) -> Iterator[None]:
    """The folder of a run, new or with the same settings, for this process (and those it leads) alone.

    Raises:
        ValueError: it holds another run or other things, or another run is at work in it.
        OSError: it cannot be written.
    """
    lines = "".join(json.dumps(job.as_dict(), ensure_ascii=False) + "\n" for job in jobs)
    record = dict(settings) | {"jobs_sha256": hashlib.sha256(lines.encode(errors="replace")).hexdigest()}
    with lock_folder(folder, "filled"):
        check_same(folder, record)
        for inner in (folder, *(path for path in folder.iterdir() if path.is_dir())):
            sweep(inner)
        write_text(folder / JOBS, lines)
        write_json(folder / SETTINGS, record)
        yield


def check_same(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise unless the folder is new or was made with these settings."""
    file = folder / SETTINGS
    if not file.is_file():
        if others := sorted(
            path.name for path in folder.iterdir() if not path.name.startswith(".") and path.name != JOBS
        ):
            raise ValueError(f"{folder} holds other files ({others[0]}); name a new folder with --output-dir")
        return
    there = read_json(file)
    if not isinstance(there, dict):
        raise ValueError(f"{file} holds no settings of a run; name a new folder with --output-dir")
    before, now = flat(there), flat(json.loads(json.dumps(record)))
    differing = [name for name in dict.fromkeys([*now, *before]) if now.get(name) != before.get(name)]
    if differing:
        name, more = differing[0], f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        values = f"{printable(name, 60)} {printable(repr(before.get(name)), 80)}, not {now.get(name)!r}{more}"
        raise ValueError(f"{folder} was made with {values}; give the same settings, or another --output-dir")


def flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings under names of their own: ``protocol.count``."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        inner = flat(value) if isinstance(value, Mapping) else None
        found |= {name: value} if inner is None else {f"{name}.{key}": item for key, item in inner.items()}
    return found


# ------------------------------------------------------------------------------------------------ generating


def shard(jobs: Sequence[Job], process: int, processes: int) -> list[Job]:
    """The jobs of one process: every so many real clips, with all of their samples."""
    return [job for job in jobs if job.number % processes == process]


def generate_missing(
    jobs: Sequence[Job],
    target: Callable[[Job], str],
    still: Still,
    generate: Generate,
    *,
    fps: float,
    record: bool = True,
    crf: int = 14,
    progress: Callable[[Job], object] | None = None,
) -> None:
    """Generate the clips that are not there yet, in the order of the jobs.

    Args:
        jobs: of this process. target: path of a job's clip, as `trip.data.video.writing.write_video` takes it.
        still: picture of a job. generate: makes a clip. fps: written to the clips.
        record: whether prompt and seed go into the clip. crf: of mp4. progress: called once a job.

    Raises:
        ValueError, OSError: what `still`, `generate` or the writer raise.
    """
    for job in jobs:
        path = target(job)
        picture = None if Path(path).exists() else still(job)
        if picture is not None:
            frames = generate(picture, job.prompt, job.seed)
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_video(path, frames, fps, job.as_dict() | {"fps": fps} if record else None, crf=crf)
        if progress is not None:
            progress(job)


@dataclass(frozen=True, kw_only=True)
class ReferenceStills:
    """First frames of real clips, which are resampled into the folder when they are first asked for.

    Attributes:
        folder: of the run. protocol: how they are resampled. seed: of where they start.
    """

    folder: Path
    protocol: Protocol
    seed: int

    def __call__(self, job: Job) -> Frame | None:
        """The picture; None where the clip cannot be used, now or when it was first tried."""
        path = self.folder / REFERENCE / job.reference
        if path.is_dir():
            return read_video(path, max_frames=1).frames[0]
        fault = self.folder / LEFT_OUT / f"{job.reference}.json"
        if fault.is_file():
            return None
        try:
            frames = decode_clip(
                job.source, self.protocol.decoding, start_of(self.protocol, job.key, self.seed), key=job.key
            )
        except ClipFault as found:
            write_json(fault, {"key": found.key, "reason": found.reason, "message": found.message})
            return None
        path.parent.mkdir(exist_ok=True)
        write_video(f"{path}/", frames, self.protocol.fps)
        return frames[0]


def left_out(folder: Path) -> list[dict[str, str]]:
    """The real clips that could not be used, with reasons.

    Raises:
        ValueError: a file that this package did not write.
    """
    return [fault_in(file) for file in sorted((folder / LEFT_OUT).glob("*.json"))]


def fault_in(file: Path) -> dict[str, str]:
    """The reason that a file holds for leaving out a clip."""
    record = read_json(file)
    names = ("key", "reason", "message")
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in names):
        raise ValueError(f"{file} does not say why its clip was left out; delete it, and the clip is tried again")
    return {name: printable(record[name], 300) for name in names}


# --------------------------------------------------------------------------------------------------- scoring


def score(folder: Path, protocol: Protocol, settings: EvaluationSettings, progress: Progress | None = None) -> Report:
    """Measure the generated clips of a run against its real ones.

    Args:
        folder: of the run. protocol: that it followed. settings: of the measurement. progress: called once a clip.

    Returns:
        What `evaluate_folders` returns, with "protocol" and "left_out" in `run`, and folders relative to the run's.

    Raises:
        ValueError: no clip could be used, and what `evaluate_folders` raises.
    """
    lacking, warnings = left_out(folder), []
    if lacking:
        first = f"{lacking[0]['key']}: {lacking[0]['message']}"
        if not (folder / REFERENCE).is_dir():
            raise ValueError(f"none of the {len(lacking)} clips can be used: {first}")
        warnings = [f"{len(lacking)} real clips were left out, on both sides ({first}, ...)"]
    report = evaluate_folders(folder / GENERATED, folder / REFERENCE, settings=settings, progress=progress)
    return replace(
        report,
        sides={role: replace(side, folder=role) for role, side in report.sides.items()},
        data=protocol.title,
        warnings=report.warnings + warnings,
        run={"protocol": protocol.record(), "left_out": lacking},
    )
