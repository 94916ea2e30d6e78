"""docs/method.md points at functions and tests that exist."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = re.findall(r"^\|([^|]+)\|([^|]+)\| `(tests/[^`]+)` \|$", (ROOT / "docs" / "method.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("equation, functions, test", ROWS)
def test_functions_and_test_exist(equation, functions, test):
    path, name = test.split("::")
    assert f"\ndef {name}(" in (ROOT / path).read_text()
    for function in re.findall(r"`([\w.]+)", functions):
        module, attributes = "trip.noise_prior", function.split(".")
        while attributes[0].islower() and len(attributes) > 1:
            module = f"{'trip' if module == 'trip.noise_prior' else module}.{attributes.pop(0)}"
        value = importlib.import_module(module)
        for attribute in attributes:
            value = getattr(value, attribute)


def test_every_equation_of_the_paper_is_in_the_table():
    covered = set()
    for equation, *_ in ROWS:
        numbers = [int(n) for n in re.findall(r"\d+", equation.replace("z_0", ""))]
        covered |= set(range(numbers[0], numbers[-1] + 1)) if " to " in equation else set(numbers)
    assert covered >= set(range(1, 12))
