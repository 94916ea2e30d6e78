"""Processes that hang are ended, those that die are replaced, and the rest of the work goes on."""

import os
import time

import pytest

from trip.data.workers import Lost, guarded_map


def misbehave(item):
    """Double a number; the rest as the word says."""
    if item == "hang":
        time.sleep(600)
    if item == "crash":
        os.abort()
    if item == "raise":
        raise KeyError("from the worker")
    return 2 * item


def test_hangs_and_crashes_cost_one_item(recwarn):
    items = [1, "hang", 2, "crash", 3, 4]
    start = time.monotonic()
    found = dict(guarded_map(misbehave, items, workers=2, timeout=5))
    assert found == {0: 2, 1: Lost("hung"), 2: 4, 3: Lost("crashed"), 4: 6, 5: 8}
    assert time.monotonic() - start < 120


def test_errors_of_the_function_are_raised():
    with pytest.raises(KeyError, match="from the worker"):
        list(guarded_map(misbehave, ["raise"], workers=1, timeout=60))


def test_no_items():
    assert list(guarded_map(misbehave, [], workers=3, timeout=1)) == []
