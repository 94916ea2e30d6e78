"""Codecs: pixels and latents of every autoencoder through one interface."""

import diffusers
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from trip import bundled_model_path
from trip.codec import AutoencoderCodec, ImageCodec, codec_of, register_codec

SCALE, SHIFT = 0.5, 0.25


def image_vae():
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        scaling_factor=SCALE,
        shift_factor=SHIFT,
        sample_size=16,
    ).eval()


def tiny():
    torch.manual_seed(0)
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
    ).eval()


def wan():
    torch.manual_seed(0)
    return diffusers.AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()


def ltx(**more):
    torch.manual_seed(0)
    return diffusers.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        patch_size=1,
        patch_size_t=1,
        **more,
    ).eval()


def cogvideox():
    torch.manual_seed(0)
    return diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    ).eval()


def hunyuan():
    torch.manual_seed(0)
    return diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(8,) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
    ).eval()


CAUSAL = {"wan": (wan, 8, 4), "ltx": (ltx, 4, 4), "cogvideox": (cogvideox, 8, 4), "hunyuan": (hunyuan, 8, 4)}


def clip(f, size=16, b=2, seed=1):
    return torch.rand(b, 3, f, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("make", [image_vae, tiny])
@torch.no_grad()
def test_an_image_codec_is_the_autoencoder_frame_by_frame(make):
    vae, pixels = make(), clip(3)
    codec = codec_of(vae)
    assert (codec.spatial_factor, codec.temporal_factor, codec.channels, codec.latent_frames(5)) == (2, 1, 4, 5)
    latents = codec.encode(pixels)
    for b in range(2):
        for f in range(3):
            encoded = vae.encode(pixels[b : b + 1, :, f])
            own = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latents
            expected = (own - SHIFT) * SCALE if make is image_vae else own
            assert_close(latents[b : b + 1, :, f], expected, atol=1e-5, rtol=0)
            assert_close(codec.decode(latents)[b : b + 1, :, f], vae.decode(own).sample, atol=1e-5, rtol=0)
    assert_close(codec.decode(latents, chunk=1), codec.decode(latents), atol=1e-5, rtol=0)
    assert torch.equal(codec.encode_still(pixels[:, :, :1], 16), codec.encode(pixels[:, :, :1]))


@pytest.mark.parametrize("name", CAUSAL)
@torch.no_grad()
def test_a_causal_codec_has_its_own_first_frame_and_whole_clips(name):
    make, spatial, temporal = CAUSAL[name]
    codec = codec_of(make())
    size = 4 * spatial
    assert (codec.spatial_factor, codec.temporal_factor) == (spatial, temporal)
    assert [codec.latent_frames(n) for n in (1, 5, 9, 13)] == [1, 2, 3, 4]
    pixels = clip(9, size)
    latents = codec.encode(pixels)
    assert latents.shape == (2, codec.channels, 3, 4, 4) and latents.dtype == torch.float32
    assert_close(latents[1:], codec.encode(pixels[1:]), atol=1e-5, rtol=0)
    frames = codec.decode(latents)
    assert frames.shape == (2, 3, 9, size, size)
    still = codec.encode_still(pixels[:, :, :1], 9)
    assert still.shape == latents.shape
    assert_close(still, codec.encode(pixels[:, :, :1].repeat(1, 1, 9, 1, 1)), atol=0, rtol=0)
    assert_close(still[:, :, :1], codec.encode(pixels[:, :, :1]), atol=1e-5, rtol=0)  # one frame is the clip's first


@torch.no_grad()
def test_latents_are_normalised_per_channel():
    vae = wan()
    codec, pixels = codec_of(vae), clip(5, 32, b=1)
    own = vae.encode(pixels).latent_dist.mean
    mean, std = (torch.tensor(vae.config[name])[None, :, None, None, None] for name in ("latents_mean", "latents_std"))
    assert_close(codec.encode(pixels), (own - mean) / std, atol=1e-5, rtol=0)
    assert_close(codec.denormalize(codec.normalize(own)), own, atol=1e-6, rtol=1e-6)
    plain = ltx()
    plain.latents_mean += 2.0
    plain.latents_std *= 4.0
    own = plain.encode(clip(5, 16, b=1)).latent_dist.mean
    assert_close(codec_of(plain).encode(clip(5, 16, b=1)), (own - 2) / 4, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_a_decoder_that_wants_a_time_gets_zero():
    codec = codec_of(ltx(timestep_conditioning=True))
    assert codec.decode(torch.zeros(2, 8, 2, 4, 4)).shape == (2, 3, 5, 16, 16)


@pytest.mark.parametrize("frames", [0, 2, 4, 16])
def test_clips_that_a_causal_codec_cannot_have_are_refused(frames):
    with pytest.raises(ValueError, match=r"must be 1 plus a multiple of 4 for this autoencoder; use \d+"):
        codec_of(wan()).latent_frames(frames)
    with pytest.raises(ValueError, match=r"size \(=12x16\) must be a multiple of the autoencoder's 8"):
        codec_of(wan()).encode(torch.zeros(1, 3, 1, 16, 12))


@torch.no_grad()
def test_channels_last_weights_get_channels_last_images_and_the_layout_changes_no_values():
    vae, pixels = image_vae(), clip(2)
    plain = ImageCodec(vae).encode(pixels)
    nn.Module.to(vae, memory_format=torch.channels_last)
    assert_close(ImageCodec(vae).encode(pixels), plain, atol=1e-5, rtol=0)


def test_a_new_codec_is_one_class_and_one_registration():
    class Doubling(nn.Module):
        config = {"latent_channels": 3, "spatial_compression_ratio": 1}

    with pytest.raises(ValueError, match="Doubling has no codec"):
        codec_of(Doubling())

    @register_codec
    class DoublingCodec(AutoencoderCodec):
        kinds, temporal_factor = ("Doubling",), 1

        def latent_frames(self, num_frames):
            return num_frames

        def encode(self, pixels):
            return 2 * pixels

        def decode(self, latents, chunk=None):
            return latents / 2

        def encode_still(self, pixels, num_frames):
            return self.encode(pixels)

    codec = codec_of(Doubling())
    assert codec.spatial_factor == 1 and torch.equal(codec.decode(codec.encode(clip(1))), clip(1))


def test_the_bundled_autoencoder_has_factor_8_and_24_channels():
    codec = codec_of(diffusers.AutoencoderKL.from_pretrained(bundled_model_path() / "vae"))
    assert (codec.spatial_factor, codec.channels) == (8, 24)
