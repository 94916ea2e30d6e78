"""The version of the installed distribution."""

from importlib.metadata import PackageNotFoundError, version


def trip_version() -> str:
    """Version of the installed distribution."""
    try:
        return version("trip-i2v")
    except PackageNotFoundError:
        return "unknown"
