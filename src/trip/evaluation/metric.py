"""What a metric is, and the list of them. A new one is a file with a class and a line:

    @register_metric("brightness")
    class Brightness(ClipMetric):
        def update(self, batch):
            self.extend("Brightness", batch.clips.float().mean(dim=(1, 2, 3, 4)).tolist())

Those of this package are in `trip.evaluation.metrics`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from trip.evaluation.clips import Batch, ClipFolder
from trip.evaluation.intervals import Interval, Rate, bootstrap_interval
from trip.evaluation.networks import Networks

GENERATED, REFERENCE, FLOOR = "generated", "reference", "floor"
"""The folders of an evaluation: clips to measure, real ones, and more real ones."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One number of an evaluation.

    Attributes:
        name: as printed; names the network where it is a substitute. value: the number.
        n: clips that it is made of. interval: at 95 %, see the module that makes it; None where there is none.
        features: name of the network, "" for pixels. note: what a reader must know.
    """

    name: str
    value: float
    n: int
    interval: Interval | None = None
    features: str = ""
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: value, n, interval, features, and the note where there is one."""
        record: dict[str, Any] = {"value": self.value, "n": self.n}
        record["interval"] = list(self.interval) if self.interval else None
        return record | {"features": self.features} | ({"note": self.note} if self.note else {})


def mean_result(name: str, values: Sequence[float], *, features: str = "", note: str = "", seed: int = 0) -> Result:
    """Mean of one number a clip, with a bootstrap interval over clips.

    Raises:
        ValueError: no values.
    """
    if not len(values):
        raise ValueError(f"{name} has no clips to average over; give at least 1")
    numbers = np.asarray(values, np.float64)
    interval = bootstrap_interval(numbers, seed)
    return Result(
        name=name, value=float(numbers.mean()), n=len(numbers), interval=interval, features=features, note=note
    )


def share_result(name: str, outcomes: Sequence[bool], *, note: str = "") -> Result:
    """Share of clips in percent, with Wilson's interval.

    Raises:
        ValueError: no outcomes.
    """
    if not len(outcomes):
        raise ValueError(f"{name} has no clips to count; give at least 1")
    rate = Rate.of(outcomes)
    low, high = rate.interval
    return Result(name=name, value=100 * rate.value, n=rate.total, interval=(100 * low, 100 * high), note=note)


class Metric:
    """One kind of number. An object is shown one folder's clips, batch by batch, and asked for what they amount to.

    Class attributes:
        against: whether it needs real clips (--reference). sides: the folders that it is shown.
        needs_clip: whether it needs CLIP (--clip).

    Args:
        networks: to take features by. seed: of bootstraps. allow_few: Fréchet distances of fewer samples than features.
    """

    against: ClassVar[bool] = False
    needs_clip: ClassVar[bool] = False
    sides: ClassVar[tuple[str, ...]] = (GENERATED, REFERENCE)

    def __init__(self, networks: Networks, *, seed: int = 0, allow_few: bool = False) -> None:
        self.networks, self.seed, self.allow_few = networks, seed, allow_few

    def prepare(self, generated: ClipFolder, reference: ClipFolder | None) -> None:
        """Look at what is there before any clip is decoded; a ValueError says what is lacking."""

    def check(self, clips: int, real: int, frames: int) -> None:
        """A ValueError where so many clips against so many real ones, of so many frames, cannot be measured."""

    def update(self, batch: Batch) -> None:
        """Take in clips."""
        raise NotImplementedError

    def result(self, real: "Metric | None") -> list[Result]:
        """The numbers of the clips seen so far, beside the same metric of the real clips where there are any."""
        raise NotImplementedError

    def warnings(self, real: "Metric | None") -> list[str]:
        """What makes the numbers doubtful, one line each."""
        return []


class ClipMetric(Metric):
    """Metrics that are means of one number a clip: `update` extends them by name."""

    def __init__(self, networks: Networks, *, seed: int = 0, allow_few: bool = False) -> None:
        super().__init__(networks, seed=seed, allow_few=allow_few)
        self.numbers: dict[str, list[float]] = {}

    def extend(self, name: str, values: Iterable[float]) -> None:
        """More numbers of one kind."""
        self.numbers.setdefault(name, []).extend(float(value) for value in values)

    def result(self, real: "Metric | None") -> list[Result]:
        """The mean of every kind."""
        return [mean_result(name, values, seed=self.seed) for name, values in self.numbers.items()]


METRICS: dict[str, type[Metric]] = {}
"""Name -> class, in the order in which reports list them."""

Kind = TypeVar("Kind", bound=type[Metric])


def register_metric(name: str) -> Callable[[Kind], Kind]:
    """Class decorator: `--metrics` knows the metric by `name` wherever its module is imported.

    Raises:
        ValueError: the name is another metric's.
    """

    def register(kind: Kind) -> Kind:
        known = METRICS.setdefault(name, kind)
        if (known.__module__, known.__name__) != (kind.__module__, kind.__name__):
            raise ValueError(f"the metric name {name!r} is {known.__name__}'s; choose another")
        METRICS[name] = kind
        return kind

    return register
