"""`--lora FOLDER[:WEIGHT]`: adapters on top of a model. What is wrong with them is said before torch is imported."""

import math
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from trip.data.text import open_regular, printable


class Adapter(NamedTuple):
    """A file of LoRA weights and how strongly it counts; `text` is how the user wrote it."""

    text: str
    file: Path
    weight: float


def read_adapters(texts: tuple[str, ...]) -> list[Adapter]:
    """The adapters of the flags.

    Raises:
        ValueError: no such folder, no or several or damaged weights in it, a weight that is none; peft is missing.
    """
    adapters = [_adapter(text) for text in texts]
    if adapters and find_spec("peft") is None:
        raise ValueError('--lora needs the package peft; install it with pip install "trip-i2v[lora]"')
    return adapters


def _adapter(text: str) -> Adapter:
    path, weight = Path(text), 1.0
    if not path.exists() and ":" in text:
        name, _, number = text.rpartition(":")  # the last colon: C:\adapters has one too
        with suppress(ValueError):
            path, weight = Path(name), float(number)
    if not math.isfinite(weight):
        raise ValueError(f"--lora {printable(text)} has the weight {weight}, which is no number; give one such as 0.8")
    if not path.exists():
        raise ValueError(f"--lora {printable(text)} is no folder or file, or no FOLDER:WEIGHT; check the path")
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if len(files) != 1:
        raise ValueError(f"--lora {printable(text)} holds {len(files)} safetensors files; name the one to use")
    try:
        with open_regular(files[0]), safe_open(files[0], "np") as weights:
            names = list(weights.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{files[0]} is missing or damaged ({error}); copy or download it again") from None
    if not any("lora" in name.lower() for name in names):
        raise ValueError(f"{files[0]} holds no LoRA weights; name what `trip train --trainable lora` wrote in lora/")
    return Adapter(text, files[0], weight)


def load_adapters(pipeline: Any, adapters: list[Adapter]) -> None:
    """Put the adapters on the pipeline's networks, each with its weight.

    Raises:
        ValueError: weights that do not fit the model.
    """
    for k, adapter in enumerate(adapters):
        with safe_open(adapter.file, "np") as weights:
            names = list(weights.keys())
        prefixed = all(name.startswith(("unet.", "text_encoder.")) for name in names)
        folder, file = str(adapter.file.parent), adapter.file.name
        try:
            if prefixed:
                pipeline.load_lora_weights(folder, weight_name=file, adapter_name=f"lora{k}")
            else:
                pipeline.unet.load_lora_adapter(folder, prefix=None, weight_name=file, adapter_name=f"lora{k}")
        except Exception as error:  # diffusers and peft raise errors of many kinds
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"--lora {printable(adapter.text)} does not fit the model ({reason}); use its own"
            ) from None
        if not any(f"lora{k}" in getattr(part, "peft_config", {}) for part in (pipeline.unet, pipeline.text_encoder)):
            raise ValueError(
                f"--lora {printable(adapter.text)} has no layer of this model; use one that was trained on it"
            )
    if adapters:
        names = [f"lora{k}" for k in range(len(adapters))]
        pipeline.set_adapters(names, [adapter.weight for adapter in adapters])
