"""Takes the kernels that a checkout has compiled into the installation of its wheel: `make wheel-test`.

Usage: take_kernels.py CHECKOUT, run by the installation's Python. Numba knows what it has compiled by a file's time and
size, its own version and the processor. Taken is what belongs to files that are the same byte for byte, and only if the
checkout's environment has the versions of numba, llvmlite and numpy that this one has; else all is compiled anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import dovetail

ROOTS = ("platform", "features", "joiners", "trainer")
VERSIONS = """
import sys, llvmlite, numba, numpy
print(sys.version, llvmlite.__version__, numba.__version__, numpy.__version__)
"""


def versions(python: Path) -> str | None:
    """What decides how kernels are compiled; None where there is no such Python, or not with all of it."""
    if not python.exists():
        return None
    ran = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=False)
    return ran.stdout if ran.returncode == 0 else None


def take(checkout: Path, installed: Path) -> int:
    """The number of files that were taken."""
    taken = 0
    for root in ROOTS:
        for source in sorted((checkout / root / "dovetail").rglob("*.py")):
            target = installed / source.relative_to(checkout / root / "dovetail")
            kernels = list((source.parent / "__pycache__").glob(f"{source.stem}.*.nb?"))
            if not kernels or not target.exists() or target.read_bytes() != source.read_bytes():
                continue
            (target.parent / "__pycache__").mkdir(exist_ok=True)
            for path in kernels:
                shutil.copy(path, target.parent / "__pycache__")
            stamp = source.stat()
            os.utime(target, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
            taken += len(kernels)
    return taken


def main(checkout: Path) -> None:
    same = versions(checkout / ".venv/bin/python") == versions(Path(sys.executable))
    print(f"{take(checkout, Path(dovetail.__path__[0])) if same else 0} files")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
