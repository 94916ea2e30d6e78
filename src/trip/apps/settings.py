"""The settings that `trip train` starts from, found before its flags are parsed: they are the flags' defaults."""

from argparse import ArgumentParser
from pathlib import Path

from trip.training.config import TrainingConfig
from trip.training.presets import PRESETS


def chosen_settings(arguments: list[str]) -> TrainingConfig:
    """Settings of --preset, --config, or the run that --resume goes on with; else the defaults.

    Raises:
        ValueError: both a preset and a config, or a config that cannot be read.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("preset", "config", "output-dir", "resume"):
        parser.add_argument(f"--{flag}", f"--{flag.replace('-', '_')}", nargs="?")
    found, _ = parser.parse_known_args(arguments)
    if found.preset and found.config:
        raise ValueError(f"--preset (={found.preset}) and --config (={found.config}) exclude each other; leave one out")
    if found.config:
        return TrainingConfig.load(found.config)
    if found.preset:
        return PRESETS[found.preset]() if found.preset in PRESETS else TrainingConfig()  # the parser names the choices
    saved = Path(found.output_dir or "runs/train") / "config.json"
    return TrainingConfig.load(saved) if found.resume and saved.is_file() else TrainingConfig()
