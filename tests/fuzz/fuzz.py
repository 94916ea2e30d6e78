"""Thousands of malformed and hostile files, each read as the commands read it: `make fuzz`.

    python tests/fuzz/fuzz.py --count 12000 --seed 0
    python tests/fuzz/fuzz.py --kind votes --count 500
    python tests/fuzz/fuzz.py --seed 0 --case votes:17      one input again, its files kept, its traceback shown

An input depends on the seed, its kind and its number alone. The last line has the number of inputs, of tracebacks
(with what is printed wrongly, or done that should not be), of hangs, and the highest peak of memory.
"""

import argparse
import io
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from guard import Guard, Outcome  # noqa: E402
from kinds import KINDS, make_seeds  # noqa: E402

Case = tuple[str, int]


def main() -> int:
    """Run all inputs; 1 if one of them did what it should not."""
    options = parsed()
    scratch = Path(os.path.realpath(tempfile.mkdtemp(prefix="trip-fuzz-")))
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
        "TMPDIR": str(scratch),
        "HF_HOME": str(scratch / "hf"),
    }
    os.environ |= {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "TQDM_DISABLE": "1"}
    cases = [options.case] if options.case else cases_of(options.kind, options.count)
    pool = Pool(scratch, options)
    try:
        found = pool.run(cases)
    finally:
        pool.stop()
        if not options.case:
            shutil.rmtree(scratch, ignore_errors=True)
    return summary(found, options)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=12_000, help="inputs of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind; repeatable")
    parser.add_argument("--case", type=lambda text: (text.split(":")[0], int(text.split(":")[1])), help="KIND:NUMBER")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--patience", type=float, default=10, help="seconds after which an input is a hang")
    return parser.parse_args()


def cases_of(kinds: list[str] | None, count: int) -> list[Case]:
    """So many inputs, by the kinds' shares, the kinds in turn."""
    shares = {name: kind.share for name, kind in KINDS.items() if not kinds or name in kinds}
    total = sum(shares.values())
    counts = {name: max(round(count * share / total), 1) for name, share in shares.items()}
    order = [((number + 0.5) / counts[name], name, number) for name in counts for number in range(counts[name])]
    return [(name, number) for _, name, number in sorted(order)]


def summary(found: dict[Case, Outcome], options: argparse.Namespace) -> int:
    """Print every distinct fault with the command that shows it, the table of kinds, and the line of all."""
    faults = {case: outcome for case, outcome in found.items() if outcome.is_fault}
    alike: dict[str, list[Case]] = {}
    for case, outcome in faults.items():
        alike.setdefault(f"{case[0]} {outcome.verdict} {place_of(outcome.detail)}", []).append(case)
    for place, cases in sorted(alike.items()):
        outcome = faults[cases[0]]
        shown = f"--seed {options.seed} --case {cases[0][0]}:{cases[0][1]}"
        print(f"\n--- {place}, {len(cases)} alike, {outcome.seconds:.1f} s: {shown}")
        lines = outcome.detail.strip().splitlines()
        print(*(line[:300] for line in (lines if options.case else lines[-1:])), sep="\n")
    if options.case and not faults:
        print(found[options.case])
    for name in KINDS:
        counts = Counter(outcome.verdict for (kind, _), outcome in found.items() if kind == name)
        if counts:
            print(f"{name:<14}" + "  ".join(f"{verdict} {count}" for verdict, count in sorted(counts.items())))
    hangs = sum(outcome.verdict == "hang" for outcome in faults.values())
    for title, what in (("peak", "peak"), ("slowest", "seconds")):
        name, number = max(found, key=lambda case: getattr(found[case], what))
        print(f"{title}: --seed {options.seed} --case {name}:{number}")
    peak = max(outcome.peak for outcome in found.values()) >> 20
    slowest = max(outcome.seconds for outcome in found.values())
    totals = f"{len(found)} inputs, {len(faults) - hangs} tracebacks, {hangs} hangs"
    print(f"{totals}, peak {peak} MiB, slowest {slowest:.1f} s")
    return 1 if faults else 0


def place_of(detail: str) -> str:
    """The innermost line of this package in a traceback, and the error's class."""
    frames = re.findall(r'/src/(trip/\S+\.py)", line (\d+), in (\S+)', detail)
    where = "{}:{} {}".format(*frames[-1]) if frames else ""
    last = (detail.strip().splitlines() or [""])[-1]
    return f"{where} {last.partition(':')[0][:80]}"


# ------------------------------------------------------------------------------------------------------ processes


class Pool:
    """Processes that take one input at a time; one that crashes or does not return is replaced."""

    def __init__(self, scratch: Path, options: argparse.Namespace) -> None:
        self.scratch, self.options = scratch, options
        self.context = multiprocessing.get_context("spawn")
        maker = self.context.Process(target=prepare, args=(scratch / "seeds",))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise SystemExit("the good files could not be made")
        self.workers = [Worker(self) for _ in range(max(min(options.workers, options.count), 1))]

    def run(self, cases: list[Case]) -> dict[Case, Outcome]:
        """All outcomes."""
        waiting, found = list(reversed(cases)), {}
        while waiting or any(worker.case for worker in self.workers):
            for index, worker in enumerate(self.workers):
                if worker.case is None:
                    if waiting:
                        worker.give(waiting.pop())
                    continue
                outcome = worker.poll()
                if outcome is not None:
                    found[worker.case], worker.case = outcome, None
                    if outcome.verdict == "crash" or not worker.process.is_alive():
                        worker.process.kill()
                        self.workers[index] = Worker(self)
        return found

    def stop(self) -> None:
        """End all processes."""
        for worker in self.workers:
            if worker.case is None and worker.process.is_alive():
                worker.pipe.send(None)
                worker.process.join(5)
            worker.process.kill()


class Worker:
    """One process and the input it is at."""

    def __init__(self, pool: Pool) -> None:
        self.patience = pool.options.patience
        self.pipe, there = pool.context.Pipe()
        keep = pool.options.case is not None
        arguments = (there, pool.scratch, pool.options.seed, self.patience, keep)
        self.process = pool.context.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        there.close()
        self.case: Case | None = None
        self.since = 0.0

    def give(self, case: Case) -> None:
        """Start an input."""
        self.case, self.since = case, time.monotonic()
        self.pipe.send(case)

    def poll(self) -> Outcome | None:
        """How it ended, if it did."""
        try:
            if self.pipe.poll(0.01):
                answer = self.pipe.recv()
                if isinstance(answer, str):  # no input's fault: what is called has moved
                    raise SystemExit(answer)
                return answer
        except (EOFError, OSError):
            return Outcome("crash", f"the process ended with {self.process.exitcode}")
        if time.monotonic() - self.since > 6 * self.patience + 60:  # a loop in C, which no alarm ends
            self.process.kill()
            return Outcome("hang", "it did not return, not even to the alarm", time.monotonic() - self.since)
        return None


def prepare(folder: Path) -> None:
    """Make the good files."""
    silence()
    make_seeds(folder)


def work(pipe, scratch: Path, seed: int, patience: float, keep: bool) -> None:
    """Answer every input with its outcome."""
    silence()
    guard = Guard(scratch, patience)
    try:
        for name, kind in KINDS.items():  # what is imported and cached on the first call is no input's doing
            run_case(None, scratch, kind.spoil, name, -1, seed)
    except Exception:
        pipe.send(traceback.format_exc())
        return
    while case := pipe.recv():
        name, number = case
        pipe.send(run_case(guard, scratch, KINDS[name].spoil, name, number, seed, keep=keep))


def run_case(guard, scratch, spoil, name, number, seed, keep=False) -> Outcome:
    """Make one input in a folder of its own and judge what comes of it, unless there is no guard."""
    import numpy as np

    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=scratch))
    rng = np.random.default_rng((seed, sorted(KINDS).index(name), number + 1))
    try:
        if guard is None:
            for thunk in spoil(scratch / "seeds", folder, rng, 9):
                with suppress(Exception), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                    thunk()  # judged when it is not the first
            return Outcome("ok")
        return guard.judge(lambda: spoil(scratch / "seeds", folder, rng, guard.port), (str(folder), folder.name))
    finally:
        os.chdir(scratch)
        if keep and guard is not None:
            print(f"its files: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def silence() -> None:
    """No log lines, warnings or progress bars of libraries, as in the commands."""
    import logging
    import warnings

    sys.dont_write_bytecode = True
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    import av.logging

    from trip.apps.errors import quiet_models

    av.logging.set_level(av.logging.PANIC)
    quiet_models()


if __name__ == "__main__":
    sys.exit(main())
