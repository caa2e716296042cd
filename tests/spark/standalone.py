"""A master and a worker of Spark's own kind, from the jars that come with PySpark, on 127.0.0.1."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

__all__ = ["standalone"]

_STARTED = re.compile(r"Starting Spark master at (spark://\S+)")
_REGISTERED = re.compile(r"Successfully registered with master")


@contextmanager
def standalone(folder: Path, *, cores: int, memory: str) -> Iterator[str]:
    """The URL of a master that has one worker; both are ended with the block. Logs and work are in ``folder``."""
    with ExitStack() as stack:
        here = ("--host", "127.0.0.1", "--port", "0", "--webui-port", "0")
        url = stack.enter_context(_daemon(folder / "master.log", _STARTED, "master.Master", *here))
        size = ("--cores", str(cores), "--memory", memory, "--work-dir", str(folder / "work"))
        stack.enter_context(_daemon(folder / "worker.log", _REGISTERED, "worker.Worker", *here, *size, url))
        yield url


@contextmanager
def _daemon(log: Path, said: re.Pattern[str], name: str, *arguments: str) -> Iterator[str]:
    """A daemon that has said ``said`` in its log; gives what the pattern found."""
    import pyspark

    home = Path(pyspark.__file__).parent
    local = {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_HOME": str(home), "SPARK_DAEMON_MEMORY": "512m"}
    command = [str(home / "bin" / "spark-class"), f"org.apache.spark.deploy.{name}", *arguments]
    with (
        log.open("w", encoding="utf-8") as kept,
        subprocess.Popen(
            command, env=os.environ | local, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                kept.write(line)
                if found := said.search(line):
                    break
            else:
                raise AssertionError(f"{name} has ended: {log.read_text(encoding='utf-8')[-4_000:]}")
            rest = threading.Thread(target=kept.writelines, args=(process.stdout,))
            rest.start()
            yield found.group(found.lastindex or 0)
        finally:
            process.kill()
        rest.join()
