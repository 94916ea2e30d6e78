"""What a clip costs: the counts behind docs/memory.md, and the pages against their JSON."""

import json
from pathlib import Path

import pytest
import torch
from benchmarks.memory import GIB, RESERVED, float8_bytes, largest_layer, stages, tables, time_cell, weight_bytes
from benchmarks.meta_step import measure_inference
from benchmarks.pages import with_tables
from benchmarks.precision import Settings, measure
from benchmarks.precision import table as precision_table
from torch import nn

from tiny_models import unet_config
from trip.placement import OFFLOADS, store_in_float8
from trip.residual_unet import ResidualUNet3D

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def full() -> dict:
    return json.loads((ROOT / "docs/results/memory.json").read_text())["full"]


def forward_bytes(num_frames: int, side: int = 16) -> int:
    with torch.device("meta"):
        network = ResidualUNet3D(**unet_config()).eval()
        sample, text = torch.empty(1, 4, num_frames, side, side), torch.empty(1, 7, 16)
    return measure_inference(network, lambda: network(sample, 1, text))[1]


def test_a_forward_holds_memory_linear_in_frames_and_in_pixels() -> None:
    assert forward_bytes(64) == pytest.approx(4 * forward_bytes(16), rel=0.02)
    assert forward_bytes(16, side=64) == pytest.approx(16 * forward_bytes(16), rel=0.02)


def test_float8_weights_take_what_is_counted() -> None:
    network = ResidualUNet3D(**unet_config())
    counted = float8_bytes(network)
    assert counted < weight_bytes(network) / 2
    store_in_float8(network)
    assert counted == weight_bytes(network)


def test_the_largest_layer_is_not_a_sum_over_layers() -> None:
    layers = nn.Sequential(nn.Linear(3, 5), nn.Sequential(nn.Linear(5, 7, bias=False)))
    assert largest_layer(layers) == 4 * 35


def test_the_full_size_network_fits_8_gb(full: dict) -> None:
    for offload in OFFLOADS:
        for size, chunk in ((256, 16), (512, 4)):
            held = stages(full, offload, False, 16, size, chunk)
            assert max(held.values()) + RESERVED < 8e9, (offload, size, held)
    assert max(stages(full, "group", False, 16, 256, 4).values()) < 1 * GIB


def test_each_way_of_offloading_holds_less(full: dict) -> None:
    most = [max(stages(full, offload, False, 16, 256, 4).values()) for offload in OFFLOADS]
    assert most == sorted(most, reverse=True) and len(set(most)) == len(OFFLOADS)
    smaller = max(stages(full, "model", True, 16, 256, 4).values())
    saved = full["weights"]["unet"] - full["weights"]["unet_float8"] - full["largest_layers"]["unet"]
    assert most[1] - smaller == saved


def test_a_cell_of_the_cpu_table() -> None:
    row = time_cell(2, 16, repeats=1)
    assert row["forward"] > 0 and row["decode"] > 0 and row["forward_bytes"] >= 0


@pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="this CPU computes bfloat16 a hundred times slower than float32"
)
@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
def test_precision_rows_are_against_float32(tmp_path: Path) -> None:
    rows = measure(Settings(json=tmp_path / "r.json", preset="draft", count=2, batch_size=2))
    assert len(rows) == 4 and "psnr" not in rows["float32"]
    psnr = {name: row["psnr"]["value"] for name, row in rows.items() if name != "float32"}
    assert psnr["bfloat16"] > psnr["bfloat16, its weights at rest in float8"] > 20
    with pytest.raises(ValueError, match="preset \\(='best'\\) is unknown; choose one of quality"):
        Settings(json=tmp_path / "r.json", preset="best")


def test_the_pages_show_the_json() -> None:
    results = json.loads((ROOT / "docs/results/memory.json").read_text())
    pages = "".join((ROOT / path).read_text() for path in ("docs/memory.md", "docs/results/memory.md"))
    precision = json.loads((ROOT / "docs/results/precision.json").read_text())["rows"]
    made = tables(results) | {"precision": precision_table(precision)}
    assert pages.count("<!-- table: ") == len(made)
    assert with_tables(pages, made) == pages
