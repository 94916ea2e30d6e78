"""Where a pipeline's weights rest while they are not used, and in what form: for accelerators with little memory.

=============  =============================================  ====================================================
offload        on the accelerator                             moved to it
=============  =============================================  ====================================================
`none`         all weights                                    once
`model`        one of text encoder, network, autoencoder      each once a clip
`group`        the layer at work and the next one (CUDA)      all of the network's in every step, while it computes
`sequential`   the layer at work                              all of the network's in every step, one by one
=============  =============================================  ====================================================

The fusion is small and stays. `docs/memory.md` says what each takes at full size. Clips are the same with all of them;
float8 weights change clips a little.
"""

import torch
from torch import nn

from trip.pipeline import TripPipeline

OFFLOADS = ("none", "model", "group", "sequential")


def place(pipeline: TripPipeline, device: torch.device, offload: str = "none") -> TripPipeline:
    """Make the pipeline compute on `device`; its weights rest there, or in the host's memory.

    Args:
        offload: see the module; diffusers' own mechanisms.

    Raises:
        ValueError: no such way.
    """
    if offload == "none":
        pipeline.to(device)
    elif offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload in ("group", "sequential"):
        ahead = offload == "group" and device.type == "cuda"
        pipeline.enable_group_offload(
            device, offload_type="leaf_level", use_stream=ahead, record_stream=ahead, exclude_modules="fusion"
        )
    else:
        raise ValueError(f"offload (={offload!r}) is unknown; choose one of {', '.join(OFFLOADS)}")
    return pipeline


def store_in_float8(network: nn.Module) -> None:
    """Keep the weights of convolutions and linear layers as float8 (e4m3: 3 bits of mantissa), one byte each.

    They are cast to the network's dtype when their layer is called. Norms and the time embedding stay as they are.
    """
    cast = getattr(network, "enable_layerwise_casting", None)
    if cast is None:
        raise ValueError(f"{type(network).__name__} is no diffusers network, so its weights cannot rest in float8")
    cast(storage_dtype=torch.float8_e4m3fn, compute_dtype=network.dtype)
