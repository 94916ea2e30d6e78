"""How long `trip` takes to say what is wrong, and `trip animate` to begin: `python -m benchmarks.startup`.

Each row is the fastest of `--repeats` runs of a new process, in wall-clock seconds; other load on the machine counts.
"""

import argparse
import json
import os
import pty
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

ANIMATE = [sys.executable, "-m", "trip.apps.cli", "animate"]
PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "castle.jpg"
BARS = {"missing picture": 0.7, "wrong flag": 0.7, "first progress": 3.0, "first step": None}


def seconds_of_error(arguments: list[str]) -> float:
    """Until the process has ended with an error."""
    started = time.perf_counter()
    done = subprocess.run([*ANIMATE, *arguments], capture_output=True)
    assert done.returncode == 2, done.stderr
    return time.perf_counter() - started


def seconds_of_progress(output: str) -> dict[str, float]:
    """Until the first progress bar is shown, and until the first denoising step is done, on a terminal."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))  # a bar hides on a terminal of no size
    started, found, text = time.perf_counter(), {}, ""
    command = [*ANIMATE, str(PHOTO), "--prompt", "the camera pans left", "--preset", "fast", "--output", output]
    process = subprocess.Popen(command, stderr=slave, stdout=subprocess.DEVNULL)
    os.close(slave)
    try:
        while piece := os.read(master, 4096):
            text += piece.decode(errors="replace")
            now = time.perf_counter() - started
            found.setdefault("first progress", now)
            if (
                "sampling" in text
                and "sampling:   0%" not in text.rpartition("sampling")[1] + text.rpartition("sampling")[2]
            ):
                found.setdefault("first step", now)
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(master)
        process.wait()
    return found


def measure(repeats: int) -> dict[str, float]:
    """Row -> seconds."""
    rows: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/clip.mp4"
        for _ in range(repeats):
            found = {
                "missing picture": seconds_of_error([f"{folder}/none.png", "--prompt", "x", "--output", out]),
                "wrong flag": seconds_of_error([str(PHOTO), "--prompt", "x", "--output", out, "--steps", "0"]),
                **seconds_of_progress(out),
            }
            rows = {name: min(seconds, rows.get(name, seconds)) for name, seconds in found.items()}
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = measure(options.repeats)
    for name, value in rows.items():
        print(f"{name:<16} {value:6.2f} s" + (f"   at most {BARS[name]:g} s" if BARS[name] else ""))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
