"""The mean of several runs' networks, `python -m lab.average RUN/final RUN/final --output DIR`.

Runs that went on from one another lie in one basin, and the mean of their weights often does what each does best
(Wortsman et al. 2022). Everything else, the tables of the fusion among it, is the last folder's.
"""

from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor, nn

from trip.pipeline import TripPipeline
from trip.training.export import nameless, share, standalone

PARTS = ("unet", "fusion")


def average(folders: Annotated[tuple[Path, ...], tyro.conf.Positional], output: Path, dtype: str = "float16") -> None:
    """Write a pipeline whose UNet and fusion are the mean of those of `folders`.

    Args:
        folders: two or more pipelines of one architecture. output: folder to write; must not exist.
        dtype: of the weights.

    Raises:
        ValueError: fewer than two folders, networks that do not fit each other, or an output that is there.
    """
    if len(folders) < 2:
        raise ValueError(f"{len(folders)} folder has no mean; give two or more")
    if output.exists():
        raise ValueError(f"output (={output}) is there already; choose another folder")
    pipelines = [TripPipeline.from_pretrained(folder, dtype=torch.float32) for folder in folders]
    parts = {name: nameless(getattr(pipelines[-1], name)) for name in PARTS}
    for name, network in parts.items():
        network.load_state_dict(mean_state([getattr(pipeline, name) for pipeline in pipelines]))
    made = standalone(pipelines[-1], **parts, guidance_scale=pipelines[-1].config["default_guidance_scale"])
    made.to(getattr(torch, dtype)).save_pretrained(output)
    share(output)


def mean_state(networks: list[nn.Module]) -> dict[str, Tensor]:
    """The mean of every tensor.

    Raises:
        ValueError: other names or shapes.
    """
    states = [network.state_dict() for network in networks]
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    if any(found != shapes[0] for found in shapes):
        raise ValueError("the networks differ in names or shapes of weights; average runs of one architecture")
    return {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}


if __name__ == "__main__":
    tyro.cli(average)
