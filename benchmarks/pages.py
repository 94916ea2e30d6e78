"""What the benchmarks that fill pages of docs/ share: tables, their places, and files that are whole or not there.

A page's tables stand between `<!-- table: NAME -->` and `<!-- end -->`, and are made from a benchmark's JSON alone.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def markdown(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """A table; all but the first column are to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """The page with its tables replaced by those of the same names.

    Raises:
        ValueError: the page asks for a table that was not made.
    """

    def replace(match: re.Match[str]) -> str:
        if (name := match["name"]) not in tables:
            raise ValueError(f"table {name!r} is unknown; choose from {', '.join(tables)}")
        return f"<!-- table: {name} -->\n{tables[name]}\n<!-- end -->"

    return re.sub(r"<!-- table: (?P<name>\S+) -->\n.*?<!-- end -->", replace, page, flags=re.S)


def tables_of(page: str) -> dict[str, str]:
    """The tables that a page has now, by name."""
    found = re.finditer(r"<!-- table: (?P<name>\S+) -->\n(?P<table>.*?)\n?<!-- end -->", page, flags=re.S)
    return {match["name"]: match["table"] for match in found}


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write the file whole, or not at all."""
    write_whole(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def fill_pages(paths: Sequence[Path], tables: Mapping[str, str]) -> None:
    """Replace some or all tables of pages, each wherever it has a place.

    Raises:
        ValueError: no page has a place for one of them.
    """
    pages = {path: path.read_text(encoding="utf-8") for path in paths}
    places = {path: tables_of(page) for path, page in pages.items()}
    for name in tables:
        if pages and not any(name in before for before in places.values()):
            where = ", ".join(map(str, pages))
            raise ValueError(f"{where} has no table {name!r} (<!-- table: {name} --> to <!-- end -->); add one")
    for path, before in places.items():
        write_whole(path, with_tables(pages[path], before | {k: v for k, v in tables.items() if k in before}))


def write_whole(path: Path, text: str) -> None:
    """Write text under another name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.part")
    hidden.write_text(text, encoding="utf-8")
    hidden.replace(path)
