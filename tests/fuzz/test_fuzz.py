"""A small share of `make fuzz`."""

import os
import subprocess
import sys
from pathlib import Path


def test_no_malformed_or_hostile_file_does_harm():
    """In a process of its own: the audit hook stays for good, and the suite checks types, which changes errors."""
    program = [sys.executable, str(Path(__file__).with_name("fuzz.py")), "--count", "200", "--workers", "1"]
    done = subprocess.run([*program, "--patience", "20"], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
