"""The settings that `trip train` starts from, found before its flags are parsed: they are the flags' defaults."""

import re
from argparse import ArgumentParser
from pathlib import Path

from trip.fields import show
from trip.training.config import TrainingConfig
from trip.training.presets import PRESETS

NAMING_PLACES = ("data", "initial", "vae")
"""Settings that say where something is read from."""

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)|pipe:", re.ASCII)
"""What fsspec and data readers would open over a network, inside of an archive, or as a command."""


def chosen_settings(arguments: list[str]) -> TrainingConfig:
    """Settings of --preset, --config, or the run that --resume goes on with; else the defaults.

    Raises:
        ValueError: both a preset and a config, or a config that cannot be read.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("preset", "config", "output-dir", "resume", *NAMING_PLACES):
        parser.add_argument(f"--{flag}", f"--{flag.replace('-', '_')}", nargs="?")
    found, _ = parser.parse_known_args(arguments)
    if found.preset and found.config:
        raise ValueError(f"--preset (={found.preset}) and --config (={found.config}) exclude each other; leave one out")
    if found.config:
        return load_local(Path(found.config), vars(found))
    if found.preset:
        return PRESETS[found.preset]() if found.preset in PRESETS else TrainingConfig()  # the parser names the choices
    saved = Path(found.output_dir or "runs/train") / "config.json"
    return load_local(saved, vars(found)) if found.resume and saved.is_file() else TrainingConfig()


def load_local(path: Path, flags: dict[str, str | None]) -> TrainingConfig:
    """Settings of a file, which may come from anybody; it names no place outside of this machine unless a flag does.

    Raises:
        ValueError: an address with a scheme, such as https:// or zip://, that is not on the command line.
    """
    config = TrainingConfig.load(path)
    for name in NAMING_PLACES:
        value = getattr(config, name)
        if value is not None and flags[name] is None and ADDRESS.match(value):
            raise ValueError(
                f"{path}: {name} (={show(value)}) is an address, and a file may name local paths alone; give it with "
                f"--{name} if it is meant"
            )
    return config
