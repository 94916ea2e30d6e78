"""The command line with DeepSpeed's ZeRO-2 over CPU processes, or in one process without; started by test_run.py.

accelerate takes DeepSpeed to need an accelerator: it has to be told the backend, and not told that the device is a CPU.
The third update meets a loss that is not finite, in one process alone.
"""

import os
import sys

from accelerate import Accelerator, InitProcessGroupKwargs

from trip.apps.cli import main
from trip.training import run, trainer


class ZeroAccelerator(Accelerator):
    """Launched as `accelerate launch` does with configs/accelerate/deepspeed_zero2.yaml."""

    def __init__(self, cpu, kwargs_handlers, **settings):
        super().__init__(kwargs_handlers=[*kwargs_handlers, InitProcessGroupKwargs(backend="gloo")], **settings)


def spoiled(run, batch):
    """A step as it is drawn, the noise of the third one's first clip not finite."""
    batch, noising = draw_step(run, batch)
    if run.step == 2 and run.accelerator.is_main_process:
        noising.eps[0] = float("inf")
    return batch, noising


if __name__ == "__main__":
    draw_step, trainer.draw_step = trainer.draw_step, spoiled
    if "LOCAL_RANK" in os.environ:
        zero = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2", "DS_ACCELERATOR": "cpu"}
        os.environ |= zero
        run.Accelerator = ZeroAccelerator
    sys.exit(main(sys.argv[1:]))
