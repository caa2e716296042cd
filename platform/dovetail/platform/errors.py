"""Every error Dovetail raises on purpose.

::

    DovetailError
    ├── ConfigError          dovetail.toml or a command-line argument is wrong (exit code 2)
    ├── DefinitionError      a SQL file in sql/ is wrong or unsupported; carries file and line (exit code 2)
    ├── WireError            a message, or a table handed in, does not fit its declared schema
    ├── StoreError           a store is unreachable, or written by an incompatible version
    │   └── StaleCommit      compare-and-set failed: somebody else has moved the position
    ├── TransportError       a broker or an embedded log refused to work
    │   └── LogLocked        another process has the embedded log open
    ├── StateError           stored feature state cannot answer exactly (too old, overflow, unknown version)
    │   └── DamagedState     what is stored is no state of the view: damaged, or another definition's or release's
    ├── EngineFailed         DuckDB cannot go on in this process: out of memory, or an internal error
    ├── WorkerStuck          the watchdog: partitions stopped moving while data waits
    └── ModelError           a model or checkpoint cannot be used: what differs is named

A message says what happened, where, what was found, and what to do about it; passwords in it are masked.
"""

from __future__ import annotations

from pathlib import Path

from dovetail.platform.masking import masked

__all__ = [
    "ConfigError",
    "DamagedState",
    "DefinitionError",
    "DovetailError",
    "EngineFailed",
    "LogLocked",
    "ModelError",
    "StaleCommit",
    "StateError",
    "StoreError",
    "TransportError",
    "WireError",
    "WorkerStuck",
    "blameless",
    "reason_of",
]


class DovetailError(Exception):
    """Base of all errors raised on purpose; anything else escaping Dovetail is a bug. Its text has no passwords."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(masked(arg) if isinstance(arg, str) else arg for arg in args))


class ConfigError(DovetailError):
    """A configuration value or argument is wrong; nothing has been started."""


class DefinitionError(DovetailError):
    """A SQL definition is wrong or outside the supported language.

    ``str()`` reads ``file:line: what; remedy``, so editors and people can jump to it.
    """

    def __init__(self, what: str, *, file: str | Path, line: int, remedy: str) -> None:
        super().__init__(f"{file}:{line}: {what}; {remedy}")
        self.what = what
        self.file = str(file)
        self.line = line
        self.remedy = remedy


class WireError(DovetailError):
    """Bytes or rows that do not fit the declared schema."""


class StoreError(DovetailError):
    """A store cannot be used."""


class StaleCommit(StoreError):
    """The compare-and-set on a stored position failed: this worker no longer owns the partition.

    The only right reaction is to stop: whoever moved the position has already done the work.
    """

    def __init__(self, scope: str, partition: int, *, expected: int, found: int) -> None:
        super().__init__(
            f"{scope}, partition {partition}: the store is at offset {found}, this worker expected {expected}; "
            "another worker has taken the partition over. Nothing was written; stop this worker"
        )
        self.scope = scope
        self.partition = partition
        self.expected = expected
        self.found = found


class TransportError(DovetailError):
    """A broker or embedded log cannot do what was asked."""


class LogLocked(TransportError):
    """The embedded log is open in another process."""


class StateError(DovetailError):
    """Stored feature state cannot give the exact value."""


class DamagedState(StateError):
    """The state that a store holds for a view cannot be read; no message is to blame."""


class EngineFailed(DovetailError):
    """DuckDB has failed in a way that nothing in this process can be computed after."""


class WorkerStuck(DovetailError):
    """Partitions have stopped moving while data waits; the worker ends, and its successor goes on."""


class ModelError(DovetailError):
    """A model or checkpoint cannot be loaded, resumed or published."""


_NOT_OF_A_MESSAGE = (
    ConfigError,
    DamagedState,
    DefinitionError,
    EngineFailed,
    MemoryError,
    ModelError,
    StoreError,
    TransportError,
    WorkerStuck,
)


def blameless(error: BaseException) -> bool:
    """Whether ``error`` says nothing against the message, or row, that was being computed."""
    if isinstance(error, OSError):
        # Arrow raises it for damaged bytes, too, but without a number of the system's.
        return error.errno is not None or isinstance(error, (TimeoutError, ConnectionError))
    return not isinstance(error, Exception) or isinstance(error, _NOT_OF_A_MESSAGE)


def reason_of(error: BaseException) -> str:
    """An exception as a dead letter's reason: its type and text, without passwords."""
    return masked(f"{type(error).__name__}: {error}")
