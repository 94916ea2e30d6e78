"""What a clip is made from: `ClipRequest`, every setting of a clip, and `ModelRequest`, of the model that makes it.

A setting is written down here once, with its type, range, default and help. From that line come the flag of
`trip animate`, the record that is kept with the clip, the command that `trip info` prints, the JSON schema that
programs read, and, where `TripPipeline` has a parameter of its name, the pipeline's argument. Imports no torch.
"""

import ast
import inspect
import re
import shlex
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from tyro.conf import Positional, UseAppendAction, arg

from trip.fields import Checked, Folder, Integer, Number, Rule, Text, annotations, one_of, within
from trip.models import BUNDLED_MODEL
from trip.presets import PRESETS, SCHEDULERS, SamplingPreset, preset

DType = Literal["auto", "float32", "bfloat16", "float16"]
CLIP_SUFFIXES = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".m4v")
"""Files that are continued; .gif and .webp are read as pictures, their first frame."""

UNRECORDED = "not recorded"
"""Annotation of a setting that does not change the clip, or only on the machine that it is made on."""


def read_interval(text: str) -> tuple[float, float]:
    """(low, high) of "LOW,HIGH".

    Raises:
        ValueError: anything but two numbers with 0 <= LOW <= HIGH <= 1.
    """
    low, high = (float(part) for part in text.split(","))
    if not 0 <= low <= high <= 1:
        raise ValueError
    return low, high


def is_interval(text: str) -> bool:
    """Whether `read_interval` can read it."""
    try:
        read_interval(text)
    except ValueError:
        return False
    return True


SchedulerName = Annotated[
    str | None,
    arg(metavar="NAME", help_behavior_hint="(default: the model's)", help=f"One of {', '.join(SCHEDULERS)}."),
    one_of(SCHEDULERS),
]
PresetName = Annotated[
    str,
    arg(metavar="NAME", help=f"Quality against time: {', '.join(PRESETS)}. Flags take precedence over it."),
    one_of(PRESETS),
]
Interval = Annotated[
    str | None,
    arg(metavar="LOW,HIGH", help_behavior_hint=""),
    Rule(is_interval, "LOW,HIGH with 0 <= LOW <= HIGH <= 1, such as 0.4,1"),
]


Picture = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]
KEYFRAMES = Rule(
    lambda texts: all(re.fullmatch(r"\d{1,6}=.+", text, re.ASCII | re.DOTALL) for text in texts),
    "FRAME=FILE, such as 8=b.jpg",
)


@dataclass(frozen=True, kw_only=True)
class ClipRequest(Checked):
    """One clip to make. None is decided by preset, model and picture: `trip.studio.Studio.resolve`."""

    image: Positional[Path]
    """A picture, or a clip to go on with."""
    prompt: Text = None
    """What should move, and how."""
    negative_prompt: Annotated[str, arg(metavar="TEXT")] = ""
    """What should not happen."""
    num_frames: Annotated[Integer, within(1)] = None
    """Frames of the clip (default: the model's longest); longer ones are made in parts."""
    preset: PresetName = "quality"
    steps: Annotated[Integer, within(1)] = None
    """Denoising steps (default: the preset's; 50 for quality)."""
    scheduler: SchedulerName = None
    guidance_scale: Number = None
    """How strictly to follow the prompt; 1 is off and twice as fast (default: the pipeline's)."""
    guidance_interval: Interval = None
    """Part of the schedule where that counts, 1 is noise, 0 the clip; outside it a step takes half the time (default:
    the preset's; 0,1 for quality)."""
    guidance_every: Annotated[Integer, within(1)] = None
    """In it, look at what the prompt changes in every n-th step only (default: the preset's; 1 for quality)."""
    image_guidance_scale: float = 1.0
    """How much the network's own view of the picture counts; 1 is off."""
    guidance_rescale: Annotated[float, within(0, 1)] = 0.0
    """0 to 1: keeps the contrast under strong guidance."""
    motion_strength: Annotated[float, within(0)] = 1.0
    """0 is the still, 1 as trained, more exaggerates."""
    seed: Annotated[Integer, within(0, 2**63 - 1)] = None
    """Same seed, same clip (default: drawn at random, and recorded)."""
    fps: Annotated[float, within(0.1, 240)] = 8.0
    """Frames per second of the file."""
    width: Integer = None
    """Pixels (default: the picture's shape, at about 512 x 512 pixels and not above its own; without --upscale at the
    model's area)."""
    height: Integer = None
    """Pixels (default: as for the width)."""
    last_image: Picture = None
    """The picture that the clip ends with."""
    keyframe: Annotated[UseAppendAction[tuple[Annotated[str, arg(metavar="FRAME=FILE")], ...]], KEYFRAMES] = ()
    """A picture for a frame, counted from 0; may be given several times."""
    loop: bool = False
    """The first frame follows the last one."""
    mask: Picture = None
    """A picture of the same shape: white moves, black stays as it is."""
    camera: Text = None
    """Where the camera goes, such as "zoom 1.3, pan 0.2 0, roll 5, ease in-out" (docs/controls.md)."""
    drag: UseAppendAction[tuple[Annotated[str, arg(metavar="X,Y:X,Y")], ...]] = ()
    """What lies at one place goes to another, in shares of width and height; may be given several times."""
    observe: Annotated[Integer, within(1)] = None
    """Frames at the end of a clip, given as the picture, that the new one begins with (default: 4)."""
    upscale: Literal["auto", "cascade", "none"] = "auto"
    """cascade moves the full-size picture along the small clip that the model makes; auto does so where the picture is
    much larger than the model's clips."""
    decode_chunk_size: Annotated[Integer, within(1), UNRECORDED] = None
    """Frames decoded at once (default: the clip's); fewer take less memory."""

    def keyframes(self) -> dict[int, Path]:
        """The pictures by frame.

        Raises:
            ValueError: two for one frame.
        """
        pairs = [text.split("=", 1) for text in self.keyframe]
        if len({int(number) for number, _ in pairs}) < len(pairs):
            raise ValueError(f"--keyframe ({', '.join(self.keyframe)}) has two pictures for one frame; give one")
        return {int(number): Path(name) for number, name in pairs}

    def sampling(self) -> SamplingPreset:
        """The preset, with what is given here in the place of its own settings."""
        chosen = preset(self.preset)
        given: dict[str, Any] = {"steps": self.steps, "guidance_every": self.guidance_every}
        if self.guidance_interval is not None:
            given["guidance_interval"] = read_interval(self.guidance_interval)
        if self.scheduler is not None:
            chosen = replace(chosen, scheduler=None, scheduler_options={})  # the studio puts the named one in place
        return replace(chosen, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class ModelRequest(Checked):
    """The model to load, and how it is kept in memory."""

    model: Annotated[str, arg(metavar="MODEL")] = BUNDLED_MODEL
    """Folder or hub id. A text-to-video pipeline becomes training-free image-to-video."""
    fusion: Folder = None
    """Fusion folder in place of the model's, such as `trip calibrate` writes."""
    lora: UseAppendAction[tuple[Annotated[str, arg(metavar="FOLDER[:WEIGHT]")], ...]] = ()
    """LoRA adapters, such as `trip train --trainable lora` writes into lora/; may be given several times."""
    dtype: DType = "auto"
    """Precision of the networks; auto is float32 on a CPU, float16 elsewhere."""
    weights_dtype: Literal["auto", "float8"] = "auto"
    """How the network's weights rest; auto is --dtype, float8 halves them and changes clips a little."""
    device: Annotated[str, arg(metavar="NAME"), UNRECORDED] = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto is the first accelerator, else the CPU."""
    offload: Annotated[Literal["none", "model", "group", "sequential"], UNRECORDED] = "none"
    """What leaves the accelerator while it is not used: nothing, whole parts (some memory for little time), layers
    (most of it; group moves the next one ahead)."""
    compile: Annotated[bool, UNRECORDED] = False
    """Compile the network's layers first, which takes minutes; meant for accelerators, on a CPU nothing was gained."""


def pictures(request: ClipRequest) -> list[Path]:
    """The files of pictures that a request names."""
    first = [] if request.image.suffix.lower() in CLIP_SUFFIXES else [request.image]
    return [*first, *filter(None, (request.last_image, request.mask)), *request.keyframes().values()]


LOADING = ("model", "fusion", "lora")
"""Settings by which the maker of a record chooses what is loaded."""

# -------------------------------------------------------------------------------------------- record and command


def plain(kind: type, request: Any) -> Any:
    """The request as one of `kind` alone, out of one that has more settings, such as a command's flags."""
    return kind(**{field.name: getattr(request, field.name) for field in fields(kind)})


def settings(*kinds: type) -> Iterator[Field]:
    """The fields that are recorded."""
    for kind in kinds or (ClipRequest, ModelRequest):
        yield from (field for field in fields(kind) if UNRECORDED not in metadata(kind, field.name))


def metadata(kind: type, name: str) -> tuple[Any, ...]:
    """What a setting is annotated with beside its type."""
    annotation = annotations(kind).get(name)
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()


def record_of(*requests: ClipRequest | ModelRequest) -> dict[str, Any]:
    """What is kept of requests: every recorded setting that says something, by name."""
    values = {field.name: getattr(request, field.name) for request in requests for field in settings(type(request))}
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in values.items()
        if value not in (None, "", ())
    }


def animate_command(record: Mapping[str, Any], quote: Callable[[str], str] = shlex.quote) -> str:
    """The shell-quoted ``trip animate ...`` line that makes the clip of a record again.

    A record without the photograph's path gives the placeholder ``IMAGE``. Names that are no flags, and values of a
    kind that no flag takes, are left out. `quote` is how a word is written for the shell.
    """
    image = record.get("image")
    image = image if isinstance(image, str) and image else "IMAGE"
    words = ["trip", "animate", f"./{image}" if image.startswith("-") else image]
    switches = {field.name for field in settings() if isinstance(field.default, bool)}
    names = [field.name for field in settings() if field.name != "image"]
    for name in [*names[:1], "output", *names[1:]]:
        flag = "--" + name.replace("_", "-")
        if name in switches:
            words += [flag] * (record.get(name) is True)
            continue
        for text in _flag_values(record.get(name)):
            # A value that begins with a dash would be taken for a flag.
            words += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    return " ".join(map(quote, words))


def _flag_values(value: Any) -> list[str]:
    match value:
        case bool():
            return []
        case str() | int() | float():
            return [str(value)]
        case list() | tuple():
            return [item for item in value if isinstance(item, str)]
    return []


def foreign_flags(record: Mapping[str, Any]) -> list[str]:
    """The flags of the command that let a record's maker choose what is loaded, beside the bundled model."""
    chosen = [name for name in LOADING if _flag_values(record.get(name))]
    return [f"--{name}" for name in chosen if not (name == "model" and record["model"] == BUNDLED_MODEL)]


# -------------------------------------------------------------------------------------------------------- schema


def json_schema(kind: type = ClipRequest) -> dict[str, Any]:
    """JSON schema of a request: an object with a property for each setting."""
    texts = help_texts(kind)
    properties = {}
    for field in fields(kind):
        annotation = annotations(kind)[field.name]
        properties[field.name] = {**_type_schema(annotation), "description": texts.get(field.name, "")}
        if field.default not in (None, MISSING):
            properties[field.name]["default"] = field.default
    required = [field.name for field in fields(kind) if field.default is MISSING]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


JSON_TYPES = {str: "string", Path: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def _type_schema(annotation: Any) -> dict[str, Any]:
    """The JSON schema of an annotation, with its rules."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        schema = _type_schema(inner[0])
        for rule in (rule for rule in inner[1:] if isinstance(rule, Rule)):
            schema |= rule.schema
        if "enum" in schema and "null" in schema["type"]:
            schema["enum"] = [*schema["enum"], None]
        return schema
    if origin is Literal:
        return {"type": "string", "enum": list(inner)}
    if origin is tuple:
        return {"type": "array", "items": _type_schema(inner[0])}
    if inner:
        kinds = [_type_schema(one)["type"] for one in inner]
        return {"type": kinds}
    return {"type": JSON_TYPES[annotation]}


def help_texts(kind: type) -> dict[str, str]:
    """What is said of every setting: the text below its line, or the `help` that it is annotated with."""
    texts = {}
    for owner in filter(is_dataclass, reversed(kind.__mro__)):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body  # pyright: ignore[reportArgumentType]
        assert isinstance(definition, ast.ClassDef)
        for line, below in pairwise([*definition.body, ast.Pass()]):
            match line, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                    texts[name] = " ".join(said.split())
    annotated = {field.name: metadata(kind, field.name) for field in fields(kind)}
    helps = {
        name: next((one.help for one in said if getattr(one, "help", None)), "") for name, said in annotated.items()
    }
    return {**helps, **texts}
