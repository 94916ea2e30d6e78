"""Loading parts of models that somebody else saved: what is looked at before, and what is refused.

Every part comes out of safetensors, nothing runs code that lies beside weights, and a part is loaded whole: each
tensor of the file has its place, its shape and finite values, and no place stays empty. Each fault is one ValueError
that names model, part and tensor. Only headers are read for it, so it comes before time and memory are spent.

====================  ==========================================================================================
`check_model`         a pipeline's folder: its class, its parts, their configs, files and tensors
`check_files`         the same without torch: only that the files are there and whole
`check_part`          one part's folder
`load_part`           a part of a known class, or of a few; `load_autoencoder`: an image autoencoder
`load_transformers`   a network of transformers by a class of its own, `load_tokenizer`
`StrictModel`         base of our networks, which hold themselves to this in `from_pretrained` and `save_pretrained`
====================  ==========================================================================================

Nothing heavy is imported before it is needed.
"""

import inspect
import os
import stat
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from trip.data.text import printable, read_json

COPY_AGAIN = "copy, download or save the model again"
WEIGHTLESS = ("tokenizer", "scheduler", "feature_extractor", "image_processor")
OURS: dict[tuple[str, str], type] = {}
"""(module, class name) -> what a model_index.json may name beside classes of diffusers and transformers."""

Shapes = dict[str, tuple[int, ...]]
Source = str | os.PathLike[str]
Kind = TypeVar("Kind", bound=type)


class LoadingError(ValueError):
    """One line that names model and part."""


def saved_part(kind: Kind) -> Kind:
    """Class decorator: pipelines may be saved with such a part, and loaded again once its module is imported."""
    OURS[kind.__module__, kind.__name__] = kind
    return kind


# ------------------------------------------------------------------------------------------ the class of a model

TEXT_TO_VIDEO = ("TextToVideoSDPipeline", "VideoToVideoSDPipeline", "AnimateDiffPipeline")
STABLE_DIFFUSION = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
NEEDS = {
    "trip": "a TRIP model",
    "per-frame": "a text-to-video model with latents of every frame, such as ModelScopeT2V or AnimateDiff",
    "stills": "Stable Diffusion 1.x or 2.x",
}
OTHERS = {
    "StableVideoDiffusion": "animates pictures by itself and reads no text; run it with diffusers",
    "I2VGenXL": "animates pictures by itself; run it with diffusers",
    "ImageToVideo": "animates pictures by itself, and its latents stand for several frames each; run it with diffusers",
    "AnimateDiffSDXL": "has two text encoders, which are not supported; use an AnimateDiffPipeline",
    "AnimateDiff": "needs more inputs than text; save its parts as an AnimateDiffPipeline",
    "PIA": "animates pictures by itself; run it with diffusers",
    "StableDiffusionXL": "makes stills, with two text encoders; start from Stable Diffusion 1.x or 2.x",
    "StableDiffusion3": "makes stills, with a transformer; start from Stable Diffusion 1.x or 2.x",
    "StableDiffusion": "makes stills; train it to move first: trip train --initial",
    "TextToVideoZero": "makes clips out of an image network's stills; use a text-to-video model",
    **dict.fromkeys(
        ("Wan", "LTX", "CogVideoX", "HunyuanVideo", "Hunyuan", "Mochi", "Allegro", "Latte", "EasyAnimate", "SkyReels",
         "Cosmos", "Sana", "ConsisID", "Kandinsky5", "Magi", "Video"),
        "has a video transformer or latents that stand for several frames each; run it with diffusers",
    ),
}  # fmt: skip
"""Start (or part) of a pipeline class's name -> why it is none of ours, and what to do."""


def model_class(source: Source, name: str = "model") -> str:
    """The pipeline class that a folder or hub id was saved as; `name` is what an error calls it.

    Raises:
        ValueError: no such folder or id, or a folder that is no pipeline's.
    """
    if os.path.isdir(source):
        return str(read_index(Path(source), name).get("_class_name"))
    check_no_file(source, name)
    from diffusers import DiffusionPipeline

    try:
        config: Any = DiffusionPipeline.load_config(os.fspath(source))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()).split(". ")[0]
        raise ValueError(
            f"{name} {shown(source)} cannot be loaded: {reason}; check the name and the connection"
        ) from None
    return str(config.get("_class_name"))


def check_class(source: Source, takes: Collection[str], name: str = "model") -> str:
    """The class of a model, one of those that can be used here.

    Args:
        takes: of `NEEDS`: "trip", "per-frame", "stills".

    Raises:
        ValueError: another class, with what to do about it; else as `model_class`.
    """
    found = model_class(source, name)
    if found in class_names(takes):
        return found
    wanted = [NEEDS[kind] for kind in takes]
    kinds = ", ".join(wanted[:-1]) + " or " * (len(wanted) > 1) + wanted[-1]
    what = printable(found, 60)
    raise ValueError(f"{name} {shown(source)} is a {what}, which {advice(found, takes)}; needed here is {kinds}")


def class_names(takes: Collection[str]) -> tuple[str, ...]:
    """The pipeline classes of some kinds."""
    names = {"trip": ("TripPipeline",), "per-frame": TEXT_TO_VIDEO, "stills": STABLE_DIFFUSION}
    return tuple(name for kind in takes for name in names[kind])


def advice(found: str, takes: Collection[str]) -> str:
    """What is to be said of a model of a class that is not taken."""
    if found == "TripPipeline":
        return "knows the picture by itself; load it by TripPipeline.from_pretrained"
    if found in TEXT_TO_VIDEO:
        return "becomes one by TripPipeline.from_text_to_video"
    for start, what in OTHERS.items():
        if start in found:
            return what
    return "is not known here; run it with the program that saved it"


# ------------------------------------------------------------------------------------------------- whole folders


def check_model(folder: Path, given: Collection[str] = (), variant: str | None = None, name: str = "model") -> None:
    """Look through the folder of a saved pipeline: parts, configs, files, and every tensor's name and shape.

    Args:
        given: parts that are not taken from the folder. variant: of the weights' file names, such as "fp16".

    Raises:
        ValueError: the first fault.
    """
    where = f"{name} {shown(folder)}"
    for part, (library, kind) in parts_of(folder, name, given).items():
        check_part(folder / part, part_class(library, kind, part, where), variant, part, where)


def check_files(folder: Path, name: str = "model") -> None:
    """The part of `check_model` that needs no torch: the parts' folders, and the files of weights in them.

    Raises:
        ValueError: the first fault.
    """
    for part in parts_of(folder, name):
        check_regular(folder / part)
        if not part.startswith(WEIGHTLESS):
            check_part_files(folder / part, f"{name} {shown(folder)}: its {part}")


def check_part_files(folder: Path, where: str) -> None:
    """The same for the folder of a single part; `where` is what an error calls it.

    Raises:
        ValueError: no config.json, no safetensors, or a damaged file.
    """
    _read_object(folder / "config.json", where)
    check_regular(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise _no_weights(folder, where)
    for file in files:
        _header(file)


def parts_of(folder: Path, name: str = "model", without: Collection[str] = ()) -> dict[str, tuple[str, str]]:
    """Part -> (library, class name) of a saved pipeline, each with a folder.

    Raises:
        ValueError: no model_index.json, one that names no class for a part, or a part without its folder.
    """
    where, found = f"{name} {shown(folder)}", {}
    for part, kind in read_index(folder, name).items():
        if part.startswith("_") or not isinstance(kind, list) or kind[:1] == [None] or part in without:
            continue
        if not part.isidentifier() or len(kind) != 2 or not all(isinstance(word, str) for word in kind):
            raise ValueError(f"{where} names no class for its part {printable(part, 60)!r}; {COPY_AGAIN}")
        if not (folder / part).is_dir():
            raise ValueError(f"{where} lacks the folder {part}; {COPY_AGAIN}")
        found[part] = tuple(kind)
    return found


def read_index(folder: Path, name: str = "model") -> dict[str, Any]:
    """The model_index.json of a folder."""
    return _read_object(folder / "model_index.json", f"{name} {shown(folder)} is no model folder, it")


def part_class(library: str, class_name: str, part: str, where: str) -> type:
    """The class that a model_index.json names for a part: of diffusers, of transformers, or of `saved_part`."""
    kind: Any = OURS.get((library, class_name))
    if library in ("diffusers", "transformers"):
        kind = getattr(__import__(library), class_name, None)
    elif kind is None and library.isidentifier():  # a part that lies in the folder of a pipeline of diffusers
        import diffusers.pipelines

        kind = getattr(getattr(diffusers.pipelines, library, None), class_name, None)
    if not (isinstance(kind, type) and hasattr(kind, "from_pretrained")):
        known = sorted({module for module, _ in OURS})
        remedy = "name the file that defines it by --fusion-module, or import it" if part == "fusion" else COPY_AGAIN
        raise ValueError(
            f"{where} takes its {part} from {printable(f'{library}.{class_name}', 100)}, which is not of diffusers, "
            f"transformers{''.join(f', {module}' for module in known)}; {remedy}"
        )
    return kind


def check_part(folder: Path, kind: type, variant: str | None = None, part: str = "", where: str = "") -> None:
    """Look through the folder of one part; what has no weights (tokenizers, schedulers) only for irregular files.

    Args:
        kind: the class that will load it. part, where: what an error calls it, and the model that it is of.

    Raises:
        ValueError: a device or pipe in the folder, no safetensors, a damaged file, a config that does not fit `kind`,
            a tensor that is missing, has no place, or has another shape.
    """
    part, where = part or "network", where or f"model {shown(folder)}"
    check_regular(folder)
    if _is(kind, "diffusers", "ModelMixin"):
        found = tensor_shapes(folder, "diffusion_pytorch_model", variant, where)
        network = _on_meta(kind, folder, found, part, where)
        network._fix_state_dict_keys_on_load(found)
        expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        ignored = network._keys_to_ignore_on_load_unexpected or ()
        refuse(differences(expected, found, ignored), part, where, kind)
    elif _is(kind, "transformers", "PreTrainedModel"):
        found = tensor_shapes(folder, "model", variant, where)
        _check_depth(_read_object(folder / "config.json", f"{where}: its {part}"), found, part, where)
        own = variant if any(folder.glob(f"*.{variant}*")) else None
        load_transformers(kind, folder, part=part, where=where, device_map="meta", variant=own)


def check_regular(folder: Path) -> None:
    """Raise ValueError for a device, pipe or socket in a folder, which would be read for ever."""
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        raise ValueError(f"{shown(folder)} cannot be read ({error.strerror}); check the path") from None
    for path in paths:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError(f"{shown(path)} is a device or a pipe and no file; {COPY_AGAIN}")


def check_no_file(source: Source, name: str) -> None:
    """A model is a folder or a hub id. A single file is refused, that of the original ModelScope by name."""
    if not os.path.lexists(source):
        return
    message = f"{name} {shown(source)} is a file; name the folder with model_index.json"
    if os.fspath(source).lower().endswith((".pth", ".ckpt", ".pt", ".bin", ".safetensors")):
        message = (
            f"{name} {shown(source)} is one file of weights, as ModelScope's original text2video_pytorch_model.pth; "
            "use that model in diffusers' layout (damo-vilab/text-to-video-ms-1.7b), or convert it with "
            "diffusers' scripts/convert_ms_text2video_to_diffusers.py"
        )
    raise ValueError(message)


# ------------------------------------------------------------------------------------------------------- tensors


def tensor_shapes(folder: Path, stem: str, variant: str | None, where: str) -> Shapes:
    """Name -> shape of the tensors that a part's safetensors hold, out of their headers.

    Raises:
        ValueError: no safetensors, a damaged file, or an index that does not fit its files.
    """
    names = [f"{stem}.{variant}.safetensors", f"{stem}.safetensors.index.{variant}.json"] if variant else []
    names += [f"{stem}.safetensors", f"{stem}.safetensors.index.json"]
    path = next((folder / name for name in names if os.path.lexists(folder / name)), None)
    if path is None:
        raise _no_weights(folder, where)
    if path.suffix == ".safetensors":
        return _header(path)
    index = _read_object(path, f"{where}: its index").get("weight_map")
    if not (
        isinstance(index, dict) and all(isinstance(file, str) and Path(file).name == file for file in index.values())
    ):
        raise ValueError(f"{shown(path)} is damaged (weight_map); {COPY_AGAIN}")
    shards = {file: _header(folder / file) for file in sorted(set(index.values()))}
    for name, file in index.items():
        if name not in shards[file]:
            raise ValueError(f"{shown(folder / file)} lacks the tensor {printable(name, 200)}; {COPY_AGAIN}")
    for file, shapes in shards.items():
        if extra := sorted(shapes.keys() - index.keys()):
            raise ValueError(f"{shown(path)} does not name {printable(extra[0], 200)} of {file}; {COPY_AGAIN}")
    return {name: shards[file][name] for name, file in index.items()}


def _no_weights(folder: Path, where: str) -> ValueError:
    pickles = any(file.suffix in (".bin", ".pt", ".pth", ".ckpt") for file in folder.iterdir())
    remedy = "save it again with safe_serialization=True; pickles are not read" if pickles else COPY_AGAIN
    return ValueError(f"{where} has no safetensors in {folder.name}; {remedy}")


def _header(path: Path) -> Shapes:
    """Name -> shape of one safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError("no regular file")
        with safe_open(path, "np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{shown(path)} is missing or damaged ({error}); {COPY_AGAIN}") from None


def differences(expected: Shapes, found: Shapes, ignored: Iterable[str] = ()) -> list[str]:
    """What stands in the way of loading, one phrase a tensor: those that are missing, misshapen, without a place."""
    import re

    extra = [name for name in sorted(found.keys() - expected.keys()) if not any(re.search(p, name) for p in ignored)]
    return [
        *(f"lacks the tensor {name}" for name in sorted(expected.keys() - found.keys())),
        *(
            f"has the tensor {name} of shape {found[name]}, not {expected[name]}"
            for name in sorted(expected.keys() & found.keys())
            if expected[name] != found[name]
        ),
        *(f"has the tensor {printable(name, 200)}, for which there is no place" for name in extra),
    ]


def refuse(faults: list[str], part: str, where: str, kind: type) -> None:
    """Raise ValueError for the first of the faults, if any."""
    if faults:
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise LoadingError(f"{where}: its {part} ({kind.__name__}) {faults[0]}{more}; {COPY_AGAIN}")


def check_finite(network: Any, part: str, where: str) -> None:
    """Raise ValueError for weights that are NaN or infinite."""
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and tensor.itemsize > 1 and not tensor.is_meta and not tensor.isfinite().all():
            raise LoadingError(f"{where}: its {part} has NaN or infinite values in the tensor {name}; {COPY_AGAIN}")


def _on_meta(kind: Any, folder: Path, found: Shapes, part: str, where: str) -> Any:
    """The network that a folder's config describes, without memory for its weights."""
    import torch

    config = _read_object(folder / "config.json", f"{where}: its {part}")
    _check_depth(config, found, part, where)
    try:
        with torch.device("meta"):
            return kind.from_config({k: v for k, v in config.items() if not k.startswith("_")})
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        reason = " ".join(reason.split())[:300]
        raise ValueError(f"{where}: the config of its {part} does not fit {kind.__name__} ({reason})") from None


def _check_depth(config: Mapping[str, Any], found: Shapes, part: str, where: str) -> None:
    """Every layer has tensors; a config that says more layers than the file has tensors would build for ever."""
    for key, value in config.items():
        if any(word in key for word in ("layers", "depth", "num_blocks")):
            for count in value if isinstance(value, list) else [value]:
                if isinstance(count, int) and count > len(found):
                    raise ValueError(
                        f"{where}: {key} (={count}) of its {part} exceeds its {len(found)} tensors; {COPY_AGAIN}"
                    )


# ------------------------------------------------------------------------------------------------- single parts


def load_part(source: Source, kinds: Mapping[str, type], what: str, **options: Any) -> Any:
    """A part out of a folder (or hub id) of its own, of one of a few classes, in evaluation mode.

    Args:
        kinds: by class name. what: what an error calls it, such as "autoencoder".
        options: of the class's `from_pretrained`.

    Raises:
        ValueError: a part of another class; else as `check_part` and `check_finite`.
    """
    where = f"{what} {shown(source)}"
    local = os.path.isdir(source)
    if not local:
        check_no_file(source, what)
    config = (
        _read_object(Path(source) / "config.json", f"{where}: it") if local else _hub_config(source, where, options)
    )
    found = str(config.get("_class_name"))
    if found not in kinds:
        raise ValueError(f"{where} is a {printable(found, 60)}; choose one of {', '.join(kinds)}")
    if local:
        check_part(Path(source), kinds[found], options.get("variant"), what, where)
    kind: Any = kinds[found]
    with one_line(where):
        loaded, info = kind.from_pretrained(source, use_safetensors=True, output_loading_info=True, **options)
    refuse(_faults(info), what, where, kind)
    check_finite(loaded, what, where)
    return loaded.eval()


def load_autoencoder(source: Source, **options: Any) -> Any:
    """An `AutoencoderKL` or `AutoencoderTiny`, whichever the folder holds; float32 unless `torch_dtype` says other.

    Raises:
        ValueError: as `load_part`.
    """
    import torch
    from diffusers import AutoencoderKL, AutoencoderTiny

    kinds = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderTiny)}
    return load_part(source, kinds, "autoencoder", **{"torch_dtype": torch.float32, **options})


def load_transformers(
    kind: Any,
    source: Source,
    *,
    part: str = "network",
    where: str = "",
    ignore: Collection[str] = (),
    **options: Any,
) -> Any:
    """A network of transformers by its class; never code of the folder's own, never a pickle.

    Args:
        kind: a class of transformers. ignore: starts of tensors' names that need no place.
        options: of `from_pretrained`.

    Raises:
        ValueError: it cannot be loaded, lacks tensors, or has some without a place or of another shape.
    """
    where = where or f"{part} {shown(source)}"
    if os.path.isdir(source):
        check_regular(Path(source))
    strict = {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    with one_line(where), _quiet():
        loaded, info = kind.from_pretrained(source, **strict, ignore_mismatched_sizes=True, **options)
    refuse(_faults(info, ignore), part, where, type(loaded))
    if options.get("device_map") != "meta":
        check_finite(loaded, part, where)
    return loaded


def load_tokenizer(source: Source, kind: Any = None, **options: Any) -> Any:
    """A tokenizer of transformers, of a class or whichever the folder or hub id holds; never code of its own.

    Raises:
        ValueError: it cannot be loaded.
    """
    if kind is None:
        from transformers import AutoTokenizer as kind
    if os.path.isdir(source):
        check_regular(Path(source))
    with one_line(f"tokenizer {shown(source)}"):
        return kind.from_pretrained(source, trust_remote_code=False, **options)


class one_line:
    """Context manager: any error of loading is one ValueError."""

    def __init__(self, where: str):
        self.where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, (LoadingError, MemoryError, ImportError)):
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(f"{self.where} cannot be loaded: {reason}; check the path, or {COPY_AGAIN}") from error


class _quiet:
    """Context manager: no report of transformers about the tensors that an error will name, no progress bar."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self.level, self.bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *error: Any) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self.level)
        if self.bar:
            logging.enable_progress_bar()


def _faults(info: Mapping[str, Any], ignore: Collection[str] = ()) -> list[str]:
    """`differences` out of what diffusers and transformers report of their loading."""
    extra = [name for name in sorted(info["unexpected_keys"]) if not name.startswith(tuple(ignore))]
    return [
        *(f"lacks the tensor {name}" for name in sorted(info["missing_keys"])),
        *(f"has the tensor {n} of shape {tuple(a)}, not {tuple(b)}" for n, a, b in sorted(info["mismatched_keys"])),
        *(f"has the tensor {printable(name, 200)}, for which there is no place" for name in extra),
    ]


def _hub_config(source: Source, where: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from diffusers import AutoencoderKL

    names = ("revision", "token", "cache_dir", "local_files_only", "subfolder")
    with one_line(where):
        config: Any = AutoencoderKL.load_config(os.fspath(source), **{k: options[k] for k in names if k in options})
    return dict(config)


# -------------------------------------------------------------------------------------------------- our networks


def check_saveable(network: Any, part: str) -> None:
    """Raise ValueError for a network whose saved folder could not be loaded to the same output, with the remedy."""
    import torch

    if adapters := _adapters(network):
        alone = f" ({part}.save_lora_adapter keeps them alone)" if hasattr(network, "save_lora_adapter") else ""
        raise ValueError(
            f"{part} has adapters ({', '.join(adapters)}), which a folder of weights does not hold; make them part "
            f"of the weights by fuse_lora() and unload_lora(), or take them off by unload_lora(){alone}"
        )
    if not hasattr(network, "from_config"):
        return
    with torch.device("meta"):
        fresh = type(network).from_config(network.config)
    expected, found = ({k: tuple(v.shape) for k, v in n.state_dict().items()} for n in (fresh, network))
    if faults := differences(expected, found):
        fused = (
            "call unfuse_qkv_projections() first" if any("to_qkv" in fault for fault in faults) else "undo that first"
        )
        raise ValueError(f"{part} is not what its config says: it {faults[0]}; {fused}")


def _adapters(network: Any) -> list[str]:
    """Names of the adapters of peft inside a network, merged or not."""
    tuners = sys.modules.get("peft.tuners.tuners_utils")
    if tuners is None:
        return []
    layers = [module for module in network.modules() if isinstance(module, tuners.BaseTunerLayer)]
    return sorted({name for layer in layers for kind in layer.adapter_layer_names for name in getattr(layer, kind)})


class StrictModel:
    """Mixed into a `ModelMixin`: loads whole or not at all, and saves what will load."""

    config: Any

    @classmethod
    def from_pretrained(cls, source: Source, **options: Any):
        """`ModelMixin.from_pretrained`, safetensors only.

        Raises:
            ValueError: in one line: a setting that the class does not have, a tensor that is missing, has no place, has
                another shape, or is not finite.
        """
        asked = options.pop("output_loading_info", False)
        options.setdefault("use_safetensors", True)
        where, part = f"model {shown(source)}", options.get("subfolder") or "network"
        folder, loose = Path(source, options.get("subfolder") or ""), options.get("ignore_mismatched_sizes", False)
        if folder.is_dir() and not loose and not options.get("use_flashpack"):
            where, part = f"model {shown(folder.absolute().parent)}", folder.absolute().name
            check_part(folder, cls, options.get("variant"), part, where)
        loader: Any = super()
        with one_line(where):
            network, info = loader.from_pretrained(source, output_loading_info=True, **options)
        if not loose:
            refuse(_faults(info), part, where, cls)
        check_finite(network, part, where)
        return (network, info) if asked else network

    @classmethod
    def from_config(cls, config: Any, **options: Any):
        """`ConfigMixin.from_config`; a setting that the class does not have is an error, not left out."""
        if isinstance(config, Mapping):
            known = {*inspect.signature(cls.__init__).parameters}
            unknown = [key for key in config if not key.startswith("_") and key not in known and key not in FOREIGN]
            if unknown:
                raise ValueError(f"{cls.__name__} has no setting {printable(unknown[0], 60)!r}; correct or remove it")
        loader: Any = super()
        return loader.from_config(config, **options)

    def save_pretrained(
        self,
        save_directory: Source,
        is_main_process: bool = True,
        save_function: Any = None,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str = "10GB",
        push_to_hub: bool = False,
        **options: Any,
    ) -> None:
        """`ModelMixin.save_pretrained`; diffusers reads the names of its arguments.

        Raises:
            ValueError: adapters or fused projections, which the saved folder would not load.
        """
        check_saveable(self, type(self).__name__)
        saver: Any = super()
        arguments = (is_main_process, save_function, safe_serialization, variant, max_shard_size, push_to_hub)
        saver.save_pretrained(save_directory, *arguments, **options)


FOREIGN = ("quantization_config", "config_name", "return_unused_kwargs")


# --------------------------------------------------------------------------------------------------------- small


def shown(source: Source) -> str:
    """A model's name in an error."""
    return repr(printable(os.fspath(source), 200))


def _is(kind: type, library: str, base: str) -> bool:
    """Whether a class derives from one of a library, without importing the library for it."""
    return any(parent.__name__ == base and parent.__module__.split(".")[0] == library for parent in kind.__mro__)


def _read_object(path: Path, who: str) -> dict[str, Any]:
    """A JSON object of a model folder; `who` lacks it where there is none."""
    if not os.path.lexists(path):
        raise ValueError(f"{who} has no {path.name}; check the path")
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{' '.join(str(error).split())}; {COPY_AGAIN}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{shown(path)} is damaged (not an object); {COPY_AGAIN}")
    return content
