"""Small autoencoder: sampling of crops, training loop, resumption, folding of the normalisation, export."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from lab.autoencoder.__main__ import main
from lab.autoencoder.config import AutoencoderTraining
from lab.autoencoder.crops import center_crop, read_index, render_pool
from lab.autoencoder.evaluation import pca_reconstruct, psnr
from lab.autoencoder.network import (
    build_autoencoder,
    decode,
    fold_normalization,
    load_widened,
    posterior_mean,
    save_autoencoder,
)
from lab.autoencoder.objective import resample_affine
from lab.autoencoder.trainer import Trainer
from safetensors.torch import load_file


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seventeen smooth random pictures, one of them held out, and an RGBA disc."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = []
    for i in range(17):
        image = cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{i}.png"), image)
        rows.append({"kind": "photo", "file": f"{i}.png", "split": "heldout" if i == 16 else "train"})
    disc = np.full((40, 40, 4), 255, np.uint8)
    disc[..., 3] = 255 * (np.hypot(*(np.mgrid[:40, :40] - 19.5)) < 18)
    cv2.imwrite(str(folder / "disc.png"), disc)
    rows.append({"kind": "object", "file": "disc.png", "split": "train"})
    (folder / "index.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


@pytest.fixture
def config(photos: Path, tmp_path: Path) -> AutoencoderTraining:
    return AutoencoderTraining(
        photos=photos,
        output=tmp_path / "run",
        minutes=None,
        steps=4,
        pool=24,
        block_out_channels=(4, 4, 8, 8),
        latent_channels=4,
        norm_num_groups=2,
        batch_size=4,
        equivariance=0.5,
    )


def random_pool(count: int = 8) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 64, 64, 3), np.uint8)


def test_index_separates_splits_and_objects(photos: Path) -> None:
    index = read_index(photos)
    assert [len(index[name]) for name in ("train", "validation", "heldout", "objects")] == [15, 1, 1, 1]
    assert not set(index["train"]) & set(index["validation"])


def test_index_without_training_images_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no training images"):
        read_index(tmp_path)


def test_unbounded_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="minutes and steps are both None"):
        AutoencoderTraining(photos=tmp_path, output=tmp_path, minutes=None)


def test_pool_depends_on_the_seed_only(photos: Path) -> None:
    files = read_index(photos)["train"]
    first, again, other = (render_pool(files, [], 4, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first.shape == (4, 64, 64, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_center_crop_keeps_the_middle() -> None:
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 200
    assert center_crop(image).min() == 200


def test_resample_identity_and_shift_by_cells() -> None:
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(resample_affine(x, 1.0, (0.3, -0.8), 8), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(resample_affine(x, 1.0, (1.0, -1.0), 6), x[:, :, :6, 2:], atol=1e-5, rtol=0)


def test_folding_normalises_latents_and_keeps_the_reconstruction(config: AutoencoderTraining) -> None:
    torch.manual_seed(0)
    vae = build_autoencoder(config).eval()
    pixels = torch.rand(3, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        latents = posterior_mean(vae, pixels)
        before = vae.decode(latents).sample
        mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        fold_normalization(vae, mean, std)
        folded = posterior_mean(vae, pixels)
        sampled = vae.encode(pixels).latent_dist.sample()
        after = vae.decode(folded).sample
    expected = (latents - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(folded, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sampled, folded, atol=1e-5, rtol=0)


def test_pca_with_all_components_is_exact() -> None:
    x = torch.rand(6, 1, 16, 16) * 2 - 1
    torch.testing.assert_close(pca_reconstruct(x, x, components=16, size=4), x, atol=1e-5, rtol=0)
    assert psnr(pca_reconstruct(x, x, 2, 4), x).mean() < psnr(pca_reconstruct(x, x, 8, 4), x).mean()


def test_psnr_of_a_known_error() -> None:
    x = torch.zeros(1, 3, 4, 4) + 1 / 255
    torch.testing.assert_close(
        psnr(x + 51 * 2 / 255, x), torch.tensor([-20 * np.log10(0.2)]).float(), atol=1e-3, rtol=0
    )


def test_resumed_run_continues_the_same_state(config: AutoencoderTraining, tmp_path: Path) -> None:
    pool = random_pool()
    first = Trainer(replace(config, steps=2), pool)
    first.train()
    first.save(tmp_path / "checkpoint")
    second = Trainer(config, pool)
    second.restore(tmp_path / "checkpoint")
    assert second.step == 2 and second.progress == 0.5
    for name, value in first.vae.state_dict().items():
        torch.testing.assert_close(second.vae.state_dict()[name], value, atol=0, rtol=0)
    second.train()
    assert second.step == 4 and second.progress == 1


def test_fp16_round_trip(config: AutoencoderTraining, tmp_path: Path) -> None:
    vae = Trainer(config, random_pool()).export()
    loaded = save_autoencoder(vae, tmp_path / "vae")
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(posterior_mean(loaded, pixels), posterior_mean(vae, pixels), atol=2e-2, rtol=2e-2)
    stored = load_file(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert loaded.config["scaling_factor"] == 1.0


def test_decoder_training_keeps_the_latents(config: AutoencoderTraining, tmp_path: Path) -> None:
    pool = random_pool()
    before = save_autoencoder(Trainer(config, pool).export(), tmp_path / "vae")
    trainer = Trainer(replace(config, initial=tmp_path / "vae", freeze_encoder=True, steps=2), pool)
    trainer.train()
    after = trainer.export()
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        latents = posterior_mean(before, pixels)
        torch.testing.assert_close(posterior_mean(after, pixels), latents, atol=0, rtol=0)
        assert (decode(after, latents) - decode(before, latents)).abs().max() > 1e-5


def test_widening_keeps_the_old_latent_channels(config: AutoencoderTraining) -> None:
    source, wide = build_autoencoder(config), build_autoencoder(replace(config, latent_channels=6))
    load_widened(wide, source)
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        old, new = posterior_mean(source.eval(), pixels), posterior_mean(wide.eval(), pixels)
    assert new.shape[1] == 6
    torch.testing.assert_close(new[:, :4], old, atol=1e-5, rtol=1e-5)


def test_command_writes_weights_results_and_picture(config: AutoencoderTraining) -> None:
    results = main(config)
    assert results["steps"] == 4 and results["heldout"]["images"] == 1
    assert {"psnr", "psnr_pca", "encoder_gflop"} <= results["heldout"].keys()
    names = {path.name for path in config.output.iterdir()}
    assert {"vae", "results.json", "training.json", "comparison.png", "checkpoint", "pool.npy"} <= names
    assert main(config)["steps"] == 4
