"""`trip info`: how a clip was made."""

import json

from trip.apps.options import Info
from trip.data.metadata import read_metadata, reproduce_command


def info(options: Info) -> int:
    """Print the record of a clip and the command that makes it again.

    Raises:
        ValueError: no such file, or nothing recorded in it.
    """
    record = read_metadata(options.file)
    command = reproduce_command(record)
    if options.json:
        print(json.dumps({**record, "command": command}, indent=2))
        return 0
    width = max(map(len, record), default=0)
    for name, value in record.items():
        print(f"{name:<{width}}  {value}")
    print(f"\n{command}")
    return 0
