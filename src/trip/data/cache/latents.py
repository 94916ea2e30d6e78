"""Latent cache: clips rendered or read once, encoded once, then read in any order by the trainer.

========================  ==========================================================================================
cache.json                what the latents are of; a cache is filled further only with the same
clips-00000.safetensors   `latents` n f c h w and, where captions are fixed, `text` n tokens d
clips-00000.jsonl         a description a clip: its caption, or what captions are drawn from
empty-text.safetensors    `text` tokens d of the empty caption
faults.jsonl              clips that were left out, with the reason
========================  ==========================================================================================

A shard appears only when both of its files are complete, so a killed run resumes at the first missing shard.
A cache may be anybody's: what is damaged, wrong or a link out of it is an error that names the file.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trip.data.places import Root
from trip.data.synthetic.captions import KINDS, OBJECT_KINDS, SPEEDS
from trip.data.text import has_surrogates, open_regular, parse_json, printable, read_json
from trip.files import atomic_path, contents, write_json, write_text

MANIFEST, EMPTY_TEXT, FAULTS = "cache.json", "empty-text.safetensors", "faults.jsonl"


def shard_paths(folder: Path, index: int) -> tuple[Path, Path]:
    """(latents, descriptions) of shard `index`."""
    return folder / f"clips-{index:05d}.safetensors", folder / f"clips-{index:05d}.jsonl"


def write_shard(
    folder: Path,
    index: int,
    latents: Float[Tensor, "n f c h w"],
    descriptions: list[dict],
    *,
    text: Float[Tensor, "n tokens d"] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write one shard atomically: descriptions first, tensors last, each renamed into place.

    Raises:
        ValueError: latents or text that are not finite in `dtype`.
    """
    assert len(latents) == len(descriptions), f"{len(latents)} clips with {len(descriptions)} descriptions"
    names = [str(about.get("key", number)) for number, about in enumerate(descriptions)]
    content = {"latents": cast_finite(latents, dtype, names, "latents")}
    if text is not None:
        content["text"] = cast_finite(text, dtype, names, "text features")
    tensors, lines = shard_paths(folder, index)
    write_text(lines, "".join(json.dumps(d) + "\n" for d in descriptions))
    with atomic_path(tensors) as path:
        save_file(content, path)


def write_empty_text(folder: Path, text: Float[Tensor, "tokens d"], dtype: torch.dtype = torch.float16) -> None:
    """Write the features of the empty caption."""
    content = {"text": cast_finite(text[None], dtype, [""], "text features")[0]}
    with atomic_path(folder / EMPTY_TEXT) as path:
        save_file(content, path)


def cast_finite(values: Tensor, dtype: torch.dtype, names: list[str], what: str) -> Tensor:
    """The values of n clips (n ...) in the dtype of a cache.

    Raises:
        ValueError: one clip's are not finite there; names the clip and what to do.
    """
    cast = values.to(dtype).contiguous()
    if cast.isfinite().all():
        return cast
    bad = next(i for i, clip in enumerate(cast) if not clip.isfinite().all())
    clip, label = values[bad], str(dtype).removeprefix("torch.")
    if clip.isfinite().all():
        raise ValueError(
            f"the {what} of clip {names[bad]!r} reach {clip.abs().max().item():.4g}, more than {label} holds; "
            "make the cache with dtype float32 or bfloat16"
        )
    raise ValueError(
        f"the {what} of clip {names[bad]!r} come out of the encoder as NaN or infinite; encode in float32 and "
        "check the encoder's weights"
    )


def open_cache(folder: Path, describe: dict) -> None:
    """Create a cache, or check that an existing one is of the same thing.

    Raises:
        ValueError: a folder of other files; or names every setting in which the existing cache differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / MANIFEST
    if not manifest.exists():
        if there := contents(folder):
            name = printable(there[0], 60)
            raise ValueError(f"{folder} holds {name} and no {MANIFEST}; choose another folder, or an empty one")
        write_json(manifest, describe)
        return
    found, describe = _read_manifest(manifest), json.loads(json.dumps(describe))
    different = [k for k in sorted(found.keys() | describe.keys()) if found.get(k) != describe.get(k)]
    if different:
        changes = ", ".join(f"{k}: {found.get(k)!r} there, {describe.get(k)!r} wanted" for k in different)
        raise ValueError(
            f"the cache {folder} is of something else ({printable(changes)}); choose another folder or delete it"
        )


# --------------------------------------------------------------------------------------------------- reading


class LatentClips(torch.utils.data.Dataset):
    """Clips of a cache: item i is (latents c f h w, description).

    Shards are mapped into memory when they are first read, in every process anew; items are copies.

    Attributes:
        folder: the cache.
        manifest: content of cache.json, {} where there is none.
        descriptions: of all clips, without their latents.
        latent_shape: (c, f, h, w).
        empty_text: features of the empty caption (tokens d), None where the cache holds no text.

    Raises:
        ValueError: no clips, or shards that do not fit together.
    """

    def __init__(self, folder: Path | str):
        self.folder, root = Path(folder), Root(Path(folder))
        self.paths = [root.check(path) for path in sorted(self.folder.glob("clips-*.safetensors"))]
        self.descriptions = Descriptions([root.check(path.with_suffix(".jsonl")) for path in self.paths])
        self.latent_shape = self._check_shapes()
        self.manifest = _read_manifest(root.check(self.folder / MANIFEST))
        self.empty_text = _read_empty_text(root.check(self.folder / EMPTY_TEXT))
        self._mapped: dict[int, dict[str, Tensor]] = {}

    def _check_shapes(self) -> tuple[int, int, int, int]:
        shapes = set()
        for path, count in zip(self.paths, self.descriptions.counts, strict=True):
            found = _shapes(path)
            latents, text = found.get("latents", ()), found.get("text")
            if len(latents) != 5 or (text is not None and (len(text) != 3 or text[0] != latents[0])):
                raise ValueError(f"{path} has tensors {found}, not latents n f c h w and text n tokens d; {REMEDY}")
            clips, f, c, h, w = latents
            if clips != count:
                raise ValueError(f"{path} holds {clips} clips with {count} descriptions; {REMEDY}")
            shapes |= {(c, f, h, w)} if clips else set()
        if not shapes:
            raise ValueError(f"{self.folder} holds no latent shards; make them with trip data cache")
        if len(shapes) > 1:
            raise ValueError(f"{self.folder} mixes latents c f h w of {sorted(shapes)}; fill a new cache")
        return shapes.pop()

    def __len__(self) -> int:
        return len(self.descriptions)

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        shard, row = self.descriptions.locate(index)
        return self._tensors(shard)["latents"][row].movedim(0, 1).clone(), self.descriptions[index]

    def text(self, index: int) -> Float[Tensor, "tokens d"] | None:
        """Features of the clip's caption; None where captions are drawn afresh."""
        shard, row = self.descriptions.locate(index)
        found = self._tensors(shard).get("text")
        return None if found is None else found[row].clone()

    def _tensors(self, shard: int) -> dict[str, Tensor]:
        if shard not in self._mapped:
            self._mapped[shard] = _read_tensors(self.paths[shard])  # views of the mapped file
        return self._mapped[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}}


class Descriptions(Sequence[dict]):
    """The lines of a cache's .jsonl files, parsed when asked for; takes 8 bytes of memory a clip."""

    def __init__(self, paths: list[Path]):
        self.paths = paths
        self.ends = [_line_ends(path) for path in paths]
        self.counts = [len(ends) for ends in self.ends]
        self.starts = np.cumsum([0, *self.counts])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """(shard, row in it) of a clip."""
        index = range(len(self))[index]
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        return shard, index - int(self.starts[shard])

    def __getitem__(self, index: int) -> dict:  # pyright: ignore[reportIncompatibleMethodOverride]
        shard, row = self.locate(index)
        start = int(self.ends[shard][row - 1]) + 1 if row else 0
        with self.paths[shard].open("rb") as file:
            file.seek(start)
            line = file.read(int(self.ends[shard][row]) - start)
        about = parse_json(line, f"{self.paths[shard]} line {row + 1}")
        if not isinstance(about, dict):
            raise ValueError(f"{self.paths[shard]} line {row + 1} is no object; {REMEDY}")
        return about


def caption_problem(about: dict[str, Any]) -> str | None:
    """Why a clip's description gives no caption: it has neither its own nor what one can be drawn from."""
    if "kind" not in about:
        caption = about.get("caption")
        return None if isinstance(caption, str) and not has_surrogates(caption) else "has no caption that is a text"
    choices = {"kind": KINDS, "reverse_kind": (*KINDS, None), "speed": (*SPEEDS, None)}
    wrong = [name for name, values in choices.items() if about.get(name) not in values]
    subject, moving = about.get("subject"), about["kind"] in OBJECT_KINDS
    if not (isinstance(subject, str) or (subject is None and not moving)) or (moving and not subject):
        wrong.append("subject")
    shown = ", ".join(f"{name} {printable(repr(about.get(name)), 40)}" for name in wrong)
    return f"has {shown}, of which no caption can be made" if wrong else None


# What is read of a file. All of it may be wrong.

REMEDY = "delete the shard and fill the cache again"


def _shapes(path: Path) -> dict[str, list[int]]:
    with _opened(path) as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def _read_tensors(path: Path) -> dict[str, Tensor]:
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if not all(tensor.is_floating_point() for tensor in tensors.values()):
        raise ValueError(f"{path} has tensors that are no floating-point numbers; {REMEDY}")
    return tensors


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    open_regular(path).close()
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged ({' '.join(str(error).split())}); {REMEDY}") from None


def _line_ends(path: Path) -> np.ndarray:
    with open_regular(path) as file:
        return np.flatnonzero(np.fromfile(file, np.uint8) == ord("\n"))


def _read_empty_text(path: Path) -> Tensor | None:
    if not path.exists():
        return None
    text = _read_tensors(path).get("text")
    if text is None or text.ndim != 2:
        raise ValueError(f"{path} has no text tokens d; {REMEDY}")
    return text.clone()


def _read_manifest(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no object; delete the cache and fill it again")
    return content
