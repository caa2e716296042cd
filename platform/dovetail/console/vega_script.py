"""Vega for the browser, which draws the console's charts: one script that vl-convert makes offline, in a process apart.

To make it takes seconds of a processor and holds Python's lock, and in a worker other threads make samples.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

__all__ = ["VegaScript", "VegaUnavailable"]

_MADE_BY = "vl-convert-python"
#: Of the clock; it takes 2 to 3 s of a processor, which others may have.
_AT_MOST_S = 180


class VegaUnavailable(Exception):
    """The script could not be made; pages show figures without drawings."""


class VegaScript:
    """The script, made when it is first asked for and kept as long as the process lives: 0.3 MB of memory.

    ``version`` is what it is the same for, and part of its address; empty where vl-convert is not installed.
    """

    def __init__(self) -> None:
        self._making: asyncio.Task[bytes] | None = None
        try:
            self.version = version(_MADE_BY)
        except PackageNotFoundError:
            self.version = ""

    async def compressed(self) -> bytes:
        """The script by gzip; it defines ``vegaEmbed``. Who asks while it is being made waits for the same one.

        Raises:
            VegaUnavailable: vl-convert is not installed, or has failed; whoever asks next has it tried again.
        """
        if self._making is None:
            self._making = asyncio.create_task(_made())
        try:
            # Shielded: a browser that goes away takes the script from nobody else.
            return await asyncio.shield(self._making)
        except VegaUnavailable:
            self._making = None
            raise


async def _made() -> bytes:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_AT_MOST_S):
            made, said = await child.communicate()
    except TimeoutError:
        raise VegaUnavailable(f"the script that draws charts was not made within {_AT_MOST_S} s") from None
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    if child.returncode:
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        raise VegaUnavailable(f"the script that draws charts was not made: {last or f'exit code {child.returncode}'}")
    return made


def _make() -> None:
    os.nice(5)
    import vl_convert

    sys.stdout.buffer.write(
        gzip.compress(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").encode(), mtime=0)
    )


if __name__ == "__main__":
    _make()
