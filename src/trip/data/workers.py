"""A function over many items in processes that are ended from outside when they hang, and replaced when they die.

Made for decoders: what hangs inside one call, or crashes, cannot be caught in its own process.
"""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

CONTEXT = multiprocessing.get_context("spawn")  # forking a process that has threads can lock it up


@dataclass(frozen=True)
class Lost:
    """In place of a result: the process was ended ("hung") or ended by itself ("crashed")."""

    reason: str


def guarded_map(
    function: Callable[[Any], Any], items: Sequence[Any], *, workers: int, timeout: float
) -> Iterator[tuple[int, Any]]:
    """Yields (index, function(item)) in the order in which results come, or (index, `Lost`).

    Args:
        function: importable by name; the items and results travel as pickles between our own processes.
        items: what to call it with.
        workers: number of processes.
        timeout: seconds for one item; the start of a process does not count.

    Raises:
        Exception: whatever the function raises.
    """
    waiting = iter(enumerate(items))
    team = [_Worker(function) for _ in range(min(workers, len(items)))]
    try:
        busy = [worker for worker in team if worker.take(waiting, timeout)]
        while busy:
            until = min(worker.deadline for worker in busy)
            wait([worker.connection for worker in busy], max(until - time.monotonic(), 0))
            for worker in busy:
                if (answer := worker.answer()) is not None:
                    yield answer
            busy = [worker for worker in busy if worker.index is not None or worker.take(waiting, timeout)]
    finally:
        for worker in team:
            worker.end()


START_UP = 120.0
"""Seconds that a process may take to import what it needs."""
READY = "ready"


class _Worker:
    """One process at a time and the item it has."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.index: int | None = None
        self.deadline = self.timeout = 0.0
        self._start()

    def _start(self) -> None:
        self.connection, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_serve, args=(self.function, theirs), daemon=True)
        self.process.start()
        self.ready = False
        theirs.close()

    def take(self, waiting: Iterator[tuple[int, Any]], timeout: float) -> bool:
        """Send the next item; False when none is left."""
        task = next(waiting, None)
        if task is None:
            return False
        self.index, item = task
        self.timeout = timeout
        self.deadline = time.monotonic() + (timeout if self.ready else START_UP)
        with suppress(BrokenPipeError):  # died between two items: `answer` finds it
            self.connection.send(item)
        return True

    def answer(self) -> tuple[int, Any] | None:
        """The result of the item, or None while it is being worked on."""
        assert self.index is not None
        try:
            if not self.connection.poll():
                return self._lost("hung") if time.monotonic() >= self.deadline else None
            message = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return self._lost("crashed")
        if message == READY:
            self.ready, self.deadline = True, time.monotonic() + self.timeout
            return None
        result, error = message
        if error is not None:
            raise error
        index, self.index = self.index, None
        return index, result

    def _lost(self, reason: str) -> tuple[int, Lost]:
        assert self.index is not None
        index, self.index = self.index, None
        self.end()
        self._start()
        return index, Lost(reason)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(function: Callable[[Any], Any], connection: Connection) -> None:
    """Answer items until the parent is gone; it alone reacts to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection.send(READY)
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        try:
            connection.send((function(item), None))
        except Exception as error:
            connection.send((None, error))
