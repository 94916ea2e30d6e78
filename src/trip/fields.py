"""Checking values against annotations: settings from a file or from Python, before anything is done with them.

A command line is checked as it is parsed; a JSON file and a call from Python are not, so that a misspelt choice would
select something else, and a number in quotes would fail hours later.
"""

import dataclasses
import difflib
import inspect
import math
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tyro.conf import arg

from trip.data.text import has_surrogates, printable, read_json

# Optional values whose default something else decides; the annotations keep "{None}|" out of the help.
Text = Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")]
Integer = Annotated[int | None, arg(metavar="INT", help_behavior_hint="")]
Number = Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")]
Folder = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]

LARGEST = 2**63
"""Whole numbers beyond are no settings, and overflow somewhere."""

SHOWN = 80
"""Characters of a wrong value that an error shows."""


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
    """An annotation of a setting: what its value must be beyond its type, where it has one.

    Attributes:
        fits: whether a value does. text: what it must be, after "must be".
        schema: the same for a JSON schema.
    """

    fits: Callable[[Any], bool]
    text: str
    schema: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def within(low: float, high: float | None = None) -> Rule:
    """The rule of numbers from `low` to `high`."""
    limits = {"minimum": low} if high is None else {"minimum": low, "maximum": high}
    text = f"at least {low}" if high is None else f"in {low} to {high}"
    return Rule(lambda value: low <= value and (high is None or value <= high), text, limits)


def one_of(names: Iterable[str]) -> Rule:
    """The rule of texts that name one of several things."""
    names = list(names)
    return Rule(names.__contains__, f"one of {', '.join(names)}", {"enum": names})


class Checked:
    """A dataclass of settings that checks what it is made of, by name, with a line for whoever made it.

    That is done before `__init__`, where the tests' checker of types would say it in its own words.

    Raises:
        ValueError: the first value that does not fit its annotation: the value, what it must be, the remedy.
    """

    def __new__(cls, **values: Any) -> Any:
        hints = annotations(cls)
        for name, value in values.items():
            check_value(name, value, hints.get(name, Any))
        return super().__new__(cls)


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], name: str) -> None:
    """Check keyword arguments against the parameters of a function or class.

    Raises:
        ValueError: one that there is not, or that does not fit; it is called NAME.ARGUMENT.
    """
    parameters = inspect.signature(function).parameters
    check_names(arguments, parameters, f"{name} (={show(dict(arguments))})")
    hints = annotations(function)
    for key, value in arguments.items():
        check_value(f"{name}.{key}", value, hints.get(key, Any))


def check_names(found: Iterable[object], known: Iterable[str], what: str) -> None:
    """Raise ValueError for names that are not known, with the nearest known ones."""
    known = list(known)
    unknown = [key for key in found if key not in known]
    if not unknown:
        return
    near = [match for key in unknown for match in difflib.get_close_matches(str(key), known, 1)]
    meant = f"; perhaps {' or '.join(dict.fromkeys(near))} is meant" if near else ""
    named = ", ".join(show(key) for key in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
    raise ValueError(f"{what} has settings that there are not ({named}){meant}; remove or correct them")


def check_value(name: str, value: Any, annotation: Any) -> None:
    """Raise ValueError where a value does not fit an annotation."""
    rule = broken_rule(value, annotation)
    if rule is not None:
        raise ValueError(f"{name} (={show(value)}) must be {rule}; correct it")


def read_fields(cls: type, path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of a dataclass in a JSON file, as keyword arguments: lists become tuples where the class has those.

    Raises:
        ValueError: no JSON object, or names that the class does not have; names the file.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no settings, but {show(values)}; it must be an object of names and values")
    hints = annotations(cls)
    check_names(values, [field.name for field in dataclasses.fields(cls)], str(path))
    return {
        name: tuple(value) if isinstance(value, list) and get_origin(_plain(hints[name])) is tuple else value
        for name, value in values.items()
    }


def show(value: object) -> str:
    """A value in an error, on one line and not longer than it helps."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested beyond reason, or an integer of thousands of digits
        text = type(value).__name__
    return printable(text, SHOWN)


@lru_cache
def annotations(function: Any) -> dict[str, Any]:
    """Annotations by name, of a class's constructor or of a dataclass's fields."""
    owner = function.__init__ if isinstance(function, type) and not dataclasses.is_dataclass(function) else function
    return get_type_hints(owner if isinstance(owner, type) else inspect.unwrap(owner), include_extras=True)


def broken_rule(value: Any, annotation: Any) -> str | None:
    """What a value of this annotation must be, or None where it is that, or where the annotation is not known here."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        rules = [rule for rule in inner[1:] if isinstance(rule, Rule) and value is not None]
        kind = broken_rule(value, inner[0])
        return kind or next((rule.text for rule in rules if not rule.fits(value)), None)
    if origin in (Union, types.UnionType):
        rules = [broken_rule(value, one) for one in inner]
        return None if None in rules else " or ".join(dict.fromkeys(filter(None, rules)))
    if origin is Literal:
        fits = any(type(value) is type(one) and value == one for one in inner)
        return None if fits else f"one of {', '.join(map(repr, inner))}"
    if origin in (list, tuple, Sequence):
        return _broken_list(value, [one for one in inner if one is not Ellipsis])
    if annotation is dict or origin is dict:
        fits = isinstance(value, dict) and all(isinstance(key, str) for key in value)
        return None if fits else "a table of names and values"
    simple = SIMPLE.get(annotation)
    return None if simple is None or simple[0](value) else simple[1]


def _plain(annotation: Any) -> Any:
    """The type that is annotated."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _broken_list(value: Any, inner: list[Any]) -> str | None:
    if not isinstance(value, list | tuple):
        return "a list"
    kinds = inner if len(inner) > 1 else inner[:1] * len(value)
    if inner and len(kinds) != len(value):
        return f"a list of {len(kinds)}"
    rule = next((r for item, kind in zip(value, kinds, strict=False) if (r := broken_rule(item, kind))), None)
    return None if rule is None else f"a list, each item {rule}"


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST


def _text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value and not has_surrogates(value)


SIMPLE: dict[Any, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "true or false"),
    int: (_whole, "a whole number"),
    float: (lambda value: _whole(value) or (isinstance(value, float) and math.isfinite(value)), "a finite number"),
    str: (_text, "a text"),
    Path: (lambda value: isinstance(value, Path) or _text(value), "a path"),
    type(None): (lambda value: value is None, "left out"),
}
"""Kinds of values: how they are told, and what they are called."""
