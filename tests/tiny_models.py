"""Tiny random pipelines in diffusers layout: foreign starts of training, and models of the command line's tests."""

import string
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionPipeline,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from trip.noise_fusion import OptimalNoiseFusion
from trip.pipeline import TripPipeline
from trip.residual_unet import ResidualUNet3D

TEXT, TOKENS, FRAMES, SIZE = 16, 32, 4, 16


def tiny_vae() -> AutoencoderKL:
    """Halves once, four channels."""
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.5,
    )


def tiny_text() -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Every letter is a token; at most 32."""
    letters = [*string.ascii_lowercase, *(c + "</w>" for c in string.ascii_lowercase)]
    vocab = {piece: i for i, piece in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[], model_max_length=TOKENS)
    config = CLIPTextConfig(
        vocab_size=54, hidden_size=TEXT, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=TOKENS, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return tokenizer, CLIPTextModel(config)


def unet_config() -> dict:
    """Of a 3-D network on the latents of `tiny_vae`."""
    return {
        "sample_size": SIZE // 2,
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": TEXT,
        "attention_head_dim": 4,
    }


def image_unet_config() -> dict:
    """Of a 2-D network with the names of SD 2.1: heads are counted, and projections are linear."""
    blocks = {k: tuple(b.replace("3D", "2D") for b in v) for k, v in unet_config().items() if k.endswith("types")}
    heads = {"attention_head_dim": (2, 4), "use_linear_projection": True, "upcast_attention": True}
    return unet_config() | blocks | heads


def scheduler(**settings) -> DDIMScheduler:
    """Stable Diffusion's betas."""
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDIMScheduler(**betas, clip_sample=False, steps_offset=1, **settings)


@torch.no_grad()
def randomize(module: nn.Module) -> nn.Module:
    """Fill weights of zero, so that every layer takes part."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return module


def trip_pipeline() -> TripPipeline:
    """4 frames of 16x16."""
    torch.manual_seed(0)
    tokenizer, text_encoder = tiny_text()
    return TripPipeline(
        vae=tiny_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=ResidualUNet3D(**unet_config()),
        fusion=OptimalNoiseFusion(sigma=[0.0, 0.3, 0.5, 0.6]),
        scheduler=scheduler(),
    )


def text_to_video_pipeline() -> TextToVideoSDPipeline:
    """In the layout of ModelScopeT2V."""
    torch.manual_seed(0)
    tokenizer, text_encoder = tiny_text()
    unet = randomize(UNet3DConditionModel(**unet_config()))
    return TextToVideoSDPipeline(
        vae=tiny_vae(), text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler()
    )


def stable_diffusion_pipeline() -> StableDiffusionPipeline:
    """In the layout of Stable Diffusion 2.1, which predicts v."""
    torch.manual_seed(0)
    tokenizer, text_encoder = tiny_text()
    return StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=randomize(UNet2DConditionModel(**image_unet_config())),
        scheduler=scheduler(prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def saved(pipeline: DiffusionPipeline, folder: Path) -> Path:
    """The folder of the saved pipeline."""
    pipeline.save_pretrained(folder)
    return folder
