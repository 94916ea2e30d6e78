"""Lets `diffusers.DiffusionPipeline.from_pretrained` find `TripPipeline`, which it looks up in its own module by name.

diffusers is heavy and `import trip` is not, so nothing is imported for it: the name is put there when somebody else
imports diffusers, and resolved when it is used.
"""

import importlib
import importlib.util
import sys
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any


def announce() -> None:
    """Give diffusers the name `TripPipeline`, now or once it is imported."""
    module = sys.modules.get("diffusers")
    if module is not None:
        give_name(module)
    elif not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


def give_name(module: ModuleType) -> None:
    """Make `module.TripPipeline` the class, imported when it is first asked for."""
    kind: Any = type(module)
    if hasattr(kind, "TripPipeline"):
        return
    pipeline = property(lambda _: importlib.import_module("trip.pipeline").TripPipeline)
    module.__class__ = type(kind.__name__, (kind,), {"TripPipeline": pipeline})


class Finder(MetaPathFinder):
    """Finds diffusers once, as the others would, and has it named after it is executed."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """None for all other modules."""
        if name != "diffusers":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def execute_and_name(module: ModuleType) -> None:
                execute(module)
                give_name(sys.modules[name])  # diffusers puts another module in its place

            loader.exec_module = execute_and_name
        return spec
