"""Error by timestep and by frame: the file that holds it, and a training log read as one.

    {"timesteps": [SERIES, ...], "frames": [SERIES, ...]}
    SERIES: {"name": ..., "x": [...], "y": [...], "low": [...], "high": [...]}

x is a timestep of 0 to 999, or the number of a frame, the first being 1. low and high may be left out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trip.data.text import printable, read_json, read_jsonl
from trip.evaluation.charts import LARGEST, Series

WINDOW = 500
"""Steps at the end of a training log that are averaged."""

QUARTER = 250
"""Timesteps that one loss of the log stands for."""


@dataclass(frozen=True, kw_only=True)
class ErrorCurves:
    """What the plots of a report show; either may be empty."""

    timesteps: tuple[Series, ...] = ()
    frames: tuple[Series, ...] = ()

    @classmethod
    def of(cls, record: Any) -> "ErrorCurves":
        """From JSON, see the module.

        Raises:
            ValueError: other keys, or series that are none.
        """
        if not isinstance(record, dict) or not all(isinstance(series, list) for series in record.values()):
            raise ValueError("error curves are an object with lists of series under timesteps and frames")
        unknown = set(record) - {"timesteps", "frames"}
        if unknown:
            raise ValueError(f"error curves have {min(unknown)!r}; their keys are timesteps and frames")
        return cls(**{key: tuple(map(Series.of, record[key])) for key in record})


def read_errors(file: Path) -> ErrorCurves:
    """Curves from a .json, or from a run's log.jsonl.

    Raises:
        ValueError: no file, or one that holds neither.
    """
    if not file.is_file():
        raise ValueError(f"{file} is no file; name a .json of error curves or a run's log.jsonl")
    try:
        if file.suffix == ".jsonl":
            return curves_of_log([record for _, record in read_jsonl(file)], file.parent.name or "training")
        return ErrorCurves.of(read_json(file))
    except ValueError as error:
        reason = printable(str(error).removeprefix(f"{file} "))
        raise ValueError(f"{file} holds no error curves ({reason}); see trip.evaluation.error_curves") from None


def curves_of_log(records: Sequence[Mapping[str, Any]], name: str, window: int = WINDOW) -> ErrorCurves:
    """Mean training loss of the last steps, by quarter of the timesteps and by frame, with 95 % intervals of the mean.

    Raises:
        ValueError: no records, or none with such losses.
    """
    last = records[-window:]
    quarters = {QUARTER * (q + 0.5): numbers([r[f"loss_t{q}"] for r in last if f"loss_t{q}" in r]) for q in range(4)}
    frames: dict[float, list[float]] = {}
    for record in last:
        for frame, loss in enumerate(numbers(record.get("loss_frames", [])), 2):
            frames.setdefault(frame, []).append(loss)
    name = f"{name}, last {len(last)} steps"
    curves = ErrorCurves(timesteps=series_of(name, quarters), frames=series_of(name, frames))
    if not (curves.timesteps or curves.frames):
        raise ValueError("the log has no loss by timestep or frame; name the log.jsonl of `trip train`")
    return curves


def numbers(values: Any) -> list[float]:
    """The values themselves, if they are finite numbers.

    Raises:
        ValueError: they are something else.
    """
    if not isinstance(values, list) or any(
        isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST for value in values
    ):
        raise ValueError("it has losses that are no finite numbers")
    return values


def series_of(name: str, losses: Mapping[float, Sequence[float]]) -> tuple[Series, ...]:
    """One series of means, where there is anything to average; normal intervals, of two values or more."""
    found = {x: values for x, values in losses.items() if values}
    if not found:
        return ()
    means = [float(np.mean(values)) for values in found.values()]
    half = [1.96 * float(np.std(v, ddof=1)) / math.sqrt(len(v)) if len(v) > 1 else 0.0 for v in found.values()]
    low, high = ([m + sign * h for m, h in zip(means, half, strict=True)] for sign in (-1, 1))
    return (Series(name=name, x=list(found), y=means, low=low, high=high),)
