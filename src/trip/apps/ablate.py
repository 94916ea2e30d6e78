"""`trip ablate`: a study from the flags, and its table."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from trip.ablation.study import Manner, Study, missing, read_study, run_study
from trip.ablation.table import markdown, write_table
from trip.ablation.variants import base_config
from trip.apps.ablate_options import Ablate
from trip.apps.errors import quiet_models, say
from trip.evaluation.features.base import FeatureNetwork
from trip.evaluation.features.efficientnet import efficientnet_features
from trip.evaluation.weights import find_weights
from trip.training.config import TrainingConfig


def ablate(options: Ablate) -> int:
    """Run what is left, write STUDY/table.json and print it; returns the exit code.

    Raises:
        ValueError: a folder of another study, caches or weights that are not there.
    """
    if not options.debug:
        quiet_models()
    study = study_of(options)
    if not options.table:
        manner = Manner(cpu=options.cpu, quiet=options.quiet, say=say)
        run_study(study, options.output_dir, consistency_network(options.weights), manner)
    print(markdown(write_table(study, options.output_dir, {})))
    if left := missing(study, options.output_dir):
        say(
            f"{len(left)} of {len(study.variants) * study.seeds} networks are not scored yet: {', '.join(left[:5])} ..."
        )
    return 0


def study_of(options: Ablate) -> Study:
    """The study of the flags; with --table, the one in the folder.

    Raises:
        ValueError: no such study, or no data named.
    """
    if options.table:
        return read_study(options.output_dir)
    if options.data is None or options.held_out is None:
        raise ValueError("--data and --held-out name the latent caches to train and to score on; give both")
    base = base_config() if options.config is None else TrainingConfig.load(options.config)
    base = replace(base, data=options.data, **given(steps=options.steps))
    names = {"variants": tuple(options.variants.split(","))} if options.variants else {}
    counts = given(seeds=options.seeds, error_clips=options.error_clips, made_clips=options.made_clips)
    start = None if options.start is None else str(options.start)
    return Study(base=base, held_out=str(options.held_out), start=start, **names, **counts)


def given(**values: Any) -> dict[str, Any]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def consistency_network(folder: Path | None) -> FeatureNetwork | None:
    """EfficientNet-Lite0, or None where its weights are not at hand."""
    try:
        return efficientnet_features(find_weights("efficientnet-lite0", folder))
    except ValueError as error:
        say(f"F-Consistency is left out: {error}")
        return None
