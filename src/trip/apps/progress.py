"""Progress bars."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


@contextmanager
def progress(options: Any, what: str, total: int) -> Iterator[tqdm]:
    """A progress bar on stderr; none where that is no terminal, or with --quiet."""
    with tqdm(total=total, desc=what, leave=False, disable=True if options.quiet else None) as bar:
        yield bar
