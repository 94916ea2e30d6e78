"""What one call of a pipeline may change while it runs, kept apart from all other calls.

A callback reads and sets it through the pipeline, as in diffusers (`pipe.guidance_scale`, `pipe._interrupt`). It
belongs to the thread that made the call, so two threads on one pipeline do not see each other's.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary


@dataclass(eq=False)
class Call:
    """State of one call, and after it, what it ended with.

    Attributes:
        guidance_scale: of the next step. changed: a callback has set it.
        num_timesteps: steps that it makes. interrupt: stop after the current one.
        scheduler: its own; None before and after. running: between start and end.
    """

    guidance_scale: Any = None
    num_timesteps: int = 0
    cross_attention_kwargs: dict[str, Any] | None = None
    clip_skip: int | None = None
    scheduler: Any = None
    changed: bool = False
    interrupt: bool = False
    running: bool = False


_CALLS: "WeakKeyDictionary[Any, dict[int, Call]]" = WeakKeyDictionary()  # pipeline -> thread -> its latest call
_TURNS: "WeakKeyDictionary[Any, threading.RLock]" = WeakKeyDictionary()
_LOCK = threading.Lock()


def of_thread(pipeline: Any) -> Call:
    """This thread's call of the pipeline, running or ended; else the latest of any thread, or an empty one."""
    with _LOCK:
        calls = _CALLS.get(pipeline, {})
        return calls.get(threading.get_ident()) or next(reversed(calls.values()), Call())


def interrupt(pipeline: Any, value: bool) -> None:
    """Set `interrupt` of this thread's running call; from a thread without one, of all that are running."""
    call = of_thread(pipeline)
    with _LOCK:
        own = _CALLS.get(pipeline, {}).get(threading.get_ident())
        others = [each for each in _CALLS.get(pipeline, {}).values() if each.running]
        for each in [call] if own is not None and own.running else others:
            each.interrupt = value


@contextmanager
def running(pipeline: Any, call: Call) -> Iterator[Call]:
    """Make `call` this thread's, until the end; a call made by its callback comes and goes in between."""
    thread = threading.get_ident()
    with _LOCK:
        calls = _CALLS.setdefault(pipeline, {})
        for dead in set(calls) - {alive.ident for alive in threading.enumerate()} - {thread}:
            del calls[dead]
        outer = calls.pop(thread, None)
        calls[thread] = call
    call.running = True
    try:
        yield call
    finally:
        call.running, call.scheduler = False, None
        if outer is not None and outer.running:
            with _LOCK:
                calls[thread] = outer


def turn(pipeline: Any) -> Any:
    """A context that makes calls wait for each other if they change shared weights: offloading, and scales of LoRA."""
    networks = [part for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae) if part is not None]
    moved = any(hasattr(part, name) for part in networks for name in ("_hf_hook", "_diffusers_hook"))
    if not networks or not (moved or any(getattr(part, "peft_config", None) for part in networks)):
        return nullcontext()
    with _LOCK:
        return _TURNS.setdefault(networks[0], threading.RLock())
