"""Which folder a model's name means, and whether it is of a class that can be used. Imports no torch."""

from collections.abc import Sequence
from pathlib import Path

from trip.loading import check_class, check_files, check_no_file
from trip.models import BUNDLED_MODEL, bundled_model_path


def find_model(name: str, takes: Sequence[str] = ("trip", "per-frame"), what: str = "model") -> str:
    """The folder of a model, looked through, or a hub id as it is.

    Args:
        takes: classes of models, see `trip.loading.check_class`. what: what an error calls it.

    Raises:
        ValueError: no such model, one of another class, or a missing or damaged file in its folder.
    """
    folder = Path(name)
    if name == BUNDLED_MODEL and not folder.is_dir():
        folder = bundled_model_path()
    if folder.is_dir():
        check_class(folder, takes, what)
        check_files(folder, what)
        return str(folder)
    check_no_file(name, what)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(
            f"there is no {what} folder {name!r}; check the path, give a hub id (user/name), or name the "
            f"bundled {BUNDLED_MODEL}"
        )
    return name
