"""The examples run as they stand, and show what they say they show."""

import re
import subprocess
import sys
import time
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_swarm_is_quick_and_shares_what_its_workers_have_in_common() -> None:
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, EXAMPLES / "swarm.py"], check=True, capture_output=True, text=True
    )
    assert time.monotonic() - start < 5
    workers, messages, added = map(int, re.findall(r"\d+", result.stdout.splitlines()[0]))
    assert (workers, messages, added) == (50, 601, 50 * 18)
    # Fifty copies of the same, and compression on top.
    times_less = int(re.findall(r"(\d+) times less", result.stdout)[0])
    assert times_less > 50


def test_every_example_is_tested() -> None:
    assert [path.name for path in EXAMPLES.glob("*.py")] == ["swarm.py"]
