"""Run the commands of README.md: `python tests/readme.py [FILE ...]`.

Every fenced ```bash and ```python block runs, in order, in a scratch folder that holds links to the checkout, so that
nothing is left in it. A block after the line `<!-- not run: REASON -->` is left out.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"(?P<skip><!-- not run:(?P<reason>.*?)-->\s*\n)?^```(?P<language>bash|python)\n(?P<code>.*?)^```$", re.S | re.M
)


def commands(kind: str, code: str) -> list[str]:
    """The command that runs a block; python is the one that runs this script."""
    return [sys.executable, "-c", code] if kind == "python" else ["bash", "-euo", "pipefail", "-c", code]


def main() -> int:
    """Run all blocks; the number of failed ones is printed."""
    failed = 0
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory(prefix="trip-readme-") as folder:
        for entry in ROOT.iterdir():
            if entry.name not in ("out", ".git"):
                Path(folder, entry.name).symlink_to(entry)
        for file in sys.argv[1:] or ["README.md"]:
            text = (ROOT / file).read_text(encoding="utf-8")
            for block in BLOCK.finditer(text):
                where = f"{file}:{text.count(chr(10), 0, block.start('language')) + 1}"
                if block["skip"]:
                    print(f"not run  {where}:{block['reason'].rstrip()}")
                    continue
                start = time.perf_counter()
                result = subprocess.run(
                    commands(block["language"], block["code"]),
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                word = "FAILED" if result.returncode else "ok"
                print(f"{word:8s} {where} ({time.perf_counter() - start:.0f} s)", flush=True)
                if result.returncode:
                    print(block["code"] + result.stdout)
                    failed += 1
    print(f"README: {failed} blocks failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
