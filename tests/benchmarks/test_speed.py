"""The speed benchmarks: what is compared is the same network, sums are right, and a fall is noticed."""

import json

import pytest
import torch
from benchmarks.command import command
from benchmarks.measuring import (
    OperationTimes,
    alternate,
    count_flops,
    fallen,
    kind_of,
    profile,
    ratio,
    stopwatch,
)
from benchmarks.training import data_wait
from torch.testing import assert_close

from benchmarks import speed

CPU = torch.device("cpu")
TINY = speed.Size(
    config={
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "cross_attention_dim": 12,
        "attention_head_dim": 8,
    },
    clip=(4, 3, 8, 8),
    tokens=5,
    matrix=16,
    channels=4,
)


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("addmm", "products"),
        ("convolution_backward", "products"),
        ("mm_of_something_else", "pointwise and rest"),
        ("_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("native_group_norm_backward", "norms"),
        ("_to_copy", "copies"),
        ("silu", "pointwise and rest"),
    ],
)
def test_operations_have_kinds(operation, kind):
    assert kind_of(operation) == kind


def test_a_profile_sees_forward_and_backward_and_sums_to_one():
    weight = torch.randn(8, 8, requires_grad=True)

    def step():
        (torch.randn(4, 8) @ weight).relu().sum().backward()

    with OperationTimes() as times:
        step()
    assert times.spent["mm"].calls == 2
    shares = profile(step)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["products"] > 0


def test_flops_of_a_product():
    assert count_flops(lambda: torch.ones(2, 3) @ torch.ones(3, 5)) == 2 * 2 * 3 * 5


def test_runs_alternate_after_one_call_each():
    calls = []
    times, first = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b") or 7}, 2, CPU)
    assert "".join(calls) == "ababab"
    assert first == {"a": None, "b": 7}
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}


def test_ratio_is_of_pairs():
    assert ratio([2.0, 30.0, 3.0], [1.0, 10.0, 2.0]) == {"median": 2.0, "low": 1.5, "high": 3.0}


def test_stopwatch_times_calls_and_leaves_no_hooks():
    layer = torch.nn.Linear(2, 2)
    with stopwatch({"layer": layer}, CPU) as times:
        layer(torch.ones(1, 2))
        layer(torch.ones(1, 2))
    assert len(times["layer"]) == 2 and min(times["layer"]) >= 0
    assert not layer._forward_hooks and not layer._forward_pre_hooks


def test_a_fall_by_more_than_a_fifth_is_named():
    before = {"forward": 1.5, "loop": 2.0, "other": 1.0}
    assert fallen({"forward": 1.21, "loop": 1.59}, before) == [
        "loop: 1.59, more than 20% below 2.00",
        "other: not measured, 1.00 in the baseline",
    ]
    assert not fallen(before, before)


@torch.no_grad()
def test_both_networks_hold_the_same_tensors_and_compute_the_same():
    stock = speed.stock_network(TINY, torch.float32, CPU)
    ours = speed.our_network(stock, TINY)
    assert {p.data_ptr() for p in ours.parameters()} == {p.data_ptr() for p in stock.parameters()}
    inputs = speed.draw_inputs(TINY, torch.float32, CPU)
    assert_close(speed.forward(ours, inputs), speed.forward(stock, inputs), atol=1e-4, rtol=0)


def test_the_command_measures_writes_and_checks(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(speed.SIZES, "mini", TINY)
    file, baseline = tmp_path / "speed.json", tmp_path / "before.json"
    baseline.write_text(json.dumps({"tracked": {"forward": 1e6}}))
    flags = ["speed", "--json", str(file), "--repeats", "1", "--steps", "1", "--no-stages", "--check", str(baseline)]
    monkeypatch.setattr("sys.argv", flags)
    with pytest.raises(SystemExit) as stopped:
        command("benchmarks.speed", speed.Settings, speed.__doc__, speed.main)
    assert stopped.value.code == 2
    assert "slower than before.json: forward: " in capsys.readouterr().err
    results = json.loads(file.read_text())
    assert results["tracked"].keys() == {"forward", "loop"}
    assert results["results"]["forward"]["largest_difference"] < 1e-4
    speed.require(results, file)
    assert "times as fast" in speed.table(results)


def test_compiled_layers_are_ours_and_are_not_looked_into(tmp_path, monkeypatch):
    """By dynamo alone, without a compiler behind it; a profile of compiled layers would raise."""
    monkeypatch.setitem(speed.SIZES, "mini", TINY)
    monkeypatch.setattr(
        speed, "compile_layers", lambda unet: unet.compile_repeated_blocks(backend="eager", fullgraph=True)
    )
    found = speed.measure(speed.Settings(json=tmp_path / "s.json", compile=True, repeats=1, loop=False, stages=False))
    assert found["settings"]["compile"] and set(found["results"]["forward"]["profile"]) == {"diffusers"}
    assert found["results"]["forward"]["largest_difference"] < 1e-4


def test_a_check_needs_its_file(tmp_path):
    settings = speed.Settings(json=tmp_path / "a.json", check=tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"there is no .*none\.json to check against; make it with --json first"):
        settings.validate()


def test_data_wait_is_read_from_a_log(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"data_wait": wait}) + "\n" for wait in (0.1, 0.3, 0.2)))
    assert data_wait(log) == 0.2
    log.write_text("{}\n")
    with pytest.raises(ValueError, match=r"log\.jsonl has no steps; pass the log\.jsonl of a run"):
        data_wait(log)
