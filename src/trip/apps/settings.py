"""The settings that `trip train` starts from, found before its flags are parsed: they are the flags' defaults."""

import os
import re
from argparse import ArgumentParser
from pathlib import Path

from trip.data.text import expand_braces
from trip.fields import show
from trip.models import BUNDLED_MODEL
from trip.training.config import TrainingConfig
from trip.training.presets import PRESETS

NAMING_PLACES = ("data", "initial", "vae")
"""Settings that say where something is read from."""

MODELS = ("initial", "vae")
"""Those of them for which a name that is no local path is a hub id, which is downloaded."""

ADDRESS = re.compile(r"://|::|pipe:")
"""In what fsspec and data readers would open over a network, inside of an archive, or as a command."""


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
        ValueError: an address with a scheme, such as https:// or zip://, or a hub id, that is not on the command line.
    """
    config = TrainingConfig.load(path)
    for name in NAMING_PLACES:
        value = getattr(config, name)
        if value is None or flags[name] is not None:
            continue
        if is_address(value):
            problem = "is an address"
        elif name in MODELS and not is_local(value):
            problem = "is not there, and might be a hub id"
        else:
            continue
        raise ValueError(
            f"{path}: {name} (={show(value)}) {problem}, and a file may name local paths alone; give it with "
            f"--{name} if it is meant"
        )
    return config


def is_address(value: str) -> bool:
    """Whether a name, or one of those that its braces stand for, leads elsewhere than to a local path."""
    return any(ADDRESS.search(name) for name in (value, *expand_braces(value)))


def is_local(model: str) -> bool:
    """Whether a model is bundled or has a path that is there."""
    return model == BUNDLED_MODEL or os.path.exists(model)
