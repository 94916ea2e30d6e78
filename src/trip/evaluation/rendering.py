"""The templates of pages and charts; every value that they print is escaped, and so are invisible marks in it."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from trip.data.text import printable


def rendered(name: str, **values: Any) -> str:
    """A template of this package with its values."""
    return environment().get_template(name).render(**values)


@cache
def environment() -> Environment:
    """Where templates come from, and how values are printed."""
    return Environment(
        loader=PackageLoader("trip.evaluation", "templates"),
        autoescape=True,
        finalize=visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def visible(value: Any) -> Any:
    """A text without marks that would turn or hide what stands beside it; line ends and markup stay."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "\n".join(map(printable, value.split("\n")))
