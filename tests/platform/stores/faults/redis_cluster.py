"""A Redis Cluster of real servers: three primaries, and replicas where a test kills a primary."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from scripts.servers.ports import reserve

__all__ = ["Cluster", "Node", "running_cluster"]

PRIMARIES = 3
_SLOTS = 16_384


class Node:
    """One server. ``client`` talks to it alone."""

    def __init__(self, server: subprocess.Popen[str], client: Any, port: int) -> None:
        self._server, self.client, self.port = server, client, port

    @property
    def id(self) -> str:
        return str(self.client.execute_command("CLUSTER", "MYID"))

    @property
    def role(self) -> str:
        return str(self.client.info("replication")["role"])

    @property
    def alive(self) -> bool:
        return self._server.poll() is None

    def kill(self) -> None:
        """SIGKILL; returns when it is dead."""
        self._server.send_signal(signal.SIGKILL)
        self._server.wait()


class Cluster:
    """``replicas[i]`` is the replica of ``primaries[i]``, as they were made."""

    def __init__(self, primaries: list[Node], replicas: list[Node]) -> None:
        self.primaries, self.replicas = primaries, replicas
        self.url = f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in primaries)}"

    def owner(self, key: str) -> int:
        """Which primary the key's slot was given to."""
        return next(n for n in range(PRIMARIES) if key_slot(key.encode()) < _SLOTS * (n + 1) // PRIMARIES)

    def replicated(self, number: int) -> None:
        """Return when a primary's replica has all that was written until now."""
        written = self.primaries[number].client.info("replication")["master_repl_offset"]
        until(lambda: self.replicas[number].client.info("replication")["slave_repl_offset"] >= written)

    def cut_off(self, number: int) -> None:
        """Let a primary's replica get nothing more; it keeps what it has, and notices nothing else."""
        primary = self.primaries[number].client
        primary.execute_command("ACL", "SETUSER", "default", "-psync", "-sync")
        primary.execute_command("CLIENT", "KILL", "TYPE", "replica")

    def kill(self, number: int) -> None:
        """SIGKILL a primary; returns when its replica has been promoted and the cluster is whole again."""
        self.primaries[number].kill()
        until(lambda: self.replicas[number].role == "master")
        left = [node for node in (*self.primaries, *self.replicas) if node.alive]
        until(lambda: all(_says(node, "cluster_state:ok") for node in left))


def until(holds: Callable[[], bool]) -> None:
    """A cluster announces nothing: ask it again and again. The test's own limits end it."""
    pause = threading.Event()
    while not holds():
        pause.wait(0.02)


def free_port() -> int:
    """A port that nobody has, nor the one of the cluster bus, 10,000 higher: this process's to its end."""
    return reserve(offsets=(0, 10_000))[0]


@contextmanager
def running_cluster(folder: Path, *, replicas: int = 0, node_timeout_ms: int = 15_000) -> Iterator[Cluster]:
    """Three primaries that share the slots, the first ``replicas`` of them with a replica each; all empty."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server is installed")
    total = PRIMARIES + replicas
    with ExitStack() as stack:
        nodes = [stack.enter_context(_node(binary, folder / str(n), node_timeout_ms)) for n in range(total)]
        cluster = Cluster(nodes[:PRIMARIES], nodes[PRIMARIES:])
        bounds = [_SLOTS * number // PRIMARIES for number in range(PRIMARIES + 1)]
        for number, node in enumerate(cluster.primaries):
            node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        for number, node in enumerate(nodes):
            node.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            nodes[0].client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
        until(lambda: all(_says(node, "cluster_state:ok", f"cluster_known_nodes:{total}") for node in nodes))
        for primary, replica in zip(cluster.primaries, cluster.replicas, strict=False):
            replica.client.execute_command("CLUSTER", "REPLICATE", primary.id)
        until(lambda: all(_says(node, f"cluster_size:{PRIMARIES}") for node in nodes))
        until(lambda: all(node.client.info("replication").get("master_link_status") == "up" for node in nodes[3:]))
        yield cluster


def _says(node: Node, *lines: str) -> bool:
    info = str(node.client.execute_command("CLUSTER", "INFO"))
    return all(line in info for line in lines)


@contextmanager
def _node(binary: str, folder: Path, node_timeout_ms: int) -> Iterator[Node]:
    """A node that knows no other."""
    folder.mkdir(parents=True)
    port = free_port()
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    command += ["--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout_ms)]
    # A replica may be promoted however long ago it heard of its primary; saves no time, and keeps tests from it.
    command += ["--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            if not any("eady to accept connections" in line for line in server.stdout):
                pytest.fail("redis-server ended before it was ready")
            threading.Thread(target=server.stdout.read, daemon=True).start()
            with redis.Redis(port=port, decode_responses=True) as client:
                yield Node(server, client, port)
        finally:
            server.terminate()
