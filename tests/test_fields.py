"""Values against annotations: the kinds of settings, and what an error says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from trip.fields import Checked, broken_rule, check_arguments, read_fields

DEEP: list = []
for _ in range(5000):
    DEEP = [DEEP]


@dataclass
class Settings(Checked):
    """One field of each kind."""

    count: int = 1
    rate: float = 1.0
    on: bool = False
    name: str | None = None
    place: Annotated[Literal["here", "there"], "metadata"] = "here"
    names: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (int, [0, -3, 2**62], [True, 1.0, "1", None, 2**63, -(10**5000), []]),
        (float, [1, 0.5, -2.0], [True, float("nan"), float("inf"), "1", None, 10**400]),
        (bool, [True, False], [0, 1, "true", None]),
        (str, ["", "ä"], ["a\0b", "\ud800", 1, b"a", None]),
        (Path, [Path("a"), "a"], [1, "\0", None]),
        (Literal["a", "b", 1], ["a", "b", 1], ["c", "A", True, 1.0, ["a"], None]),
        (int | None, [1, None], ["1", False]),
        (tuple[str, ...], [(), ("a",), ["a", "b"]], ["a", (1,), None, {"a": 1}]),
        (tuple[int, int], [(1, 2)], [(1,), (1, 2, 3), (1, "2")]),
        (Sequence[int], [[1]], ["1", [1.5], DEEP]),
        (dict[str, Any], [{}, {"a": DEEP}], [[], {1: 2}, None, "a"]),
        (Any, [None, DEEP], []),
    ],
)
def test_every_kind_of_value_is_told_from_others(annotation: Any, good: list, bad: list) -> None:
    for value in good:
        assert broken_rule(value, annotation) is None, value
    for value in bad:
        assert broken_rule(value, annotation), type(value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"place": "ther"}, r"^place \(='ther'\) must be one of 'here', 'there'; correct it$"),
        ({"count": "3"}, r"^count \(='3'\) must be a whole number; correct it$"),
        ({"rate": float("nan")}, r"^rate \(=nan\) must be a finite number; correct it$"),
        ({"name": 3}, r"^name \(=3\) must be a text or left out; correct it$"),
        (
            {"names": ["a", "b\u202e" * 100, 2]},
            r"^names \(=\['a', 'b\\u202e.{40,70}\.\.\.\) must be a list, each item a text; corr",
        ),
        ({"count": 10**9999}, r"^count \(=int\) must be a whole number"),
    ],
)
def test_an_error_has_value_rule_and_remedy_in_one_line(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**values)


def test_a_misspelt_name_is_answered_with_the_near_one(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"plcae": "here", "count": 2}')
    with pytest.raises(
        ValueError, match=r"settings\.json has settings that there are not \('plcae'\); perhaps place is"
    ):
        read_fields(Settings, path)
    path.write_text('\ufeff{"names": ["a"], "count": 2}')
    assert read_fields(Settings, path) == {"names": ("a",), "count": 2}
    for text in ("[]", "null", "3", "[" * 100_000, "{", "\x00"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"settings\.json"):
            read_fields(Settings, path)


def test_arguments_are_held_to_the_signature() -> None:
    def make(width: int, kind: str = "a", **other: Any) -> None: ...

    check_arguments(make, {"width": 3}, "net")
    with pytest.raises(ValueError, match=r"^net\.width \(='3'\) must be a whole number"):
        check_arguments(make, {"width": "3"}, "net")
    with pytest.raises(ValueError, match=r"^net \(=\{'wdth': 3\}\) has settings .*perhaps width is meant"):
        check_arguments(make, {"wdth": 3}, "net")
