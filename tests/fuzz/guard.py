"""What no input may bring about: a traceback, a hang, gigabytes, a connection, a write elsewhere, foreign code.

Everything runs in this process, under an audit hook, an alarm and a limit of memory. FFmpeg's own connections are not
audited by Python; playlists therefore name a listener of this process, which counts its guests.
"""

import io
import os
import re
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

GIBIBYTE = 2**30
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

CONNECTING = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname", "urllib.Request")
STARTING = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty")
CHANGING = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")


class Violation(BaseException):
    """Something was tried that no input may bring about; no `except Exception` hides it."""


class Hang(BaseException):
    """The alarm went."""


@dataclass
class Outcome:
    """How one input ended.

    Attributes:
        verdict: "ok", "refused", or a fault: "traceback", "message", "violation", "hang", "memory", "crash".
        detail: the refusal, or the traceback. seconds: it took. peak: bytes above those before it.
    """

    verdict: str
    detail: str = ""
    seconds: float = 0.0
    peak: int = 0

    @property
    def is_fault(self) -> bool:
        """Whether this should not be."""
        return self.verdict not in ("ok", "refused")


class Guard:
    """Runs functions so that whatever they should not do becomes a fault.

    Attributes:
        scratch: the folder that may be written into. patience: seconds after which the alarm goes.
    """

    def __init__(self, scratch: Path, patience: float) -> None:
        self.scratch, self.patience = os.path.realpath(scratch), patience
        self.active, self.violations, self.guests = False, [], 0
        self.port = self._listen()
        sys.addaudithook(self._audit)
        signal.signal(signal.SIGALRM, self._alarm)

    def judge(self, thunks: Callable[[], Iterator[Callable[[], object]]], names: tuple[str, ...]) -> Outcome:
        """Run every function of one input; each must return, or raise a ValueError of one line with one of `names`."""
        self.violations, before, start = [], memory("VmRSS"), time.monotonic()
        guests, outcome = self.guests, Outcome("ok")
        forget_peak()
        output = io.StringIO()
        for thunk in thunks():
            try:
                with self._guarded(), redirect_stdout(output), redirect_stderr(output):
                    thunk()
            except Hang:
                outcome = Outcome("hang", traceback.format_exc())
            except (Violation, MemoryError, SystemExit, RecursionError):
                outcome = Outcome("traceback", traceback.format_exc())
            except BaseException as error:
                outcome = verdict_of(error, names)
            if outcome.is_fault:
                break
        outcome.seconds, outcome.peak = time.monotonic() - start, memory("VmHWM") - before
        if self.violations or self.guests > guests:
            outcome.verdict, outcome.detail = "violation", "; ".join(self.violations) or "FFmpeg connected"
        elif outcome.seconds > self.patience and not outcome.is_fault:
            outcome.verdict = "hang"
        elif outcome.peak > GIBIBYTE:
            outcome.verdict = "memory"
        elif not outcome.is_fault and (bad := unprintable(output.getvalue())):
            outcome.verdict, outcome.detail = "message", f"printed {bad!r} raw"
        return outcome

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + GIBIBYTE * 3 // 2, hard))
        signal.setitimer(signal.ITIMER_REAL, self.patience)
        self.active = True
        try:
            yield
        finally:
            self.active = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))

    def _alarm(self, number: int, frame: object) -> None:
        raise Hang(f"longer than {self.patience:g} s")

    def _audit(self, event: str, arguments: tuple) -> None:
        if not self.active or threading.current_thread() is not threading.main_thread():
            return
        what = self._forbidden(event, arguments)
        if what:
            self.violations.append(what)
            raise Violation(what)

    def _forbidden(self, event: str, arguments: tuple) -> str:
        if event in CONNECTING:
            return f"{event} {arguments[1:]!r}"
        if event in STARTING or event == "pickle.find_class":
            return f"{event} {arguments!r}"
        if event == "exec":
            file = getattr(arguments[0], "co_filename", "")
            return f"ran {file}" if file.startswith("/") and self._inside(file) else ""
        if event == "open":
            path, mode, flags = arguments
            writes = set(mode or "") & set("wax+") if isinstance(mode, str) else (flags or 0) & WRITING
            return f"opened {path!r} for writing" if writes and not self._may_write(path) else ""
        if event in CHANGING:
            paths = [path for path in arguments[:2] if isinstance(path, str | bytes | os.PathLike)]
            others = [path for path in paths if not self._may_write(path)]
            return f"{event} {others!r}" if others else ""
        return ""

    def _inside(self, path: str | bytes | os.PathLike) -> bool:
        place = os.path.join(os.path.realpath(os.path.dirname(os.fsdecode(path))), os.path.basename(os.fsdecode(path)))
        return place == self.scratch or place.startswith(f"{self.scratch}/")

    def _may_write(self, path: object) -> bool:
        if isinstance(path, int) or os.fspath(path) in ("/dev/null", ""):  # pyright: ignore
            return True
        return self._inside(path)  # pyright: ignore

    def _listen(self) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        server.settimeout(None)

        def count() -> None:
            while True:
                guest = server.accept()[0]
                self.guests += 1
                guest.close()

        threading.Thread(target=count, daemon=True).start()
        return server.getsockname()[1]


def verdict_of(error: BaseException, names: tuple[str, ...]) -> Outcome:
    """A refusal is a ValueError of this package's making, or the system's own word on a path; the rest are faults."""
    kind = type(error)
    ours = kind is ValueError or (isinstance(error, ValueError) and kind.__module__.startswith("trip."))
    if not ours and not (isinstance(error, OSError) and error.errno and error.filename):
        return Outcome("traceback", "".join(traceback.format_exception(error)))
    line = str(error)
    if "\n" in line or not line.strip():
        return Outcome("message", f"not one line: {line!r}\n" + "".join(traceback.format_exception(error)))
    if not any(name in line for name in names):
        return Outcome("message", f"names no file: {line!r}\n" + "".join(traceback.format_exception(error)))
    return Outcome("refused", line)


def unprintable(text: str) -> str:
    """The first character that should not reach a terminal; empty: none."""
    return next((c for c in text if not (c.isprintable() or c in "\n\r\t")), "")


def memory(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    return int(found[1]) * 1024 if found else 0


def forget_peak() -> None:
    """Let VmHWM start anew, where the system lets us."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
