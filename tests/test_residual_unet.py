"""ResidualUNet3D: the numerics of diffusers' UNet3DConditionModel, and what it adds to it."""

import json

import jaxtyping
import pytest
import torch
from diffusers import UNet2DConditionModel, UNet3DConditionModel
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from trip.layers.attention import Attention
from trip.residual_unet import ResidualUNet3D

TINY = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 12,
    "attention_head_dim": 8,
}
EXTRAS = {
    "resnet_time_scale_shift": "scale_shift",
    "frame_embedding": True,
    "pooled_text_embedding": True,
    "transformer_in_heads": 2,
}


def randomize(network: torch.nn.Module, scale: float = 0.05) -> torch.nn.Module:
    """Move every weight, so that zero-initialised layers take part."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=scale)
    return network


def tiny(**config) -> ResidualUNet3D:
    torch.manual_seed(0)
    return randomize(ResidualUNet3D(**TINY | config)).eval()


def clip(b=2, c=4, f=3, h=8, w=8, tokens=5, dim=12):
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(b, c, f, h, w, generator=generator)
    timestep = torch.randint(0, 1000, (b,), generator=generator)
    return sample, timestep, torch.randn(b, tokens, dim, generator=generator)


# --- the same network as diffusers' ---------------------------------------------------------------


@st.composite
def configs(draw):
    levels = draw(st.integers(1, 3))
    attended = draw(st.lists(st.booleans(), min_size=levels, max_size=levels))
    config = {
        "in_channels": draw(st.integers(1, 5)),
        "out_channels": draw(st.integers(1, 5)),
        "block_out_channels": tuple(draw(st.sampled_from((16, 24, 32))) for _ in range(levels)),
        "down_block_types": tuple("CrossAttnDownBlock3D" if a else "DownBlock3D" for a in attended),
        "up_block_types": tuple("CrossAttnUpBlock3D" if a else "UpBlock3D" for a in draw(st.permutations(attended))),
        "layers_per_block": draw(st.integers(1, 2)),
        "downsample_padding": draw(st.integers(0, 1)),
        "mid_block_scale_factor": draw(st.sampled_from((1, 1.5))),
        "act_fn": draw(st.sampled_from(("silu", "gelu", "mish"))),
        "norm_num_groups": draw(st.sampled_from((4, 8))),
        "norm_eps": draw(st.sampled_from((1e-5, 1e-3))),
        "cross_attention_dim": draw(st.sampled_from((6, 12))),
        "attention_head_dim": draw(st.sampled_from((8, 16))),
        "time_cond_proj_dim": draw(st.sampled_from((None, 6))),
    }
    size = {"f": draw(st.integers(1, 5)), "h": draw(st.integers(4, 9)), "w": draw(st.integers(4, 9))}
    return config, size, draw(st.integers(1, 2))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(configs())
def test_parity_with_diffusers(drawn):
    config, size, b = drawn
    torch.manual_seed(0)
    theirs = randomize(UNet3DConditionModel(**config)).eval()
    ours = ResidualUNet3D(**config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    sample, timestep, text = clip(b, config["in_channels"], **size, dim=config["cross_attention_dim"])
    condition = None if config["time_cond_proj_dim"] is None else torch.randn(b, config["time_cond_proj_dim"])
    with torch.no_grad():
        expected = theirs(sample, timestep, text, timestep_cond=condition).sample
        assert_close(ours(sample, timestep, text, condition).sample, expected, atol=1e-4, rtol=0)


def test_gradients_equal_diffusers_and_every_parameter_is_used():
    theirs = randomize(UNet3DConditionModel(**TINY)).eval()
    ours = ResidualUNet3D(**TINY).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for network in (theirs, ours):
        network(*clip()).sample.square().mean().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
        assert_close(parameter.grad, expected[name].grad, atol=1e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_default_config_has_the_names_and_shapes_of_modelscope():
    with torch.device("meta"):
        theirs, ours = UNet3DConditionModel(), ResidualUNet3D()
    assert {n: p.shape for n, p in ours.state_dict().items()} == {n: p.shape for n, p in theirs.state_dict().items()}
    assert round(sum(p.numel() for p in ours.parameters()) / 1e9, 2) == 1.41


def test_a_folder_of_diffusers_loads_and_comes_back(tmp_path):
    theirs = randomize(UNet3DConditionModel(**TINY)).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    assert json.loads((tmp_path / "theirs/config.json").read_text())["_class_name"] == "UNet3DConditionModel"
    ours = ResidualUNet3D.from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    again = ResidualUNet3D.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        expected = theirs(*clip()).sample
        assert_close(ours(*clip()).sample, expected, atol=1e-4, rtol=0)
        assert torch.equal(again(*clip()).sample, ours(*clip()).sample)


@pytest.mark.slow
def test_parity_at_full_size(tmp_path):
    """1.41 B parameters: weights are made once and held by one network at a time."""
    torch.manual_seed(0)
    sample, timestep, text = clip(1, 4, 17, 8, 8, tokens=7, dim=1024)
    network = UNet3DConditionModel().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d) and not module.weight.any():
            torch.nn.init.normal_(module.weight, std=0.01)
    weights = network.state_dict()
    with torch.no_grad():
        expected = network(sample, timestep, text).sample
        del network
        with torch.device("meta"):
            network = ResidualUNet3D().eval()
        network.load_state_dict(weights, strict=True, assign=True)
        assert_close(network(sample, timestep, text).sample, expected, atol=1e-4, rtol=0)


# --- from an image network ------------------------------------------------------------------------

SD15 = {"attention_head_dim": 2, "use_linear_projection": False}
SD21 = {"attention_head_dim": (2, 4), "use_linear_projection": True, "upcast_attention": True}


def image_unet(**config) -> UNet2DConditionModel:
    torch.manual_seed(0)
    shape = TINY | {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return randomize(UNet2DConditionModel(**shape | config)).eval()


@pytest.mark.parametrize("config", [SD15, SD21], ids=["sd1.5", "sd2.1"])
@pytest.mark.parametrize("extras", [{}, {"frame_embedding": True, "pooled_text_embedding": True}])
@torch.no_grad()
def test_an_inflated_network_equals_the_image_network_frame_by_frame(config, extras):
    image = image_unet(**config)
    video = ResidualUNet3D.from_image_unet(image, **extras).eval()
    sample, timestep, text = clip()
    result = video(sample, timestep, text).sample
    for i in range(sample.shape[2]):
        assert_close(result[:, :, i], image(sample[:, :, i], timestep, text).sample, atol=1e-5, rtol=0)


@torch.no_grad()
def test_inflation_may_add_input_channels():
    image = image_unet(**SD21)
    video = ResidualUNet3D.from_image_unet(image, in_channels=8).eval()
    sample, timestep, text = clip()
    result = video(torch.cat([sample, torch.randn_like(sample)], dim=1), timestep, text).sample
    assert_close(result[:, :, 0], image(sample[:, :, 0], timestep, text).sample, atol=1e-5, rtol=0)


# --- what it adds ---------------------------------------------------------------------------------


@torch.no_grad()
def test_new_embeddings_start_at_zero():
    torch.manual_seed(0)
    plain = ResidualUNet3D(**TINY).eval()
    extended = ResidualUNet3D(**TINY, frame_embedding=True, pooled_text_embedding=True).eval()
    extended.load_state_dict(extended.state_dict() | plain.state_dict())
    assert torch.equal(extended(*clip()).sample, plain(*clip()).sample)


@torch.no_grad()
def test_trained_embeddings_tell_frames_and_texts_apart():
    network = tiny(**EXTRAS)
    still = torch.randn(1, 4, 1, 8, 8).expand(-1, -1, 3, -1, -1)
    text = torch.zeros(1, 5, 12)
    a, b, _ = network(still, 500, text).sample.unbind(dim=2)
    assert not torch.allclose(a, b)
    text[0, 0] = torch.randn(12)
    embedding = network.text_embed
    assert_close(embedding(text), embedding(text[:, :1]))  # zero tokens are padding
    assert embedding(torch.zeros(1, 5, 12)).isfinite().all()


@pytest.mark.parametrize("extras", [{}, EXTRAS])
@torch.no_grad()
def test_timestep_may_be_a_number_one_a_clip_or_one_a_frame(extras):
    network = tiny(**extras)
    sample, _, text = clip()
    expected = network(sample, 7, text).sample
    for timestep in (torch.tensor(7), torch.tensor([7]), torch.tensor([7, 7]), torch.full((2, 3), 7)):
        assert_close(network(sample, timestep, text).sample, expected, atol=1e-5, rtol=0)
    mixed = network(sample, torch.tensor([[7, 7, 9], [7, 7, 7]]), text).sample
    assert not torch.allclose(mixed[0], expected[0])
    assert_close(mixed[1], expected[1])


@torch.no_grad()
def test_a_clip_does_not_depend_on_its_batch():
    network = tiny(**EXTRAS)
    sample, timestep, text = clip(b=3)
    together = network(sample, timestep, text).sample
    for i in range(3):
        alone = network(sample[i : i + 1], timestep[i : i + 1], text[i : i + 1]).sample
        assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sample": torch.zeros(2, 4, 4, 8, 8)},
            r"num_frames \(=4\) exceeds the model's 3; shorten the clip",
        ),
        ({"sample": torch.zeros(2, 5, 3, 8, 8)}, "expected b c f h w with c = 4"),
        ({"sample": torch.zeros(2, 4, 8, 8)}, "expected b c f h w"),
        ({"encoder_hidden_states": torch.zeros(1, 5, 12)}, "one text for each of the 2 clips"),
        ({"encoder_hidden_states": torch.zeros(2, 5, 13)}, r"expected \(2, tokens, 12\)"),
        ({"timestep": torch.zeros(3)}, r"timestep has shape \(3,\); pass a number, \(2,\) or \(2, 3\)"),
    ],
)
def test_wrong_input_is_refused(change, message):
    names = ("sample", "timestep", "encoder_hidden_states")
    arguments = dict(zip(names, clip(), strict=True))
    with pytest.raises(ValueError, match=message):
        tiny(max_num_frames=3).check_inputs(*(arguments | change).values())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"down_block_types": ("DownBlock3D",)}, "down_block_types has 1 entries for 2 block_out_channels"),
        ({"up_block_types": ("UpBlock3D", "UpBlock2D")}, r"\['UpBlock2D'\]; choose from"),
        ({"attention_head_dim": (8,)}, "attention_head_dim has 1 entries"),
        ({"norm_num_groups": 5}, r"norm_num_groups \(=5\) does not divide 16"),
        ({"num_attention_heads": 8}, "num_attention_heads must be None"),
        ({"resnet_time_scale_shift": "ada_group"}, "choose 'default' or 'scale_shift'"),
    ],
)
def test_contradictory_settings_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        ResidualUNet3D(**TINY | config)


# --- machinery ------------------------------------------------------------------------------------


def saved_bytes_and_gradients(network: ResidualUNet3D) -> tuple[int, list[torch.Tensor]]:
    total = 0

    def pack(tensor):
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    network.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = network(*clip()).sample.square().mean()
    kept = total
    torch.manual_seed(0)
    loss.backward()
    return kept, [p.grad.clone() for p in network.parameters()]


def test_gradient_checkpointing_saves_memory_and_keeps_the_gradients():
    network = tiny(**EXTRAS).train()
    torch.manual_seed(0)  # the temporal dropout's draws
    kept, expected = saved_bytes_and_gradients(network)
    network.enable_gradient_checkpointing()
    assert network.is_gradient_checkpointing
    torch.manual_seed(0)
    less, gradients = saved_bytes_and_gradients(network)
    assert less < kept / 2
    for a, b in zip(gradients, expected, strict=True):
        assert_close(a, b)
    network.disable_gradient_checkpointing()
    assert not network.is_gradient_checkpointing


def test_attention_backend_of_the_whole_network_switches(monkeypatch):
    network = tiny()
    math = AttentionBackendName._NATIVE_MATH
    kernel, calls = _AttentionBackendRegistry._backends[math], []
    monkeypatch.setitem(_AttentionBackendRegistry._backends, math, lambda *a, **k: calls.append(1) or kernel(*a, **k))
    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", _AttentionBackendRegistry._active_backend)
    with torch.no_grad():
        expected = network(*clip()).sample
        assert not calls
        network.set_attention_backend("_native_math")
        assert_close(network(*clip()).sample, expected, atol=1e-5, rtol=0)
    assert len(calls) == sum(isinstance(module, Attention) for module in network.modules())


@torch.no_grad()
def test_attention_processors_switch_and_projections_fuse():
    network = tiny()
    expected = network(*clip()).sample
    network.fuse_qkv_projections()
    assert_close(network(*clip()).sample, expected, atol=1e-5, rtol=0)
    network.unfuse_qkv_projections()
    network.set_attn_processor(AttnProcessor2_0())
    assert {type(p) for p in network.attn_processors.values()} == {AttnProcessor2_0}
    assert_close(network(*clip()).sample, expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("processor", [AttnProcessor(), SlicedAttnProcessor(1)], ids=lambda p: type(p).__name__)
def test_diffusers_own_attention_processors_compute_the_same(processor):
    network = tiny()
    expected = network(*clip()).sample
    network.set_attn_processor(dict.fromkeys(network.attn_processors, processor))
    assert set(network.attn_processors.values()) == {processor}
    assert_close(network(*clip()).sample, expected, atol=1e-5, rtol=0)
    network.set_default_attn_processor()
    assert torch.equal(network(*clip()).sample, expected)


@torch.no_grad()
def test_freeu_is_diffusers_own():
    theirs, ours = randomize(UNet3DConditionModel(**TINY)).eval(), tiny()
    ours.load_state_dict(theirs.state_dict())
    plain = ours(*clip()).sample
    for network in (theirs, ours):
        network.enable_freeu(s1=0.9, s2=0.2, b1=1.4, b2=1.6)
    assert_close(ours(*clip()).sample, theirs(*clip()).sample, atol=1e-4, rtol=0)
    assert not torch.allclose(ours(*clip()).sample, plain, atol=1e-3)
    ours.disable_freeu()
    assert torch.equal(ours(*clip()).sample, plain)


@pytest.mark.parametrize("padding", [0, 1])
def test_lora_takes_every_layer_and_merges_to_the_same_output(padding):
    """Adapters start as nothing, train alone, and become part of the weights, on all convolutions and linear layers."""
    peft = pytest.importorskip("peft")
    network = tiny(**EXTRAS, downsample_padding=padding)
    expected = network(*clip()).sample.detach()
    network.requires_grad_(False)
    kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)
    targets = [name for name, module in network.named_modules() if isinstance(module, kinds)]
    assert any("downsamplers" in name for name in targets)
    network.add_adapter(peft.LoraConfig(r=2, target_modules=targets))
    assert_close(network(*clip()).sample, expected, atol=1e-5, rtol=0)
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(targets) and all("lora" in name for name in trained)
    for _ in range(2):
        network(*clip()).sample.square().mean().backward()
        torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1).step()
    changed = network(*clip()).sample.detach()
    assert not torch.allclose(changed, expected)
    unmoved = [n for n, p in network.named_parameters() if "lora_B" in n and not p.any()]
    assert not unmoved
    network.disable_adapters()
    assert_close(network(*clip()).sample, expected, atol=1e-5, rtol=0)
    network.enable_adapters()
    network.fuse_lora()
    network.unload_lora()
    assert_close(network(*clip()).sample, changed, atol=1e-3, rtol=1e-3)


def test_adapters_and_fused_projections_exclude_each_other():
    """Fused projections do not see what adapters add to the separate ones."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["to_q"])
    first, second = tiny(), tiny()
    first.add_adapter(config)
    first.fuse_qkv_projections()
    second.fuse_qkv_projections()
    second.add_adapter(config)
    for network in (first, second):
        with pytest.raises(ValueError, match=r"call unfuse_qkv_projections\(\) first"):
            network(*clip())
        network.unfuse_qkv_projections()
        network(*clip())


@torch.no_grad()
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_weights_may_rest_in_float8(compute):
    network = tiny(**EXTRAS).to(compute)
    inputs = [x.to(compute) if x.is_floating_point() else x for x in clip()]
    expected = network(*inputs).sample.float()
    network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=compute)
    assert network.down_blocks[0].downsamplers[0].conv.weight.dtype == torch.float8_e4m3fn
    found = network(*inputs).sample
    assert found.dtype == compute and network.dtype == compute
    assert (found.float() - expected).square().mean() < 0.05 * expected.square().mean()


@pytest.fixture
def fresh_dynamo(monkeypatch):
    """No compiled code left over, none left behind; run-time type checks are not part of the graph."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=torch._dynamo.config.recompile_limit):
        yield
    torch._dynamo.reset()


@torch.no_grad()
def test_the_network_compiles_without_graph_breaks(fresh_dynamo):
    network = tiny(**EXTRAS)
    (expected,) = network(*clip(), return_dict=False)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    assert_close(compiled(*clip(), return_dict=False)[0], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_repeated_blocks_compile_without_graph_breaks(fresh_dynamo):
    torch._dynamo.config.recompile_limit = 2  # fewer than the network's shapes
    network = tiny()
    expected = network(*clip()).sample
    network.compile_repeated_blocks(backend="eager", fullgraph=True)
    assert_close(network(*clip()).sample, expected, atol=1e-5, rtol=0)
