"""Decode every clip of a data set once: which can be trained on, which cannot and why, and what they are like."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from trip.data.sets.datasets import write_manifest
from trip.data.sets.decoding import FAULTS, ClipFacts, ClipFault, Decoding, inspect_clip
from trip.data.sets.examples import Example
from trip.data.workers import Lost, guarded_map

GRACE = 10.0
"""Seconds beyond a clip's own time-out after which its process is ended."""

QUANTITIES = {
    "seconds": ("length (s)", "{:.2f}"),
    "frames": ("frames", "{:.0f}"),
    "fps": ("frames per second", "{:.2f}"),
    "width": ("width (pixels)", "{:.0f}"),
    "height": ("height (pixels)", "{:.0f}"),
    "motion": ("motion (levels)", "{:.2f}"),
    "words": ("caption (words)", "{:.0f}"),
}
"""Name of a statistic -> its title and format in the table."""


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What was found, in the order of the examples.

    Attributes:
        good: the examples that can be used, with their facts.
        faults: one for every other.
    """

    good: tuple[tuple[Example, ClipFacts], ...]
    faults: tuple[ClipFault, ...]

    def statistics(self) -> dict[str, dict[str, float]]:
        """{quantity: {"min", "median", "max"}} over the good clips, for the quantities of `QUANTITIES`; {} for none."""
        rows = [{**asdict(facts), "words": len(example.caption.split())} for example, facts in self.good]
        columns = {name: [row[name] for row in rows] for name in QUANTITIES if rows}
        return {name: {"min": min(c), "median": median(c), "max": max(c)} for name, c in columns.items()}

    def by_reason(self) -> dict[str, list[ClipFault]]:
        """{reason: faults}, in the order of `FAULTS`, without empty ones."""
        groups = {reason: [fault for fault in self.faults if fault.reason == reason] for reason in FAULTS}
        return {reason: faults for reason, faults in groups.items() if faults}

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        faults = {reason: {f.key: f.message for f in found} for reason, found in self.by_reason().items()}
        return {"good": len(self.good), "faulty": len(self.faults), "statistics": self.statistics(), "faults": faults}

    def __str__(self) -> str:
        """The tables: statistics, then every faulty file under its reason."""
        count = len(self.good) + len(self.faults)
        return "\n".join([f"{len(self.good)} of {count} clips are good", *self._statistics(), *self._faults()])

    def _statistics(self) -> Iterator[str]:
        table = self.statistics()
        if table:
            yield f"\n{'':<18}{'min':>10}{'median':>10}{'max':>10}"
        for name, numbers in table.items():
            title, form = QUANTITIES[name]
            yield f"{title:<18}" + "".join(f"{form.format(number):>10}" for number in numbers.values())

    def _faults(self) -> Iterator[str]:
        for reason, faults in self.by_reason().items():
            yield f"\n{reason} ({len(faults)}): {FAULTS[reason]}"
            yield from (f"  {fault}" for fault in faults)

    def write_manifest(self, path: Path) -> None:
        """Write the good examples as a `metadata` table that `trip.data.sets.datasets.read_examples` reads back."""
        write_manifest(path, ((example, _rounded(asdict(facts))) for example, facts in self.good), named=True)


def check_examples(
    examples: Sequence[Example],
    decoding: Decoding | None = None,
    *,
    workers: int | None = None,
    on_result: Callable[[], object] | None = None,
) -> CheckReport:
    """Decode all clips from end to end in parallel processes.

    A clip is good if `decode_clip` can make a sample of it with the same settings. Clips whose decoder hangs or
    crashes cost their process and nothing else. Scripts that call this need the `if __name__ == "__main__"` of
    everything that starts processes.

    Args:
        examples: from `trip.data.sets.datasets.read_examples`.
        decoding: settings of the training; the defaults of `Decoding` if None.
        workers: processes; as many as CPU cores if None; 0 works in this process, without protection from hangs.
        on_result: called after every clip, for a progress bar.
    """
    task = partial(check_example, decoding=decoding or Decoding())
    found: dict[int, ClipFacts | ClipFault] = {}
    for index, result in _results(task, examples, os.cpu_count() or 1 if workers is None else workers):
        found[index] = _of_lost(result, examples[index]) if isinstance(result, Lost) else result
        if on_result is not None:
            on_result()
    pairs = [(example, found[index]) for index, example in enumerate(examples)]
    return CheckReport(
        good=tuple((example, result) for example, result in pairs if isinstance(result, ClipFacts)),
        faults=tuple(result for _, result in pairs if isinstance(result, ClipFault)),
    )


def check_example(example: Example, decoding: Decoding) -> ClipFacts | ClipFault:
    """The facts of one example, or its fault."""
    try:
        facts = inspect_clip(example.video, decoding, key=example.key)
    except ClipFault as fault:
        return fault
    return facts if example.caption.strip() else ClipFault(example.key, "no_caption", "no caption; write one")


def _results(task: partial, examples: Sequence[Example], workers: int) -> Iterable[tuple[int, Any]]:
    if workers < 1:
        return ((index, task(example)) for index, example in enumerate(examples))
    return guarded_map(task, examples, workers=workers, timeout=task.keywords["decoding"].timeout + GRACE)


def _of_lost(lost: Lost, example: Example) -> ClipFault:
    if lost.reason == "hung":
        return ClipFault(example.key, "too_slow", "its decoder did not return; the process was ended")
    return ClipFault(example.key, "crashed", "its decoder crashed; make or copy it again")


def _rounded(facts: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in facts.items()}
