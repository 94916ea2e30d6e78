"""Models that somebody else saved: whole, or one line that names part and tensor."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

import tiny_models
from trip.apps.cli import main
from trip.loading import check_class, load_autoencoder, load_part, load_transformers
from trip.noise_fusion import TemporalNoiseFusion, load_fusion
from trip.pipeline import TripPipeline
from trip.residual_unet import ResidualUNet3D
from trip.training.config import TrainingConfig
from trip.training.parts import load_start

PARTS = {"vae": "post_quant_conv.bias", "unet": "conv_out.bias", "fusion": "norm_out.bias"}
PARTS |= {"text_encoder": "final_layer_norm.bias"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline whose fusion has weights, on disk."""
    pipeline = tiny_models.trip_pipeline()
    fusion = TemporalNoiseFusion(dim=16, depth=1, num_heads=2, sigma=[0.0, 0.3, 0.5, 0.6])
    pipeline.register_modules(fusion=fusion)
    return tiny_models.saved(pipeline, tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def weights(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def change(folder: Path, edit) -> None:
    """Apply `edit` to the tensors of a part."""
    tensors = load_file(weights(folder))
    edit(tensors)
    save_file(tensors, weights(folder), {"format": "pt"})


DAMAGE = {
    "dropped": (lambda w, name: w.pop(name), "lacks the tensor {name}"),
    "extra": (
        lambda w, name: w.update(stranger=torch.zeros(2)),
        "has the tensor stranger, for which there is no place",
    ),
    "misshapen": (lambda w, name: w.update({name: torch.zeros(3, 7)}), r"has the tensor {name} of shape \(3, 7\)"),
    "nan": (lambda w, name: w[name].fill_(torch.nan), "NaN or infinite values in the tensor {name}"),
}


def fails(message: str, load, *args, **options) -> None:
    """`load` raises one line of ValueError."""
    with pytest.raises(ValueError, match=message) as error:
        load(*args, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_tensor_that_does_not_fit_is_named_with_its_part(copy: Path, part: str, damage: str) -> None:
    edit, message = DAMAGE[damage]
    change(copy / part, lambda tensors: edit(tensors, PARTS[part]))
    fails(
        f"copy': its {part} .*{message.format(name=PARTS[part])}.*; copy, download", TripPipeline.from_pretrained, copy
    )
    alone = {"fusion": load_fusion, "vae": load_autoencoder, "unet": ResidualUNet3D.from_pretrained}
    if part in alone:
        fails(message.format(name=PARTS[part]), alone[part], copy / part)


@pytest.mark.parametrize("damage", ["dropped", "extra", "misshapen"])
def test_training_and_the_command_line_say_it_too(copy: Path, damage: str, capsys: pytest.CaptureFixture) -> None:
    edit, message = DAMAGE[damage]
    change(copy / "unet", lambda tensors: edit(tensors, PARTS["unet"]))
    fails(message.format(name=PARTS["unet"]), load_start, TrainingConfig(initial=str(copy)))
    picture = Path(__file__).parents[1] / "examples" / "photos" / "castle.jpg"
    animate = ["animate", picture, "--prompt", "pan", "--output", copy / "x.gif"]
    assert main([*map(str, animate), "--model", str(copy), "--quiet"]) == 2
    assert PARTS["unet"] in (line := capsys.readouterr().err) or "stranger" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("part", ["unet", "fusion", "vae", "text_encoder"])
def test_shards_are_looked_through_as_well(saved: Path, tmp_path: Path, part: str) -> None:
    pipeline = TripPipeline.from_pretrained(saved)
    pipeline.save_pretrained(tmp_path / "m", max_shard_size="4KB")
    shards = sorted((tmp_path / "m" / part).glob("*.safetensors"))
    assert len(shards) > 1
    again = TripPipeline.from_pretrained(tmp_path / "m")
    state = again.components[part].state_dict()
    assert all(torch.equal(value, state[name]) for name, value in pipeline.components[part].state_dict().items())
    tensors = load_file(shards[-1])
    name = tensors.popitem()[0]
    save_file(tensors, shards[-1], {"format": "pt"})
    fails(f"lacks the tensor {name}", TripPipeline.from_pretrained, tmp_path / "m")
    index = next((tmp_path / "m" / part).glob("*.index.json"))
    table = json.loads(index.read_text())
    del table["weight_map"][name]
    index.write_text(json.dumps(table))
    fails(f"lacks the tensor {name}", TripPipeline.from_pretrained, tmp_path / "m")
    table["weight_map"][name] = "../unet/config.json"
    index.write_text(json.dumps(table))
    fails("weight_map", TripPipeline.from_pretrained, tmp_path / "m")


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("unet", {"block_out_channels": [8, 24]}, "its unet .* has the tensor .* of shape"),
        ("unet", {"block_out_channels": "wide"}, "config of its unet does not fit ResidualUNet3D"),
        ("unet", {"norm_num_groups": 5}, r"norm_num_groups \(=5\) does not divide"),
        ("unet", {"frame_embeding": True}, "no setting 'frame_embeding'"),
        ("unet", {"layers_per_block": 10**9}, r"layers_per_block \(=1000000000\) of its unet exceeds its"),
        ("fusion", {"predicton_type": "v_prediction"}, "no setting 'predicton_type'"),
        ("fusion", {"sigma": None}, "config of its fusion does not fit"),
        ("fusion", {"depth": 2}, "its fusion .* lacks the tensor blocks.1"),
        ("vae", {"latent_channels": 8}, "its vae .* has the tensor .* of shape"),
        ("vae", {"block_out_channels": None}, "config of its vae does not fit AutoencoderKL"),
        ("text_encoder", {"hidden_size": 32}, "its text_encoder .* has the tensor .* of shape"),
        ("text_encoder", {"num_hidden_layers": 10**9}, r"num_hidden_layers \(=1000000000\) of its text_encoder"),
    ],
)
def test_a_config_that_does_not_fit_is_named(copy: Path, part: str, change: dict, message: str) -> None:
    path = copy / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    fails(message, TripPipeline.from_pretrained, copy)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: (m / "vae" / "config.json").unlink(), "vae has no config.json"),
        (lambda m: (m / "unet" / "config.json").write_text("[1]"), "config.json' is damaged"),
        (lambda m: (m / "unet" / "config.json").write_text("[" * 10**6), "config.json is nested too deeply"),
        (lambda m: (m / "unet" / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json is not text"),
        (lambda m: weights(m / "fusion").write_bytes(b"\x00" * 7), "missing or damaged"),
        (lambda m: weights(m / "vae").unlink(), "has no safetensors in vae"),
        (lambda m: weights(m / "vae").rename(m / "vae" / "diffusion_pytorch_model.bin"), "pickles are not read"),
        (lambda m: (os.unlink(weights(m / "unet")), os.mkfifo(m / "unet" / "x.safetensors")), "device or a pipe"),
        (lambda m: ((m / "unet/config.json").unlink(), os.mkfifo(m / "unet/config.json")), "device or a pipe"),
        (lambda m: ((m / "model_index.json").unlink(), os.mkfifo(m / "model_index.json")), "device or a pipe"),
        (lambda m: shutil.rmtree(m / "scheduler"), "lacks the folder scheduler"),
    ],
)
def test_files_that_cannot_be_parts_are_named(copy: Path, edit, message: str) -> None:
    edit(copy)
    fails(message, TripPipeline.from_pretrained, copy)


@pytest.mark.parametrize(
    "kind", [["os", "system"], ["antigravity", "x"], ["trip.pipeline", "TripPipeline"], [1, 2], ["a"]]
)
def test_a_model_names_classes_of_known_libraries_only(copy: Path, kind: list) -> None:
    """Nothing is imported because a model says so, nor is a .py beside the weights."""
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "unet" / "code.py").write_text("raise SystemExit")
    for changed in (kind, ["code", "Network"]):
        (copy / "model_index.json").write_text(json.dumps(index | {"unet": changed}))
        fails("its unet from|no class for its part", TripPipeline.from_pretrained, copy)
    (copy / "model_index.json").write_text(json.dumps(index | {"../unet": index["unet"]}))
    fails("no class for its part '../unet'", TripPipeline.from_pretrained, copy)


def test_given_parts_are_not_looked_for(copy: Path) -> None:
    pipeline = TripPipeline.from_pretrained(copy)
    shutil.rmtree(copy / "vae")
    assert TripPipeline.from_pretrained(copy, vae=pipeline.vae).vae is pipeline.vae


def test_variants_are_checked_by_their_own_files(copy: Path) -> None:
    path = weights(copy / "unet")
    path.rename(path.with_suffix(".fp16.safetensors"))
    assert TripPipeline.from_pretrained(copy, variant="fp16").unet is not None
    change(copy / "unet", lambda tensors: tensors.pop("conv_out.bias"))
    fails("lacks the tensor conv_out.bias", TripPipeline.from_pretrained, copy, variant="fp16")


# -------------------------------------------------------------------------------------------- classes of models


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("StableVideoDiffusionPipeline", "reads no text"),
        ("I2VGenXLPipeline", "animates pictures by itself"),
        ("WanImageToVideoPipeline", "animates pictures by itself"),
        ("WanPipeline", "several frames"),
        ("LTXPipeline", "several frames"),
        ("CogVideoXPipeline", "several frames"),
        ("HunyuanVideoPipeline", "several frames"),
        ("StableDiffusionPipeline", "makes stills; train it"),
        ("StableDiffusionXLPipeline", "two text encoders"),
        ("SomebodysPipeline\x1b[31m", r"SomebodysPipeline\\x1b\[31m, which is not known here"),
    ],
)
def test_the_class_of_a_model_is_named_before_anything_is_loaded(
    name: str, advice: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The folder holds nothing but the name of its class."""
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    fails(advice, check_class, tmp_path, ("trip", "per-frame"))
    fails(advice, TripPipeline.from_pretrained, tmp_path)
    fails(advice, TripPipeline.from_text_to_video, tmp_path)
    if name != "StableDiffusionPipeline":
        fails(advice, load_start, TrainingConfig(initial=str(tmp_path)))
    picture = Path(__file__).parents[1] / "examples" / "photos" / "castle.jpg"
    model, output = str(tmp_path), str(tmp_path / "out")
    assert main(["animate", str(picture), "--prompt", "p", "--output", output + ".gif", "--model", model]) == 2
    assert advice.split("; ")[0].replace("\\[", "[").replace("\\\\", "\\") in capsys.readouterr().err


@pytest.mark.parametrize("name", ["text2video_pytorch_model.pth", "model.ckpt", "unet.safetensors", "notes.txt"])
def test_a_single_file_of_weights_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    message = "is a file; name the folder" if name == "notes.txt" else "convert_ms_text2video_to_diffusers"
    for load in (TripPipeline.from_pretrained, TripPipeline.from_text_to_video):
        fails(message, load, tmp_path / name)
    fails(message, load_start, TrainingConfig(initial=str(tmp_path / name)))


# ------------------------------------------------------------------------------------------------- single parts


def test_an_autoencoder_is_loaded_as_what_it_is(tmp_path: Path) -> None:
    tiny = AutoencoderTiny(encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
                           num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))  # fmt: skip
    for vae in (tiny, tiny_models.tiny_vae()):
        vae.save_pretrained(tmp_path / type(vae).__name__)
        loaded = load_autoencoder(tmp_path / type(vae).__name__)
        assert type(loaded) is type(vae) and not loaded.training
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in vae.state_dict().items())
    assert load_autoencoder(tmp_path / "AutoencoderKL", torch_dtype=torch.float16).dtype == torch.float16
    fails("is a AutoencoderTiny; choose one of AutoencoderKL", load_part, tmp_path / "AutoencoderTiny",
          {"AutoencoderKL": AutoencoderKL}, "autoencoder")  # fmt: skip
    fails("choose one of AutoencoderKL, AutoencoderTiny", load_autoencoder, saved_unet(tmp_path))


def saved_unet(tmp_path: Path) -> Path:
    ResidualUNet3D(**tiny_models.unet_config()).save_pretrained(tmp_path / "unet")
    return tmp_path / "unet"


@pytest.mark.parametrize("load", [load_fusion, load_autoencoder, ResidualUNet3D.from_pretrained])
def test_pickles_are_not_read(copy: Path, load) -> None:
    part = {load_fusion: "fusion", load_autoencoder: "vae"}.get(load, "unet")
    tensors = load_file(weights(copy / part))
    weights(copy / part).unlink()
    torch.save(tensors, copy / part / "diffusion_pytorch_model.bin")
    fails("safetensors", load, copy / part)


def test_transformers_are_loaded_without_code_and_pickles(copy: Path) -> None:
    folder = copy / "text_encoder"
    assert load_transformers(CLIPTextModel, folder, part="text encoder").config.hidden_size == tiny_models.TEXT
    tensors = load_file(weights(folder))
    weights(folder).unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    fails("text encoder .* cannot be loaded", load_transformers, CLIPTextModel, folder, part="text encoder")


def test_published_layouts_load_though_their_names_differ(tmp_path: Path) -> None:
    """Older files name the attention of the autoencoder otherwise, and carry the text encoder's positions."""
    folder = tiny_models.saved(tiny_models.text_to_video_pipeline(), tmp_path / "m")
    expected = TripPipeline.from_text_to_video(folder)

    def older_vae(tensors: dict) -> None:
        for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            for name in [name for name in tensors if f"attentions.0.{new}." in name]:
                tensors[name.replace(new, old)] = tensors.pop(name)

    def older_text(tensors: dict) -> None:
        for name in list(tensors):
            tensors[f"text_model.{name}"] = tensors.pop(name)
        tensors["text_model.embeddings.position_ids"] = torch.arange(tiny_models.TOKENS)[None]

    change(folder / "vae", older_vae)
    change(folder / "text_encoder", older_text)
    found = TripPipeline.from_text_to_video(folder)
    for part in ("vae", "text_encoder"):
        state = found.components[part].state_dict()
        assert all(torch.equal(x, state[name]) for name, x in expected.components[part].state_dict().items())


# ------------------------------------------------------------------------------------------------------- saving


def with_lora(network, targets: list[str]):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    network.add_adapter(config)
    return network


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
@pytest.mark.parametrize("fused", [False, True], ids=["attached", "fused"])
def test_adapters_are_not_saved_into_a_useless_folder(saved: Path, tmp_path: Path, part: str, fused: bool) -> None:
    """Refused with the remedy, before a file is written; what the remedy makes reloads to the same output."""
    if part == "text_encoder" and fused:
        pytest.skip("transformers does not fuse")
    pipeline = TripPipeline.from_pretrained(saved)
    with_lora(pipeline.components[part], ["to_q", "q_proj"])
    if fused:
        pipeline.unet.fuse_lora()
    fails(rf"{part} has adapters \(default\).*unload_lora\(\)", pipeline.save_pretrained, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    if part == "unet":
        fails("has adapters", pipeline.unet.save_pretrained, tmp_path / "out")
        call = {"num_inference_steps": 2, "output_type": "latent", "num_frames": 4}
        expected = pipeline(torch.rand(3, 16, 16), "p", generator=torch.Generator().manual_seed(0), **call).frames
        torch.manual_seed(0)
        if not fused:
            pipeline.unet.fuse_lora()
        pipeline.unet.unload_lora()
        pipeline.save_pretrained(tmp_path / "out")
        again = TripPipeline.from_pretrained(tmp_path / "out").unet.state_dict()
        assert all(torch.equal(value, again[name]) for name, value in pipeline.unet.state_dict().items())
        assert expected.isfinite().all()


def test_fused_projections_are_undone_before_saving(saved: Path, tmp_path: Path) -> None:
    pipeline = TripPipeline.from_pretrained(saved)
    pipeline.unet.fuse_qkv_projections()
    fails("to_qkv.*unfuse_qkv_projections", pipeline.save_pretrained, tmp_path / "out")
    pipeline.unet.unfuse_qkv_projections()
    pipeline.save_pretrained(tmp_path / "out")
    assert TripPipeline.from_pretrained(tmp_path / "out").unet is not None
