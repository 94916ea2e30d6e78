"""What a text encoder sees of captions: those that are cut at its limit, and those that are empty, in one line."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from trip.data.text import printable, read_json, read_text
from trip.models import SENTENCE_ENCODER

LOOKED_AT = 100_000
"""Of more captions, so many are looked at, evenly spread."""
AT_ONCE = 1000

Lengths = Callable[[list[str]], list[int]]


@dataclass(frozen=True, kw_only=True)
class CaptionCounts:
    """Captions looked at, of them too long for an encoder of `limit` tokens, and of them empty."""

    captions: int
    limit: int
    cut: int
    empty: int

    def __str__(self) -> str:
        """The line; "" where all is well."""
        if self.empty == self.captions > 0:
            return f"all {self.captions} captions are empty: nothing can be learnt of words; write some"
        parts = []
        if self.cut:
            parts.append(f"{self.cut} have more than the text encoder's {self.limit} tokens and are cut; shorten them")
        if self.empty:
            parts.append(f"{self.empty} are empty; write them")
        return f"of {self.captions} captions {', '.join(parts)}" if parts else ""

    def to_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class TextLimit:
    """How long captions may be.

    Attributes:
        tokens: the most, with those at the beginning and the end.
        lengths: tokens of each of several texts.
    """

    tokens: int
    lengths: Lengths

    @classmethod
    def of(cls, tokenizer: Any, tokens: int) -> "TextLimit":
        """Of a transformers tokenizer."""
        return cls(tokens=tokens, lengths=lambda texts: [len(ids) for ids in tokenizer(texts, verbose=False).input_ids])

    @classmethod
    def read(cls, model: Path) -> "TextLimit":
        """Of a saved pipeline, without loading its networks.

        Raises:
            ValueError: no pipeline, or one without a tokenizer.
        """
        index = _object(model / "model_index.json")
        packaged = index.get("packaged_text_encoder")
        folder = Path(str(files(SENTENCE_ENCODER) / "model")) if packaged else model / "tokenizer"
        if not folder.is_dir():
            raise ValueError(f"{model} has no tokenizer; name the folder of a whole model")
        limit = _whole(index.get("max_text_length")) or min(
            _number(folder / "tokenizer_config.json", "model_max_length"),
            _number((folder if packaged else model / "text_encoder") / "config.json", "max_position_embeddings"),
        )
        try:
            return cls(tokens=limit, lengths=_lengths(folder))
        except Exception as error:  # tokenizers raises plain ones
            reason = printable(" ".join(str(error).split()), 200)
            raise ValueError(f"{folder} holds no tokenizer that can be read ({reason}); copy the model again") from None

    def count(self, captions: Sequence[str]) -> CaptionCounts:
        """What is cut or empty."""
        step = -(-len(captions) // LOOKED_AT) or 1
        looked_at = captions[::step]
        texts = [caption for caption in looked_at if caption.strip()]
        cut = 0
        for start in range(0, len(texts), AT_ONCE):
            cut += sum(length > self.tokens for length in self.lengths(texts[start : start + AT_ONCE]))
        empty = len(looked_at) - len(texts)
        return CaptionCounts(captions=len(looked_at), limit=self.tokens, cut=cut, empty=empty)


def _object(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no object; name the folder of a model")
    return found


def _number(path: Path, name: str) -> int:
    """A limit of a config, beyond all captions where it names none."""
    return (_whole(_object(path).get(name)) if path.is_file() else None) or 10**9


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _lengths(folder: Path) -> Lengths:
    """What counts tokens, of a folder of a tokenizer."""
    file = folder / "tokenizer.json"
    if not file.is_file():  # older kinds, which transformers knows; slow to import
        from transformers import AutoTokenizer

        return TextLimit.of(
            AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False), 0
        ).lengths
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(read_text(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda texts: [len(found.ids) for found in tokenizer.encode_batch(texts)]
