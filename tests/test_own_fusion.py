"""The fusion of examples/own_fusion.py through training, saving, Python and the command line."""

from pathlib import Path

import pytest
import torch

from trip.apps.cli import main
from trip.noise_fusion import FUSIONS, import_fusions, load_fusion
from trip.pipeline import TripPipeline

FILE = Path(__file__).parents[1] / "examples" / "own_fusion.py"
IMPORT = "from trip.noise_fusion import NoiseFusion, register_fusion\n"
PICTURE = Path(__file__).parents[1] / "examples" / "photos" / "castle.jpg"


def test_a_fusion_of_ones_own_from_training_to_a_clip(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, module = tmp_path / "run", ["--fusion-module", str(FILE)]
    flags = ["--preset", "smoke", "--steps", "2", "--batch-size", "2", "--sigma-clips", "4", "--trackers", "--quiet"]
    flags += ["--validation-every", "0", "--export-dtype", "float32", "--cpu"]
    assert main(["train", *flags, *module, "--fusion-kind", "half-life", "--output-dir", str(run)]) == 0
    pipeline = TripPipeline.from_pretrained(run / "final")
    assert type(pipeline.fusion) is FUSIONS["half-life"] and pipeline.fusion.config["concat"] == "channel"
    assert pipeline.fusion.log_frames.item() != pytest.approx(torch.tensor(4.0).log().item())  # it was trained
    assert torch.equal(load_fusion(run / "final" / "fusion").log_frames, pipeline.fusion.log_frames)
    animate = ["animate", str(PICTURE), "--prompt", "pan", "--model", str(run / "final"), "--steps", "2", "--quiet"]
    assert main([*animate, *module, "--output", str(tmp_path / "clip.gif")]) == 0
    index = run / "final" / "model_index.json"
    index.write_text(index.read_text().replace('"own_fusion"', '"not_imported"'))
    assert main([*animate, "--output", str(tmp_path / "other.gif")]) == 2
    assert "fusion from not_imported.HalfLifeFusion" in (line := capsys.readouterr().err) and "--fusion-module" in line


def test_half_of_the_prior_is_left_after_so_many_frames() -> None:
    import_fusions(FILE)
    fusion = FUSIONS["half-life"](frames=2.0)
    from trip.condition import Condition

    r, own = torch.ones(1, 4, 1, 2, 2), torch.zeros(1, 4, 5, 2, 2)
    z_0 = fusion(own, Condition(reference=r), own, torch.tensor(0.6), torch.tensor(0.8), torch.tensor(5))
    torch.testing.assert_close(z_0[0, 0, :, 0, 0], torch.tensor([1.0, 2**-0.5, 0.5, 2**-1.5, 0.25]))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine.py", "1 / 0", "failed .ZeroDivisionError"),
        ("mine.py", "x = 1", "registers no fusion"),
        ("json.py", "", "has the name of another module"),
        ("mine.txt", "", "is no Python file"),
        (
            "mine.py",
            "from trip.noise_fusion import *\n@register_fusion('tnf')\nclass A(NoiseFusion): pass",
            "is TemporalNoise",
        ),
    ],
)
def test_a_file_that_is_no_fusion_module_is_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        import_fusions(tmp_path / name)
    with pytest.raises(ValueError, match="is no Python file"):
        import_fusions(tmp_path / "missing.py")
