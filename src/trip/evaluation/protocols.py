"""What is generated and what it is compared with: one protocol a data set, made into a list of jobs.

=========  ==========================  =========================================================  =========
protocol   metrics                     clips                                                      zero-shot
=========  ==========================  =========================================================  =========
webvid     F-Consistency, FVD          2,048 of the validation list                               no
dtdb       FID, FVD                    all of fire, vegetation, clouds and waterfall; the class   yes
                                       is the prompt
msrvtt     FID, FVD                    the 2,990 of the test split, one of its captions each      yes
folder     FVD, FID, F-Consistency,    all                                                        unknown
           motion
=========  ==========================  =========================================================  =========

The real clip of a job is resampled once, to the protocol's frames, rate and size; its first frame is the picture that
is animated, and the whole of it is the reference. docs/evaluation.md argues for every default.

Whatever is drawn (clips, where they start, captions, noise) depends on the seed and the clip's key alone: not on the
order of the list, on other clips, or on the number of processes.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from trip.data.sets.datasets import class_caption, read_examples
from trip.data.sets.decoding import Decoding
from trip.data.sets.examples import Example, Location, Unusable

STARTS = ("first", "middle", "random")
CAPTIONS = ("first", "random")
CAPTION = "{caption}"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How one data set is evaluated.

    Attributes:
        name: key of `PROTOCOLS`. title: of the published set, as reports name it.
        metrics: of `trip.evaluation.metric.METRICS`.
        zero_shot: whether the figure is meant for models that were not trained on the set.
        layout: of `trip.data.sets.datasets`. split: rows of lists that have a column `split`; None: all.
        classes: names of class folders, in words; empty: all. count: clips drawn; None: all. samples: clips generated
            of each. num_frames, fps: of every clip. size: (height, width).
        start: where in the real clip, one of `STARTS`. captions: of clips with several, one of `CAPTIONS`.
        prompt: ``{caption}`` stands for the caption.
    """

    name: str
    metrics: tuple[str, ...]
    title: str = ""
    zero_shot: bool | None = None
    layout: str = "auto"
    split: str | None = None
    classes: tuple[str, ...] = ()
    count: int | None = None
    samples: int = 1
    num_frames: int = 16
    fps: float = 4.0
    size: tuple[int, int] = (256, 256)
    start: str = "random"
    captions: str = "first"
    prompt: str = CAPTION

    def __post_init__(self) -> None:
        for name, value, fewest in (
            ("count", self.count, 1),
            ("samples", self.samples, 1),
            ("num_frames", self.num_frames, 2),
        ):
            if value is not None and value < fewest:
                raise ValueError(f"{name} (={value}) must be at least {fewest}; raise it")
        for name, value, choices in (("start", self.start, STARTS), ("captions", self.captions, CAPTIONS)):
            if value not in choices:
                raise ValueError(f"{name} (={value!r}) is unknown; choose one of {', '.join(choices)}")

    @property
    def decoding(self) -> Decoding:
        """How real clips are resampled.

        Raises:
            ValueError: a rate out of range.
        """
        return Decoding(num_frames=self.num_frames, fps=self.fps, size=self.size)

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {name: list(getattr(self, name)) for name in ("metrics", "classes", "size")}


PROTOCOLS = {
    "webvid": Protocol(
        name="webvid", title="WebVid-10M", metrics=("f-consistency", "fvd"), zero_shot=False, count=2048
    ),
    "dtdb": Protocol(
        name="dtdb",
        title="DTDB",
        metrics=("fid", "fvd"),
        zero_shot=True,
        layout="classes",
        classes=("fire", "vegetation", "clouds", "waterfall"),
    ),
    "msrvtt": Protocol(
        name="msrvtt", title="MSR-VTT", metrics=("fid", "fvd"), zero_shot=True, split="test", captions="random"
    ),
    "folder": Protocol(name="folder", metrics=("fvd", "fid", "f-consistency", "motion"), fps=8.0),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One clip to generate.

    Attributes:
        name: of the clip, without suffix. number: of the real clip or picture; jobs that share it share that.
        key: of the example. prompt, seed: what the model is given. source: the real clip or the picture.
    """

    name: str
    number: int
    key: str
    prompt: str
    seed: int
    source: Location

    @property
    def reference(self) -> str:
        """Name of the real clip."""
        return f"{self.number:05d}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON: everything but where the source lies."""
        return {"name": self.name, "key": self.key, "prompt": self.prompt, "seed": self.seed}


def drawn(seed: int, *about: Any) -> int:
    """A number below 2^63 that depends on what is given and on nothing else."""
    digest = hashlib.sha256(json.dumps([seed, *about]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_of(seed: int, key: str, sample: int) -> int:
    """Seed of a generated clip's noise, below 2^31."""
    return drawn(seed, "noise", key, sample) % 2**31


def list_jobs(protocol: Protocol, data: Path | str, seed: int = 0) -> list[Job]:
    """All clips to generate, the same list on every process.

    Args:
        protocol: what is drawn. data: the set, in any layout of `trip.data.sets.datasets`. seed: of the draws.

    Raises:
        ValueError: no data, no such classes, or clips without captions.
    """
    examples = chosen_clips(protocol, data, seed)
    suffixes = [""] if protocol.samples == 1 else [f"-{sample}" for sample in range(protocol.samples)]
    return [
        Job(
            name=f"{number:05d}{suffix}",
            number=number,
            key=example.key,
            prompt=prompt_of(protocol, example, data),
            seed=seed_of(seed, example.key, sample),
            source=example.video,
        )
        for number, example in enumerate(examples)
        for sample, suffix in enumerate(suffixes)
    ]


def chosen_clips(protocol: Protocol, data: Path | str, seed: int) -> list[Example]:
    """The clips of a protocol, each with one caption, in the order in which they were drawn."""
    captions = "all" if protocol.captions == "random" else "first"
    found = read_examples(data, layout=protocol.layout, captions=captions, split=protocol.split)
    examples = of_classes(one_caption_each(found, seed), protocol.classes, data)
    return sorted(examples, key=lambda example: drawn(seed, "clip", example.key))[: protocol.count]


def one_caption_each(examples: Iterable[Example], seed: int) -> list[Example]:
    """Of the examples of one clip, which follow one another, one by lot, under the clip's own key."""
    chosen = []
    for _, group in groupby(examples, key=lambda one: one.key if isinstance(one.video, Unusable) else one.video):
        same = list(group)
        key = same[0].key.removesuffix("#0") if len(same) > 1 else same[0].key
        caption = same[drawn(seed, "caption", key) % len(same)].caption
        chosen.append(Example(key=key, video=same[0].video, caption=caption))
    return chosen


def of_classes(examples: Sequence[Example], classes: Sequence[str], data: Path | str) -> list[Example]:
    """The examples in folders of these names; all of them if none is given. A folder that cannot be read is one."""
    if not classes:
        return list(examples)
    names = [class_caption(Path(example.key).parent.name or example.key) for example in examples]
    if missing := [name for name in classes if name not in names]:
        there = ", ".join(sorted(set(names)))
        raise ValueError(
            f"{data} has no class {missing[0]!r}; its classes are {there}: name some with --classes, or all"
        )
    return [example for example, name in zip(examples, names, strict=True) if name in classes]


def prompt_of(protocol: Protocol, example: Example, data: Path | str) -> str:
    """The text that the model is given; none is needed for a clip that will be left out."""
    if isinstance(example.video, Unusable):
        return ""
    if CAPTION in protocol.prompt and not example.caption:
        remedy = "write NAME.txt beside it, or give all clips one text with --prompt"
        raise ValueError(f"clip {example.key} of {data} has no caption; {remedy}")
    return protocol.prompt.replace(CAPTION, example.caption)


class FixedStart(np.random.Generator):
    """A source of randomness without any: draws always the same place of a range, 0 its beginning, 0.5 its middle."""

    def __init__(self, place: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.place = place

    def integers(self, low: int, *arguments: Any, **options: Any) -> int:  # pyright: ignore
        """Of the range 0 to `low` - 1."""
        return int(self.place * (low - 1))


def start_of(protocol: Protocol, key: str, seed: int) -> np.random.Generator:
    """What `trip.data.sets.decoding.decode_clip` draws the start of a clip from."""
    if protocol.start == "random":
        return np.random.default_rng(drawn(seed, "start", key))
    return FixedStart(0.0 if protocol.start == "first" else 0.5)
