"""`trip info`: how a clip was made, or what a model is and understands."""

import json
from typing import Any

from trip.apps.model_card import find_card, model_card
from trip.apps.options import Info
from trip.data.text import printable
from trip.data.video.metadata import read_metadata, terminal_quote
from trip.request import animate_command, foreign_flags

LONGEST_VALUE = 1000
"""Characters of a value that are shown."""


def info(options: Info) -> int:
    """Print the record of a clip and the command that makes it again, or the card of a model.

    Raises:
        ValueError: no such file, or nothing recorded in it.
    """
    folder = find_card(options.file)
    if folder is not None:
        show(model_card(folder), options.json)
        return 0
    record = read_metadata(options.file)
    # Where the clip lies now, and not where its maker, perhaps a stranger, wants the next one.
    record_now = {**record, "output": str(options.file)} if "output" in record else record
    foreign = foreign_flags(record)
    warning = f"{', '.join(foreign)}: the record chose what is loaded; look at it before you run this" * bool(foreign)
    if options.json:
        warnings = {"warning": warning} if warning else {}
        print(json.dumps({**record, "command": animate_command(record_now), **warnings}, indent=2))
        return 0
    show(record, False)
    print(f"\n{animate_command(record_now, terminal_quote)}")
    if warning:
        print(f"# {warning}")
    return 0


def show(record: dict[str, Any], as_json: bool) -> None:
    """Print names and values, one a line."""
    if as_json:
        print(json.dumps(record, indent=2))
        return
    names = {name: printable(name, 60) for name in record}
    width = max(map(len, names.values()), default=0)
    for name, value in record.items():
        lines = value if isinstance(value, list) and name == "understands" else [value]
        for k, line in enumerate(lines):
            print(f"{'' if k else names[name]:<{width}}  {printable(line, LONGEST_VALUE)}")
