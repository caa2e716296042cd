"""Environments of peers: ``.venv-peers/NAME``, made from ``requirements/NAME.txt`` and made anew when that changes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_REQUIREMENTS = Path(__file__).parent / "requirements"


class EnvironmentNotMadeError(Exception):
    """The packages of a peer could not be installed."""


def python_of(name: str | None) -> str:
    """The interpreter of an environment, which is made if need be; of Dovetail's own for None.

    Raises:
        EnvironmentNotMadeError: with the last line that pip printed.
    """
    if name is None:
        return sys.executable
    folder, wanted = ROOT / ".venv-peers" / name, (_REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8")
    stamp, python = folder / "installed.txt", folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        made = subprocess.run(
            [*install, "--requirement", str(_REQUIREMENTS / f"{name}.txt")], check=False, capture_output=True, text=True
        )
        if made.returncode:
            said = made.stderr.strip().splitlines() or ["pip said nothing"]
            raise EnvironmentNotMadeError(f"{name}: {said[-1]}")
        stamp.write_text(wanted, encoding="utf-8")
    return str(python)
