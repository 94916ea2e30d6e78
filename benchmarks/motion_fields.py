"""How well `trip.motion` reads motion off a clip: rendered clips whose field is known at every pixel.

    python -m benchmarks.motion_fields --json fields.json
    python -m benchmarks.motion_fields --json fields-ae.json --autoencoder     as trip-mini's autoencoder shows them

Photographs and objects are those of `benchmarks/heldout`, the moves those of `trip.data.synthetic`: eight of the
camera, eight of objects over a still background. The error is the distance of the estimated field from the true one, in
percent of the clip's width, median over the pixels of all frames but the first; objects and background apart. One pixel
at 64 is 1.6 %.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Bool, Float, Float64, UInt8
from torch import Tensor

from benchmarks.command import command
from benchmarks.motion import heldout_set
from benchmarks.pages import write_json
from trip.data.synthetic import scenes as synthetic
from trip.data.synthetic.captions import CAMERA_KINDS, OBJECT_KINDS
from trip.models import bundled_model_path
from trip.motion.estimation import estimate_motion
from trip.motion.fields import Field, from_matrices

SPEEDS = ("slow", "normal", "fast")
OBJECT_WIDTHS = (0.25, 0.45)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Command line."""

    json: Path
    """File for the results."""
    count: int = 8
    """Clips of every kind of move."""
    size: int = 64
    """Width and height of the clips, pixels."""
    num_frames: int = 16
    """Length of the clips."""
    seed: int = 0
    """Of the clips."""
    autoencoder: bool = False
    """Read the motion off what the bundled model's autoencoder makes of the clips."""
    debug: bool = False
    """Show where an error was raised."""


@dataclass(frozen=True)
class Truth:
    """A rendered clip, where every pixel comes from, and which of them are the moving object's."""

    frames: UInt8[np.ndarray, "f H W 3"]
    field: Field
    mask: Bool[Tensor, "f 1 H W"]


def camera_truth(rng: np.random.Generator, photo: synthetic.Photo, kind: str, speed: str, settings: Settings) -> Truth:
    """A camera move over a photograph."""
    amount = float(rng.uniform(*synthetic.AMOUNTS[speed]))
    views = synthetic.camera_path(kind, amount, settings.size, settings.num_frames, float(rng.choice((0.0, 1.0))))
    place = synthetic._place(rng, photo, views, settings.size)
    frames = synthetic.render_views(photo, views, *place, settings.size)
    maps = [_square(synthetic._view_matrix(view, *place, settings.size)) for view in views]
    field = from_matrices(
        in_widths([np.linalg.inv(maps[0]) @ each for each in maps], settings.size), *frames.shape[1:3]
    )
    return Truth(frames, field, torch.zeros_like(field[:, :1], dtype=torch.bool))


def object_truth(
    rng: np.random.Generator,
    photo: synthetic.Photo,
    cutout: synthetic.Cutout,
    kind: str,
    speed: str,
    settings: Settings,
) -> Truth:
    """An object that moves over a still photograph; its pixels are those that it covers by nine tenths."""
    size, count = settings.size, settings.num_frames
    ground = synthetic._photo_frames(rng, photo, "still", 0.0, size, 1)[0]
    amount, width = synthetic._object_amount(rng, kind, speed), float(rng.uniform(*OBJECT_WIDTHS))
    seed = int(rng.integers(1 << 30))
    (frames, place), (dark, _), (light, _) = (
        synthetic.composite(each, cutout, kind, amount, width, np.random.default_rng(seed), count)
        for each in (ground, np.zeros_like(ground), np.full_like(ground, 255))
    )
    cover = 1 - (light.astype(np.float32) - dark).mean(-1) / 255
    height = synthetic._object_extent(cutout, width * size)[1]
    poses = [_pose(p) for p in synthetic.object_path(kind, amount, (place["x"], place["y"]), height, size, count)]
    field = from_matrices(in_widths([poses[0] @ np.linalg.inv(pose) for pose in poses], size), size, size)
    mask = torch.from_numpy(cover > 0.9)[:, None]
    return Truth(frames, torch.where(mask, field, torch.zeros_like(field)), mask)


def _square(matrix: np.ndarray) -> np.ndarray:
    return np.vstack([matrix, [0, 0, 1]])


def _pose(pose: Any) -> np.ndarray:
    """Place relative to an object's centre -> pixel of the clip."""
    cos, sin = math.cos(pose.turn), math.sin(pose.turn)
    turn, foot = np.array([[cos, -sin], [sin, cos]]), np.array([0.0, pose.pivot])
    return _square(np.column_stack([turn, np.array([pose.x, pose.y]) + foot - turn @ foot]))


def in_widths(maps: list[np.ndarray], size: int) -> Float64[Tensor, "f 3 3"]:
    """Maps between pixels (centres at integers) as maps between places in widths."""
    to_pixels = np.array([[size, 0, -0.5], [0, size, -0.5], [0, 0, 1]])
    return torch.from_numpy(np.stack([np.linalg.inv(to_pixels) @ each @ to_pixels for each in maps]))


def measure(clip: Float[Tensor, "f 3 H W"], truth: Truth) -> dict[str, Any]:
    """Errors of the estimate, percent of the width."""
    found = estimate_motion(clip)
    error = 100 * (found.field - truth.field).norm(dim=1, keepdim=True)[1:]
    mask = truth.mask[1:]
    row: dict[str, Any] = {"kind": found.kind, "rest": float(error[~mask].median()), "worst": float(error.max())}
    if mask.any():
        row["object"] = float(error[mask].median())
    return row


def run(settings: Settings) -> dict[str, Any]:
    """Estimate every clip's motion; a table per kind of move."""
    if settings.count < 1:
        raise ValueError(f"count (={settings.count}) must be at least 1; ask for more clips")
    photos, cutouts = heldout_set()
    vae = AutoencoderKL.from_pretrained(bundled_model_path(), subfolder="vae").eval() if settings.autoencoder else None
    table = {}
    for number, kind in enumerate([*CAMERA_KINDS, *OBJECT_KINDS]):
        rows = []
        for index in range(settings.count):
            rng = np.random.default_rng([settings.seed, number, index])
            photo, speed = photos[(7 * index + number) % len(photos)], SPEEDS[index % len(SPEEDS)]
            if kind in CAMERA_KINDS:
                truth = camera_truth(rng, photo, kind, speed, settings)
            else:
                truth = object_truth(rng, photo, cutouts[(index + number) % len(cutouts)], kind, speed, settings)
            clip = torch.from_numpy(truth.frames).permute(0, 3, 1, 2).float() / 255
            rows.append(measure(clip if vae is None else through(vae, clip), truth))
        table[kind] = summary(rows, "camera" if kind in CAMERA_KINDS else "objects")
        print(f"{kind:26}", *(f"{name} {value:.3g}" for name, value in table[kind].items()), flush=True)
    return {"settings": {k: str(v) for k, v in vars(settings).items() if k not in ("json", "debug")}, "kinds": table}


def through(vae: AutoencoderKL, clip: Float[Tensor, "f 3 H W"]) -> Float[Tensor, "f 3 H W"]:
    """The clip, encoded and decoded frame by frame."""
    with torch.inference_mode():
        latents = vae.encode(2 * clip - 1).latent_dist.mean  # pyright: ignore
        return ((vae.decode(latents).sample + 1) / 2).clamp(0, 1).clone()  # pyright: ignore


def summary(rows: list[dict[str, Any]], right: str) -> dict[str, Any]:
    """Median and worst clip; "right" counts the clips whose kind of motion was recognised."""
    result: dict[str, Any] = {"n": len(rows), "right": sum(row["kind"] == right for row in rows)}
    for name in ("object", "rest"):
        values = [row[name] for row in rows if name in row]
        if values:
            result |= {f"{name}_median": float(np.median(values)), f"{name}_worst": max(values)}
    return result


def main(settings: Settings) -> None:
    """Run and write."""
    cv2.setNumThreads(1)
    write_json(settings.json, run(settings))


if __name__ == "__main__":
    command("benchmarks.motion_fields", Settings, __doc__, main)
