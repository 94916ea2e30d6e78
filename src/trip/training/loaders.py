"""The processes that load clips: what they do at their start, and one line for their end.

A run ends well on SIGTERM, which process groups and batch systems send to all of its processes: those that load must
go on until the run has saved. One that is killed for lack of memory, or hangs, must not take the run into silence.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

LONGEST_WAIT = 600.0
"""Seconds until a batch must be there; a clip that takes long has its own, shorter, time-out."""

REMEDY = "with too little memory lower --workers, for a file that hangs run trip data check; go on with --resume latest"


def begin_worker(worker: int) -> None:
    """Leave the cores to the training process, and SIGTERM too where the system tells who sent it."""
    torch.set_num_threads(1)
    if not hasattr(signal, "sigwaitinfo"):  # macOS
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=end_as_parent_asks, daemon=True).start()


def end_as_parent_asks() -> None:
    """Obey the SIGTERM of the training process alone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)


@contextmanager
def lost_workers() -> Iterator[None]:
    """Say in one line what became of a process that loads clips.

    torch reports a death from a signal handler, hence at any moment, not only where a batch is waited for.

    Raises:
        ValueError: one died or hangs, or raised a `ValueError` of its own, which is told without its traceback.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        text = str(error)
        if text.startswith("DataLoader"):
            raise ValueError(f"loading clips failed: {' '.join(text.split()).rstrip('.')}; {REMEDY}") from error
        if text.startswith("Caught ValueError in DataLoader worker"):
            raise ValueError(text.strip().splitlines()[-1].removeprefix("ValueError: ")) from error
        raise
