"""Intervals at 95 %: of means over clips, and of shares."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

Interval = tuple[float, float]

RESAMPLES = 1000


def bootstrap_interval(values: Float[np.ndarray, " n"], seed: int = 0) -> Interval | None:
    """Percentiles of the mean over clips drawn with replacement; None of a single clip."""
    if len(values) < 2:
        return None
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Rate:
    """`successes` out of `total`, with Wilson's interval."""

    successes: int
    total: int

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> "Rate":
        """Count outcomes."""
        outcomes = list(outcomes)
        return cls(sum(outcomes), len(outcomes))

    @property
    def value(self) -> float:
        """The share; NaN of nothing."""
        return self.successes / self.total if self.total else math.nan

    @property
    def interval(self) -> Interval:
        """Wilson's score interval (1927); all of 0 to 1 of nothing."""
        if not self.total:
            return 0.0, 1.0
        from scipy.stats import binomtest  # takes half a second to import

        low, high = binomtest(self.successes, self.total).proportion_ci(method="wilson")
        return float(low), float(high)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"successes": self.successes, "n": self.total, "rate": self.value, "wilson_95": self.interval}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:6.1%}  ({self.successes}/{self.total}, 95 %: {low:.1%} to {high:.1%})"
