"""What a latent cache is made of: clips by index, synthetic or out of files, each with a description."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from trip.data.sets.decoding import Decoding, decode_example
from trip.data.sets.examples import Example
from trip.data.synthetic.bank import SceneBank
from trip.data.synthetic.captions import OPPOSITE
from trip.data.synthetic.scenes import Clip, SyntheticMotion


@dataclass(frozen=True, kw_only=True)
class RenderedClip:
    """A clip that is ready to be encoded.

    Attributes:
        key: names the clip in errors.
        frames: uint8 sRGB.
        description: JSON object; its caption, or kind, reverse_kind, speed and subject, which captions are drawn from.
    """

    key: str
    frames: UInt8[np.ndarray, "f H W 3"]
    description: dict[str, Any]


@runtime_checkable
class ClipSource(Protocol):
    """Clips by index."""

    def __len__(self) -> int:
        """Number of clips."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """JSON object that differs where any clip or caption does."""
        ...

    def clip(self, index: int) -> RenderedClip:
        """One clip, the same at every call.

        Raises:
            ClipFault: it cannot be used.
        """
        ...


class SyntheticClips:
    """Synthetic motion, its captions drawn when it is trained on. More clips can be added to a cache of it."""

    def __init__(self, motion: SyntheticMotion):
        self.motion = motion

    def __len__(self) -> int:
        return len(self.motion)

    def fingerprint(self) -> dict[str, Any]:
        motion = self.motion
        return {
            "source": "synthetic",
            "source_sha256": bank_sha256(motion.bank),
            "split": motion.split,
            "seed": motion.seed,
            "size": [motion.size, motion.size],
            "num_frames": motion.num_frames,
        }

    def clip(self, index: int) -> RenderedClip:
        clip = self.motion[index]
        return RenderedClip(key=str(index), frames=clip.frames, description=describe_clip(clip))


def describe_clip(clip: Clip) -> dict[str, Any]:
    """What is needed to draw captions for a synthetic clip, in either direction of time."""
    plain = {k: v for k, v in clip.params.items() if isinstance(v, str | int | float | bool) or v is None}
    return {"kind": clip.kind, "reverse_kind": OPPOSITE.get(clip.kind), **plain}


def bank_sha256(bank: SceneBank) -> str:
    """SHA-256 of the pictures and objects of a bank, with their names."""
    photos = ((photo.name, photo.caption, photo.levels[0]) for photo in bank.photos)
    return _sha256([*photos, *((cutout.name, "", cutout.rgba) for cutout in bank.objects)])


class ExampleClips:
    """Clips of files or shards, each from `variants` random starts.

    Args:
        examples: what `trip.data.sets.datasets.read_examples` lists.
        decoding: rate, size and limits.
        variants: samples of every clip; variant v depends on (seed, key, v) alone.
        seed: of the starts.
    """

    def __init__(self, examples: list[Example], decoding: Decoding, *, variants: int = 1, seed: int = 0):
        if variants < 1:
            raise ValueError(f"variants (={variants}) must be at least 1")
        self.examples, self.decoding, self.variants, self.seed = examples, decoding, variants, seed

    def __len__(self) -> int:
        return len(self.examples) * self.variants

    def fingerprint(self) -> dict[str, Any]:
        """Hash of keys and captions, and the settings that change a sample; the clips' bytes are not read."""
        decoding = {name: value for name, value in asdict(self.decoding).items() if name != "timeout"}
        pairs = _sha256((example.key, example.caption, None) for example in self.examples)
        own = {"source": "examples", "source_sha256": pairs, "variants": self.variants, "seed": self.seed}
        return {**own, **decoding}

    def clip(self, index: int) -> RenderedClip:
        place, variant = divmod(index, self.variants)
        example = self.examples[place]
        draw = hashlib.sha256(json.dumps([self.seed, example.key, variant]).encode()).digest()
        frames = decode_example(example, self.decoding, np.random.default_rng(int.from_bytes(draw, "big")))
        about = {"caption": example.caption, "variant": variant}
        return RenderedClip(key=example.key, frames=frames, description=about)


def _sha256(items: Iterable[tuple[str, str, np.ndarray | None]]) -> str:
    """SHA-256 of (name, caption, pixels or None)."""
    digest = hashlib.sha256()
    for name, caption, pixels in items:
        digest.update(json.dumps([name, caption, None if pixels is None else pixels.shape]).encode())
        digest.update(b"" if pixels is None else np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
