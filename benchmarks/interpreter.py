"""An interpreter like this one that has what peers need: no dependencies of this project."""

import subprocess
import sys
from pathlib import Path

from benchmarks.npm import CHECKOUT


def with_packages(name: str, packages: tuple[str, ...]) -> Path:
    """One of that name below `target`, with what can be installed of some packages: one that there
    is none of for this Python is noted by whoever wants it."""
    python = CHECKOUT / "target" / name / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    for package in packages:
        subprocess.run([*pip, "install", package], check=False, stdout=sys.stderr)
    return python


def pins(python: Path, packages: tuple[str, ...]) -> list[str]:
    """Which versions of some packages it has."""
    listed = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "freeze"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = tuple(package.partition("[")[0] for package in packages)
    return [line for line in listed.stdout.split() if line.partition("==")[0] in names]
