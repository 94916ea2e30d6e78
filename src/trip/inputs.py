"""What a caller hands to the pipeline, checked and brought to one form before any work is done.

Every check raises ValueError in one line: the value, the rule, the remedy.
"""

import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from trip.data.images import to_rgb
from trip.data.text import has_surrogates

Still = Image.Image | Tensor
"""An upright RGB picture, or floats (3, H, W) in [0, 1]."""

ImageInput = Image.Image | Tensor | np.ndarray | Sequence[Image.Image | Tensor | np.ndarray]
PICTURES = "pass PIL images or tensors (3, H, W) or (b, 3, H, W), or arrays (H, W, 3) or (b, H, W, 3)"
RANGES = "floats in [0, 1] or [-1, 1], or uint8"

# ---------------------------------------------------------------------------------------------------- the batch


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a call animates: `size` pairs of an image and a text, each given once or `size` times."""

    images: list[Still]
    prompts: list[str]
    negative_prompts: list[str]
    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None

    @classmethod
    def of(
        cls,
        image: Any,
        prompt: Any = None,
        negative_prompt: Any = None,
        prompt_embeds: Any = None,
        negative_prompt_embeds: Any = None,
    ) -> "Batch":
        """What `TripPipeline.__call__` was given, as lists; without negatives, the empty text is one.

        Raises:
            ValueError: pictures, texts or features of another kind, missing, or given in both forms.
        """
        for name, text, embeds in (
            ("prompt", prompt, prompt_embeds),
            ("negative_prompt", negative_prompt, negative_prompt_embeds),
        ):
            if text is not None and embeds is not None:
                raise ValueError(f"{name} and {name}_embeds are both given; pass one of them")
        if prompt is None and prompt_embeds is None:
            raise ValueError("prompt (=None) is missing; pass a text, or prompt_embeds")
        if negative_prompt is None and negative_prompt_embeds is None:
            negative_prompt = ""
        return cls(
            images=as_images(image),
            prompts=as_texts("prompt", prompt),
            negative_prompts=as_texts("negative_prompt", negative_prompt),
            prompt_embeds=as_features("prompt_embeds", prompt_embeds),
            negative_prompt_embeds=as_features("negative_prompt_embeds", negative_prompt_embeds),
        )

    @property
    def counts(self) -> dict[str, int]:
        """How many of each were given."""
        return {name: len(value) for name, value in vars(self).items() if value is not None}

    @property
    def size(self) -> int:
        """Pairs of an image and a text."""
        return max(self.counts.values())

    def check(self) -> None:
        """Raise ValueError unless every part was given once or `size` times."""
        for name, count in self.counts.items():
            if count not in (0, 1, self.size):
                raise ValueError(f"{count} {name} do not match {self.size} clips; give 1 or {self.size}")

    def check_features(self, tokens: int | None, width: int | None) -> None:
        """Raise ValueError unless given features fit the network, and each other.

        Args:
            tokens: of a negative prompt that is encoded beside `prompt_embeds`; None if none is.
            width: features of a token that the network takes; None if any.
        """
        given = {"prompt_embeds": self.prompt_embeds, "negative_prompt_embeds": self.negative_prompt_embeds}
        shapes = {name: tuple(value.shape) for name, value in given.items() if value is not None}
        for name, shape in shapes.items():
            if width is not None and shape[2] != width:
                raise ValueError(f"{name} has shape {shape}; the network takes features of width {width}, so encode so")
        lengths = {name: shape[1] for name, shape in shapes.items()}
        if len(lengths) == 1 and tokens is not None:
            lengths["the encoded prompt" if "prompt_embeds" not in lengths else "the negative prompt"] = tokens
        if len(set(lengths.values())) > 1 or len({shape[2] for shape in shapes.values()}) > 1:
            sizes = " and ".join(f"{name} {shapes.get(name, length)}" for name, length in lengths.items())
            raise ValueError(f"text features differ in tokens or width: {sizes}; give both the same shape")


def as_texts(name: str, value: Any) -> list[str]:
    """A list of one text, or of several; None is the empty list."""
    if value is None:
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not texts:
        raise ValueError(f"{name} (={shown(value)}) must be a text; pass a str or a list of them")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{name} (={shown(text)}) must be a text; pass a str or a list of them")
        if has_surrogates(text):
            raise ValueError(f"{name} (={shown(text)}) holds half a character (a lone surrogate); correct it")
    return list(texts)


def as_features(name: str, value: Any) -> Tensor | None:
    """Features (b, tokens, width), or None."""
    if value is None:
        return None
    if not isinstance(value, Tensor) or value.ndim != 3 or not value.is_floating_point() or 0 in value.shape:
        shape = f"shape {tuple(value.shape)} and type {value.dtype}" if isinstance(value, Tensor) else shown(value)
        raise ValueError(f"{name} (={shape}) must be text features; pass a float tensor (b, tokens, width)")
    require_finite(value, name, remedy="check how they were computed")
    return value


# -------------------------------------------------------------------------------------------------- the pictures


def as_images(image: Any) -> list[Still]:
    """Separate stills out of a PIL image, a tensor, an array, or a sequence of them.

    Floats are in [0, 1]; if any of a call's are negative, all are in [-1, 1], as diffusers has it.

    Raises:
        ValueError: something else, or values outside the range.
    """
    stills = [tensor_of(item) if isinstance(item, np.ndarray | Tensor) else item for item in separate(image)]
    tensors = [still for still in stills if isinstance(still, Tensor)]
    low = min((float(still.min()) for still in tensors), default=0.0)
    if -0.1 < low < 0:
        raise ValueError(f"image has values from {low:g}, which is neither [0, 1] nor [-1, 1]; clamp it to its range")
    if low < 0:
        stills = [(still + 1) / 2 if isinstance(still, Tensor) else still for still in stills]
    return [still if isinstance(still, Tensor) else to_rgb(still) for still in stills]


def separate(image: Any) -> Iterator[Any]:
    """One PIL image, tensor or array of three axes after the other."""
    if isinstance(image, Image.Image) or (isinstance(image, Tensor | np.ndarray) and image.ndim == 3):
        yield image
    elif isinstance(image, Tensor | np.ndarray) and image.ndim != 4:
        raise ValueError(f"image of shape {tuple(image.shape)} is no picture; {PICTURES}")
    elif isinstance(image, Tensor | np.ndarray | list | tuple) and len(image):
        for item in image:
            yield from separate(item)
    else:
        raise ValueError(f"image (={shown(image)}) must hold pictures; {PICTURES}")


def tensor_of(image: np.ndarray | Tensor) -> Float[Tensor, "3 H W"]:
    """Floats in [0, 1] or [-1, 1] of a picture (H, W, 3) or (3, H, W)."""
    kind = "tensor" if isinstance(image, Tensor) else "array"
    shape, dtype = tuple(image.shape), image.dtype
    channels = shape[0] if kind == "tensor" else shape[2]
    known = dtype in (torch.uint8, np.uint8) or (
        dtype.is_floating_point if isinstance(dtype, torch.dtype) else np.issubdtype(dtype, np.floating)
    )
    if channels == 3 and known and 0 not in shape:
        pixels = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image)).permute(2, 0, 1)
        pixels = pixels.detach().float() / 255 if pixels.dtype == torch.uint8 else pixels.detach().float()
        if bool((pixels.abs() <= 1).all()):
            return pixels
    raise ValueError(f"image {kind} of shape {shape} and type {dtype} is no picture; {PICTURES}, of {RANGES}")


def size_of(image: Still) -> tuple[int, int]:
    """(height, width) in pixels."""
    return (image.height, image.width) if isinstance(image, Image.Image) else (image.shape[-2], image.shape[-1])


def to_pixels(image: Still, height: int, width: int) -> Float[Tensor, "1 3 H W"]:
    """Resize a still so that it covers height x width, cut it centrally, and map it to [-1, 1]."""
    if isinstance(image, Image.Image):
        fitted = ImageOps.fit(to_rgb(image), (width, height), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.array(fitted)).permute(2, 0, 1)[None].float() / 255
    else:
        pixels = cover(image[None].float().cpu(), height, width)
    return pixels * 2 - 1


def cover(pixels: Float[Tensor, "b 3 H W"], height: int, width: int) -> Float[Tensor, "b 3 h w"]:
    """Resize by the larger of the two ratios and cut the middle."""
    if pixels.shape[-2:] == (height, width):
        return pixels
    ratio = max(height / pixels.shape[-2], width / pixels.shape[-1])
    size = [max(round(pixels.shape[-2] * ratio), height), max(round(pixels.shape[-1] * ratio), width)]
    pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return pixels[..., top : top + height, left : left + width]


# --------------------------------------------------------------------------------------------- numbers, tensors


def whole(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """The value as an int of at least `least`; floats and booleans are none."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise ValueError(f"{name} (={shown(value)}) must be a whole number; pass an int")
    if number < least:
        raise ValueError(f"{name} (={number}) must be at least {least}; raise it")
    if most is not None and number > most:
        raise ValueError(f"{name} (={number}) must be at most {most}; lower it")
    return number


def real(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """The value as a finite float in [low, high]."""
    try:
        number = math.nan if isinstance(value, bool | str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} (={shown(value)}) must be a finite number; pass a float")
    if not low <= number <= high:
        limits = f"at least {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"
        raise ValueError(f"{name} (={number:g}) must be {limits}; correct it")
    return number


def scale_of_frames(name: str, value: Any) -> float | Tensor:
    """A finite number, or float32 (f,) out of a sequence or tensor of them."""
    if isinstance(value, str | bytes | dict | set) or not (hasattr(value, "__len__") or isinstance(value, Tensor)):
        return real(name, value)
    if isinstance(value, Tensor) and value.ndim == 0:
        return real(name, value)
    try:
        scale = torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} (={shown(value)}) must hold numbers; pass a float, or one for each frame") from None
    if scale.ndim == 0:
        return real(name, float(scale))
    if not bool(scale.isfinite().all()):
        raise ValueError(f"{name} (={shown(value)}) must be finite; correct it")
    return scale


def numbers(name: str, value: Any) -> list[float] | None:
    """A list of finite numbers that fall, as schedules do, or None."""
    if value is None:
        return None
    if isinstance(value, str | bytes | dict | set) or not hasattr(value, "__len__") or len(value) == 0:
        raise ValueError(f"{name} (={shown(value)}) must be numbers; pass a list of them")
    items = value.tolist() if isinstance(value, Tensor | np.ndarray) else list(value)
    for item in items:
        real(name, item, low=0)
    if any(later >= earlier for earlier, later in itertools.pairwise(items)):
        raise ValueError(f"{name} (={shown(value)}) must fall from noise to clip; sort them in descending order")
    return items


def interval_of(name: str, value: Any) -> tuple[float, float]:
    """(low, high) with 0 <= low <= high <= 1."""
    if isinstance(value, str | bytes | dict | set) or not hasattr(value, "__len__") or len(value) != 2:
        raise ValueError(f"{name} (={shown(value)}) must be (low, high); pass two numbers from 0 to 1")
    low, high = (real(name, end) for end in value)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"{name} (={low:g}, {high:g}) must be 0 <= low <= high <= 1; correct it")
    return low, high


def check_generator(generator: Any, clips: int) -> None:
    """Raise ValueError unless it is None, a torch.Generator, or a list with one for each clip."""
    generators = generator if isinstance(generator, list) else [generator]
    for each in generators:
        if not (isinstance(each, torch.Generator) or (each is None and not isinstance(generator, list))):
            raise ValueError(f"generator (={shown(each)}) must be a torch.Generator; pass one, or a list of them")
    if isinstance(generator, list) and len(generator) != clips:
        raise ValueError(f"{len(generator)} generators do not match {clips} clips; give one, or one a clip")


def check_latents(
    name: str, latents: Any, batches: set[int], frames: set[int], channels: int, size: tuple[int, int]
) -> None:
    """Raise ValueError unless latents from outside are None, or finite floats that fit the clip."""
    if latents is None:
        return
    expected = f"b c f h w with b in {sorted(batches)}, f in {sorted(frames)} and (c, h, w) = {(channels, *size)}"
    if not isinstance(latents, Tensor) or not latents.is_floating_point():
        raise ValueError(f"{name} (={shown(latents)}) must be a float tensor; pass {expected}")
    shape = tuple(latents.shape)
    if (
        len(shape) != 5
        or shape[0] not in batches
        or shape[2] not in frames
        or (shape[1], *shape[3:])
        != (
            channels,
            *size,
        )
    ):
        raise ValueError(f"{name} has shape {shape}; expected {expected}")
    require_finite(latents, name, remedy="check how they were computed")


def require_finite(latents: Tensor, name: str, remedy: str = "load the model with dtype=torch.float32") -> None:
    """Raise ValueError if latents hold NaN or infinity."""
    if not bool(latents.isfinite().all()):
        raise ValueError(f"{name} have NaN or infinite values; {remedy}")


def one_per_clip(tensor: Tensor, clips: int, device: torch.device) -> Tensor:
    """Repeat the items of a batch, one after the other, until there are as many as clips."""
    return tensor.to(device).repeat_interleave(clips // len(tensor), dim=0)


def shown(value: Any) -> str:
    """A value in an error: its repr on one line, cut."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} of shape {tuple(value.shape)} and type {value.dtype}"
    text = " ".join(ascii(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


# ------------------------------------------------------------------------------------------- options of a call


def device_of(device: Any) -> torch.device:
    """torch's device of a name."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device (={shown(device)}) is no device; pass texts by keyword, as negative_prompt") from None


def own_schedule(timesteps: Any, sigmas: Any) -> dict[str, list[float]] | None:
    """A schedule of one's own, as an option of a scheduler's `set_timesteps`; None if none is given."""
    given = {"timesteps": numbers("timesteps", timesteps), "sigmas": numbers("sigmas", sigmas)}
    given = {name: values for name, values in given.items() if values is not None}
    if len(given) > 1:
        raise ValueError("timesteps and sigmas are both given; pass one of them")
    return given or None


def scale_of_lora(options: Any) -> float | None:
    """The strength of LoRA in `cross_attention_kwargs`, which have no other use here."""
    if options is None:
        return None
    if not isinstance(options, dict) or options.keys() - {"scale"}:
        raise ValueError(
            f'cross_attention_kwargs (={shown(options)}) may be {{"scale": s}}, of LoRA; pass that or None'
        )
    return real("cross_attention_kwargs scale", options["scale"]) if options else None


def same_shape(name: str, new: Any, old: Tensor | None) -> Tensor | None:
    """What a callback put in the place of a tensor, on its device and of its type; None if it is as it was.

    diffusers' cutoff callbacks keep the last of the prompts' features only, since their pipelines stack those of the
    negative prompts before them; here nothing is stacked, so the prompts stay.
    """
    if new is None or old is None:
        return None
    if not isinstance(new, Tensor):
        raise ValueError(
            f"the callback's {name} (={shown(new)}) must be a tensor; return one of shape {tuple(old.shape)}"
        )
    new = new.to(old)
    if 0 < len(new) <= len(old) and new.shape[1:] == old.shape[1:] and torch.equal(new, old[-len(new) :]):
        return None
    if new.shape != old.shape:
        raise ValueError(f"the callback's {name} has shape {tuple(new.shape)}; return {tuple(old.shape)}")
    return new
