"""TripPipeline: check -> encode -> sample -> decode, with diffusers' conventions.

    >>> pipe = TripPipeline.from_pretrained("folder or hub id", dtype=torch.bfloat16)
    >>> frames = pipe(image, "the camera pans left", generator=torch.Generator().manual_seed(0)).frames[0]

**Saving and loading.** `model_index.json` names the parts that diffusers does not know by module
(`["trip.residual_unet", "ResidualUNet3D"]`). diffusers resolves such names among the modules that are already
imported, and importing this one imports them, so `TripPipeline.from_pretrained` needs no `trust_remote_code`.
Settings that are of no part alone stand in the network's config too, as `_pipeline`, so that parts make the same model
again: `TripPipeline(**pipe.components)`.

**Seeds.** Noise is drawn clip by clip, in float32, on the generator's device. With a list, clip k uses its own
generator: the same seed gives the same clip whatever the batch around it. With one generator for several clips,
their starting noise is drawn from it one clip after another, so the first clip is the one it gives alone;
schedulers that add noise at every step would share it, so give a list there. Clip k of prompt i is number
``i * num_videos_per_prompt + k``.

**Threads.** A call works on a scheduler and a state of its own (`trip.calls`), so threads may share a pipeline.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, no_type_check

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DiffusionPipeline,
    UNetMotionModel,
    pipelines,
)
from diffusers.pipelines.pipeline_loading_utils import _fetch_class_library_tuple
from diffusers.utils import BaseOutput, logging
from diffusers.video_processor import VideoProcessor
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trip import calls, sampler
from trip.codec import codec_of
from trip.condition import Condition, first_frame
from trip.controls import Controls, first_picture
from trip.denoiser import TripDenoiser
from trip.discovery import give_name
from trip.foreign import PerFrameText
from trip.guidance import ALWAYS, Guidance, Interval
from trip.inputs import (
    Batch,
    ImageInput,
    interval_of,
    one_per_clip,
    own_schedule,
    real,
    require_finite,
    scale_of_frames,
    scale_of_lora,
    shown,
    size_of,
    to_pixels,
    whole,
)
from trip.motion.camera import CameraPath
from trip.motion.drags import Drag
from trip.noise_fusion import NoiseFusion
from trip.noise_prior import Clip
from trip.pipeline_parts.checks import Checks
from trip.pipeline_parts.encoding import Encoding
from trip.pipeline_parts.running import Running
from trip.pipeline_parts.starts import Starts, settings_of
from trip.schedule import for_latents, rehearse, warn_of_another_process
from trip.switches import Switches
from trip.text import is_sentence_encoder, load_sentence_encoder

logger = logging.get_logger(__name__)

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
MOST_STEPS = 10_000


@dataclass
class TripPipelineOutput(BaseOutput):
    """What `TripPipeline` returns.

    Attributes:
        frames: by `output_type` a list of lists of PIL images ("pil"), (b, f, H, W, 3) in [0, 1] ("np"),
            (b, f, 3, H, W) in [0, 1] ("pt"), or latents b c f h w ("latent").
    """

    frames: Any


class TripPipeline(Starts, Checks, Encoding, Running, Switches, DiffusionPipeline):
    """Image-to-video generation with the image noise prior (TRIP) and any fusion of `trip.noise_fusion`.

    Any part may be None in a pipeline that does not need it, for example to encode prompts only.

    Args:
        vae: `AutoencoderKL` or `AutoencoderTiny`.
        text_encoder: any transformers encoder with `last_hidden_state`; None if prompts come as embeddings.
        tokenizer: its tokenizer, or None.
        unet: the residual network: `ResidualUNet3D`, `UNetMotionModel`, or any that `TripDenoiser` takes.
        fusion: says how the prior is fused, and what the network's output means.
        scheduler: any scheduler that `trip.schedule` reads. One that clips z_0 to the range of pixels
            (`clip_sample=True`) is replaced by its copy that does not, since latents leave that range.
        zero_text_padding: mask the padding of prompts and zero its features; Stable Diffusion reads it.
        max_text_length: tokens a prompt is padded to; None for the tokenizer's limit.
        packaged_text_encoder: take text encoder and tokenizer out of the installed package that carries
            all-MiniLM-L6-v2 (`trip.text`) when none are given; they are then not saved with the pipeline.
        default_guidance_scale: text guidance where a call gives none.

    The last four are, where they are None, what the network's config says, or else off, and 7.5.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _exclude_from_cpu_offload = ["fusion"]
    _optional_components = ["text_encoder", "tokenizer"]
    _callback_tensor_inputs = ["latents", "denoised_latents", "prompt_embeds", "negative_prompt_embeds"]

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny | None,
        unet: nn.Module | None,
        fusion: NoiseFusion | None,
        scheduler: Any,
        text_encoder: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        zero_text_padding: bool | None = None,
        max_text_length: int | None = None,
        packaged_text_encoder: bool | None = None,
        default_guidance_scale: float | None = None,
    ):
        super().__init__()
        said = {
            "zero_text_padding": zero_text_padding,
            "max_text_length": max_text_length,
            "packaged_text_encoder": packaged_text_encoder,
            "default_guidance_scale": default_guidance_scale,
        }
        settings = settings_of(unet, said)
        packaged = settings["packaged_text_encoder"] and (text_encoder is None or is_sentence_encoder(text_encoder))
        self.register_modules(
            vae=vae,
            text_encoder=None if packaged else text_encoder,
            tokenizer=None if packaged else tokenizer,
            unet=unet,
            fusion=fusion,
            scheduler=scheduler,
        )
        self.register_to_config(**settings)
        if packaged:  # set after registering None: left out of what is saved
            given = tokenizer is not None and text_encoder is not None
            self.tokenizer, self.text_encoder = (tokenizer, text_encoder) if given else load_sentence_encoder()
        self.video_processor = VideoProcessor(vae_scale_factor=self.vae_scale_factor, do_resize=False)

    @property
    def scheduler(self) -> Any:
        """The scheduler; in a callback, the running call's own copy of it."""
        return calls.of_thread(self).scheduler or self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        before = vars(self).get("_scheduler")
        if scheduler is not None:
            scheduler = for_latents(scheduler)
        if scheduler is not None and before is not None:
            warn_of_another_process(scheduler, before)
            self.register_to_config(scheduler=_fetch_class_library_tuple(scheduler))
        self._scheduler = scheduler

    @property
    def denoiser(self) -> TripDenoiser:
        """The two saved parts composed (`trip.denoiser`); it holds no weights of its own."""
        unet = getattr(self.unet, "_orig_mod", self.unet)
        return TripDenoiser(PerFrameText(self.unet) if isinstance(unet, UNetMotionModel) else self.unet, self.fusion)

    @no_type_check  # arguments of every type are answered by the checks
    @torch.no_grad()
    def __call__(
        self,
        image: ImageInput | None = None,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | Sequence[float] | Tensor | None = None,
        image_guidance_scale: float = 1.0,
        guidance_rescale: float = 0.0,
        motion_strength: float = 1.0,
        num_videos_per_prompt: int = 1,
        generator: sampler.Generator = None,
        latents: Clip | None = None,
        reference_latents: Clip | None = None,
        prompt_embeds: Float[Tensor, "b n d"] | None = None,
        negative_prompt_embeds: Float[Tensor, "b n d"] | None = None,
        eta: float = 0.0,
        exact_first_frame: bool = True,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        decode_chunk_size: int | None = None,
        guidance_interval: Interval = ALWAYS,
        guidance_every: int = 1,
        timesteps: Sequence[int] | None = None,
        sigmas: Sequence[float] | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        clip_skip: int | None = None,
        last_image: ImageInput | None = None,
        keyframes: Mapping[int, ImageInput] | None = None,
        video: ImageInput | None = None,
        loop: bool = False,
        mask: Any = None,
        camera: CameraPath | str | None = None,
        drags: Sequence[Drag | str] | str | None = None,
    ) -> TripPipelineOutput | tuple[Any]:
        """Animate stills.

        Args:
            image: PIL images of any mode, tensors (3, H, W) or (b, 3, H, W), arrays (H, W, 3) or (b, H, W, 3), or a
                list; one for all prompts or one each. Floats are in [0, 1], or all of them in [-1, 1].
            prompt: what happens; one for all images or one each. None with `prompt_embeds`.
            negative_prompt: what guidance leads away from; None is the empty text.
            num_frames: by default the model's longest clip, or 16. Longer ones are made in chunks that go on from
                each other.
            height, width: of the clip in pixels, multiples of the VAE's factor; images are resized to cover
                it and cut centrally. By default the model's own, or the image's if the model records none.
            num_inference_steps: of the scheduler.
            guidance_scale: text guidance; a sequence gives every frame its own. 1 is off, and twice as fast.
                None is the model's own default.
            image_guidance_scale: how strongly the network's own view of the image counts; 1 is off.
            guidance_rescale: 0 to 1, keeps the contrast under strong guidance (see `trip.guidance`).
            motion_strength: 0 the still, 1 as trained; more exaggerates.
            num_videos_per_prompt: clips of every image and prompt.
            generator: one, or a list with one a clip; see the module.
            latents: starting noise b c f h w, in place of the generator's.
            reference_latents: clean latents b c (1|f) h w for the prior, in place of the image's: keyframes,
                a warped or a last observed frame.
            prompt_embeds, negative_prompt_embeds: text features in place of prompts.
            eta: noise level of DDIM, 0 to 1.
            exact_first_frame: the first frame is the VAE's reconstruction of the reference's, exactly.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: False returns the tuple `(frames,)`.
            callback_on_step_end: ``callback(pipe, step, timestep, tensors)``, or a callback object of diffusers; may
                return any of its tensors anew: features and `pipe._guidance_scale` act from the next step on, and with
                new `denoised_latents`, the estimate of z_0, the step is made again.
            callback_on_step_end_tensor_inputs: the tensors it receives, of `_callback_tensor_inputs`.
            decode_chunk_size: frames decoded at once, by default those of one clip.
            guidance_interval: (low, high) of the schedule, 1 noise, 0 the clip, in which guidance acts; a step outside
                it costs half.
            guidance_every: in it, evaluate the network without the prompt in every n-th step only, and keep what it
                changed in between (see `trip.guidance.Guidance`).
            timesteps, sigmas: the schedule in place of `num_inference_steps`, for schedulers that take one.
            cross_attention_kwargs: {"scale": s} multiplies the strength of loaded LoRA.
            clip_skip: last layers of the text encoder left out.
            last_image, keyframes: pictures of the last frame, and of others by number. video: the first frames, seen
                already, in the place of `image`. loop: the first frame follows the last one.
            mask: white where the picture moves, black where it stays; an array (H, W) in [0, 1].
            camera: a path such as "zoom 1.3, pan 0.2 0" (`trip.motion.camera`). drags: strokes such as
                "0.5,0.5:0.7,0.5", in shares of what the clip shows (`trip.motion.drags`).

        Raises:
            ValueError: arguments that do not fit the model or each other; latents that became NaN.
        """
        # check
        self.check_parts()
        if guidance_scale is None:
            guidance_scale = self.config["default_guidance_scale"]
        guidance = Guidance(
            scale=scale_of_frames("guidance_scale", guidance_scale),
            image_scale=real("image_guidance_scale", image_guidance_scale),
            rescale=real("guidance_rescale", guidance_rescale, 0, 1),
            interval=interval_of("guidance_interval", guidance_interval),
            every=whole("guidance_every", guidance_every),
        )
        image = first_picture(image, video)
        batch = Batch.of(image, prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
        height, width = self._size(batch.images, height, width)
        num_frames = whole("num_frames", self.max_num_frames or 16 if num_frames is None else num_frames)
        copies = whole("num_videos_per_prompt", num_videos_per_prompt)
        steps = whole("num_inference_steps", num_inference_steps, most=MOST_STEPS)
        clip_skip = None if clip_skip is None else whole("clip_skip", clip_skip, least=0)
        decode_chunk_size = None if decode_chunk_size is None else whole("decode_chunk_size", decode_chunk_size)
        motion_strength, eta = real("motion_strength", motion_strength), real("eta", eta, 0, 1)
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type (={shown(output_type)}) is unknown; choose one of {OUTPUT_TYPES}")
        names = self.check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        lora_scale = scale_of_lora(cross_attention_kwargs)
        self.check_inputs(batch, height, width, num_frames, copies, guidance, generator, latents, reference_latents)
        controls = Controls.of(
            num_frames,
            last_image=last_image,
            keys=keyframes,
            video=video,
            loop=loop,
            mask=mask,
            camera=camera,
            drags=drags,
        )
        self.check_controls(controls, batch, reference_latents)
        self.check_chunks(num_frames, guidance, controls, latents, reference_latents)
        schedule = own_schedule(timesteps, sigmas)
        scheduler = copy.deepcopy(for_latents(self._scheduler))
        num_timesteps = rehearse(scheduler, steps, codec_of(self.vae).channels, schedule, eta)
        call = calls.Call(
            guidance_scale=guidance.scale,
            num_timesteps=num_timesteps,
            cross_attention_kwargs=cross_attention_kwargs,
            clip_skip=clip_skip,
            scheduler=scheduler,
        )

        with calls.turn(self), calls.running(self, call), self.lora_scaled(lora_scale):
            # encode: every text and image once, then one copy a clip
            device, clips = self._execution_device, batch.size * copies
            embeds, null_embeds = self._text_states(batch, clips, device, guidance.needs_null_text, clip_skip)
            image_latents = self.encode_image(torch.cat([to_pixels(i, height, width) for i in batch.images]))
            reference = image_latents if reference_latents is None else reference_latents.float()
            image_latents, reference = (one_per_clip(z, clips, device) for z in (image_latents, reference))
            shape = (clips, image_latents.shape[1], num_frames, *image_latents.shape[3:])

            # sample
            lengths = self.chunk_lengths(num_frames)
            text = {"text": embeds, "null_text": null_embeds}
            if controls:
                condition = self._controlled(controls, batch, (lengths[0], height, width), clips, text)
            else:
                pinned = first_frame(lengths[0], device) if exact_first_frame else None
                condition = Condition(reference=reference, pinned=pinned, image=image_latents, **text)
            sample = partial(
                sampler.sample,
                self.denoiser,
                scheduler,
                steps=steps,
                guidance=guidance,
                motion_strength=motion_strength,
                generator=generator,
                eta=eta,
                schedule=schedule,
                revised="denoised_latents" in names,
            )
            null_text = partial(self._null_text, batch, embeds, clip_skip)
            follow = partial(self._follow, call=call, callback=callback_on_step_end, names=names, null_text=null_text)
            chunks: list[Clip] = []
            for length in lengths:
                if chunks:
                    condition = self._continued(chunks[-1], image_latents, length, text)
                    latents = None
                noise = self.prepare_latents((*shape[:2], length, *shape[3:]), generator, device, latents)
                chunks.append(follow(sample(noise, condition)))
                require_finite(chunks[-1], "the sampled latents")
                if call.interrupt:
                    break
            overlap = (sum(lengths) - num_frames) // max(len(lengths) - 1, 1)
            latents = torch.cat([chunks[0], *(chunk[:, :, overlap:] for chunk in chunks[1:])], dim=2)

            # decode
            frames = latents if output_type == "latent" else self.decode_latents(latents, decode_chunk_size)
        if output_type != "latent":
            frames = self.video_processor.postprocess_video(frames, output_type=output_type)
        self.maybe_free_model_hooks()
        return TripPipelineOutput(frames=frames) if return_dict else (frames,)

    def _size(self, images: Sequence[Any], height: Any, width: Any) -> tuple[int, int]:
        """(height, width) of the clip in pixels: as asked, else the model's own, else the first image's."""
        default = self.default_size or size_of(images[0])
        sides = (default[0] if height is None else height), (default[1] if width is None else width)
        return whole("height", sides[0], least=0), whole("width", sides[1], least=0)


give_name(pipelines)  # where diffusers' own helpers look pipelines up
