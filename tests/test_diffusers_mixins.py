"""diffusers' own shared tests, out of a checkout of its repository, pass on our networks and pipeline."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CLOSED_FORM = ("TestOptimal", "TestLinear", "TestTrainingFree")
DELIBERATE = {
    *(
        f"{kind}::test_from_save_pretrained_variant"
        for kind in ("TestUNet", "TestTemporal", "TestScratch", *CLOSED_FORM)
    ),
    *(f"{kind}::test_sharded_checkpoints_with_parallel_loading" for kind in CLOSED_FORM),
    *(f"{kind}Memory::test_disk_offload_without_safetensors" for kind in ("TestUNet", "TestTemporal", "TestScratch")),
}
"""Named in docs/decisions.md: the name of a pickle is expected in an error; pickles; one tensor cannot be sharded."""


PIPELINES = {
    *(f"{kind}::test_save_load_optional_components" for kind in ("TestTemporal", *CLOSED_FORM)),
    "TestLora::test_low_cpu_mem_usage_with_loading",
    "TestLora::test_simple_inference_with_text_lora_save_load",
    "TestLora::test_simple_inference_with_text_denoiser_lora_save_load",
    "TestLora::test_simple_inference_save_pretrained_with_text_lora",
}
"""The same: a prompt needs a text encoder; pickles of LoRA; a folder of weights holds no adapters."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "deliberate"), [("diffusers_mixins.py", DELIBERATE), ("diffusers_pipeline_mixins.py", PIPELINES)]
)
@pytest.mark.skipif("DIFFUSERS_TESTS" not in os.environ, reason="DIFFUSERS_TESTS names no checkout of diffusers")
def test_no_failures_but_the_deliberate_ones(file: str, deliberate: set[str]) -> None:
    here, checkout = Path(__file__).parent, os.environ["DIFFUSERS_TESTS"]
    path = os.pathsep.join([checkout, str(here.parent / "src"), str(here)])
    flags = ["--noconftest", "-c", os.devnull, "-p", "no:cacheprovider", "-W", "ignore", "-q", "--tb=line", "-rfE"]
    made = subprocess.run(
        [sys.executable, "-m", "pytest", *flags, "--rootdir", str(here), str(here / file)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    failed = {name.split("[")[0] for name in re.findall(r"^(?:FAILED|ERROR) \S*?::(\S+)", made.stdout, re.M)}
    assert failed <= deliberate, made.stdout[-4000:]
    assert int((re.findall(r"(\d+) passed", made.stdout) or ["0"])[0]) > 80, made.stdout[-4000:] + made.stderr[-2000:]
