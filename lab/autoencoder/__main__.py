"""Train an autoencoder, export it, evaluate it: `python -m lab.autoencoder`."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import tyro
from diffusers import AutoencoderKL

from lab.autoencoder.config import AutoencoderTraining
from lab.autoencoder.crops import center_crop, read_index, read_rgb, read_rgba, render_pool
from lab.autoencoder.evaluation import comparison, encode_seconds, evaluate
from lab.autoencoder.network import save_autoencoder
from lab.autoencoder.trainer import Trainer


def prepare_pool(config: AutoencoderTraining, index: dict[str, list[Path]]) -> np.ndarray:
    """The pool of crops, rendered once and kept in `output/pool.npy`."""
    path = config.output / "pool.npy"
    if path.is_file():
        pool = np.load(path)
        if len(pool) == config.pool:
            return pool
    objects = [read_rgba(file) for file in index["objects"]]
    pool = render_pool(index["train"], objects, config.pool, np.random.default_rng(config.seed))
    config.output.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npy")
    np.save(partial, pool)
    os.replace(partial, path)
    return pool


def finish(trainer: Trainer, splits: dict[str, np.ndarray]) -> dict[str, Any]:
    """Export to `output/vae` in fp16 and evaluate what was read back on every split."""
    output = trainer.config.output
    exported = trainer.export()
    vae = save_autoencoder(exported, output / "vae")
    results: dict[str, Any] = {
        name: evaluate(vae, trainer.pool, images) for name, images in splits.items() if len(images)
    }
    results |= {
        "steps": trainer.step,
        "frames": trainer.step * trainer.config.batch_size,
        "minutes": trainer.seconds / 60,
        "bytes": (output / "vae" / "diffusion_pytorch_model.safetensors").stat().st_size,
        "encode_ms_per_frame": 1e3 * encode_seconds(vae),
        "threads": trainer.config.threads,
        "history": trainer.history,
    }
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(trainer.config).items()}
    (output / "training.json").write_text(json.dumps(settings, indent=1) + "\n")
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def main(config: AutoencoderTraining) -> dict[str, Any]:
    """Train (or resume `output/checkpoint`), export, evaluate; returns the content of `results.json`."""
    torch.set_num_threads(1)  # shards of the batch run in parallel instead: one meeting of the threads a step
    index = read_index(config.photos)
    trainer = Trainer(config, prepare_pool(config, index))
    checkpoint = config.output / "checkpoint"
    if checkpoint.is_dir():
        trainer.restore(checkpoint)
    splits = {
        name: np.stack([center_crop(read_rgb(path)) for path in index[name]])
        for name in ("validation", "heldout")
        if index[name]
    }

    def on_checkpoint(trainer: Trainer) -> None:
        trainer.save(checkpoint)
        results = finish(trainer, {name: splits[name] for name in splits if name == "validation"})
        print(json.dumps({"minutes": trainer.seconds / 60, "validation": results.get("validation")}), flush=True)

    trainer.train(on_checkpoint)
    trainer.save(checkpoint)
    results = finish(trainer, splits)
    shown = splits.get("heldout", splits.get("validation"))
    if shown is not None:
        picture = comparison(AutoencoderKL.from_pretrained(config.output / "vae").float(), shown)
        cv2.imwrite(str(config.output / "comparison.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    print(json.dumps({k: v for k, v in results.items() if k != "history"}, indent=1))
    return results


if __name__ == "__main__":
    main(tyro.cli(AutoencoderTraining, prog="python -m lab.autoencoder"))
