"""Published models: what the trainer hands to serving, full or as the difference to the one before."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dovetail.platform.errors import ConfigError, ModelError
from dovetail.trainer.arithmetic import Float32, Float64, UInt32
from dovetail.trainer.models.container import (
    Container,
    create,
    pack,
    parse,
    unpack,
)
from dovetail.trainer.models.numbered import NumberedFiles

if TYPE_CHECKING:  # a reader of published models trains nothing, and need not import numba
    from dovetail.trainer.learner import Learner

__all__ = ["FORMAT", "Delta", "Model", "ModelDirectory", "delta_between", "read_delta", "read_model"]

#: Version of the file formats; a file of another version is refused.
FORMAT = 2


class Model(NamedTuple):
    """A full model for serving. It holds no optimizer state: training cannot resume from it."""

    #: :attr:`Encoder.fingerprint` the weights were trained under.
    fingerprint: str
    bits: int
    #: Rows trained on.
    trained: int
    #: Slots with a non-zero weight, ascending, uint32 [m].
    slots: UInt32
    #: Their weights, float32 [m].
    weights: Float32
    #: Moments of standardised inputs, float64 [inputs, 3].
    moments: Float64 = np.zeros((0, 3))
    #: :meth:`Encoder.describe` of the encoder it was trained with; None in models made by hand.
    encoder: dict[str, Any] | None = None

    @classmethod
    def of(cls, learner: Learner, rows: int | None = None) -> Model:
        """``learner`` as it is now, a copy; ``rows`` are those behind it, where they are not those that it has seen."""
        slots, weights = learner.weights()
        encoder = learner.encoder
        trained = learner.trained if rows is None else rows
        return cls(encoder.fingerprint, encoder.bits, trained, slots, weights, learner.moments.copy(),
                   encoder.describe())  # fmt: skip

    @classmethod
    def from_dense(
        cls,
        fingerprint: str,
        bits: int,
        trained: int,
        weights: Float32,
        moments: Float64,
        encoder: dict[str, Any] | None = None,
    ) -> Model:
        """The model whose :meth:`dense` weights are ``weights``."""
        slots = np.flatnonzero(weights).astype(np.uint32)
        return cls(fingerprint, bits, trained, slots, weights[slots], moments, encoder)

    def dense(self) -> Float32:
        """All weights, float32 [2**bits]."""
        weights = np.zeros(1 << self.bits, np.float32)
        for start in range(0, len(self.slots), _AT_ONCE):  # an index is made wider first: never all of it at once
            part = slice(start, start + _AT_ONCE)
            weights[self.slots[part]] = self.weights[part]
        return weights

    def content(self, version: int) -> bytes:
        """The bytes of this model as a full publication."""
        header = {
            "format": FORMAT, "kind": "model", "version": version, "fingerprint": self.fingerprint,
            "bits": self.bits, "trained": self.trained, "encoder": self.encoder,
        }  # fmt: skip
        return pack(header, {"slots": self.slots, "weights": self.weights, "moments": self.moments})


class Delta(NamedTuple):
    """The difference of a later version to version ``base``: the weights that differ, zeros included."""

    base: int
    fingerprint: str
    bits: int
    trained: int
    slots: UInt32
    weights: Float32
    moments: Float64

    def apply(self, dense: Float32) -> Float32:
        """The weights after this delta, a copy; ``dense`` are those of ``base``."""
        weights = dense.copy()
        weights[self.slots] = self.weights
        return weights

    def content(self, version: int) -> bytes:
        """The bytes of this delta as the publication of ``version``."""
        header = {
            "format": FORMAT, "kind": "delta", "version": version, "base": self.base, "fingerprint": self.fingerprint,
            "bits": self.bits, "trained": self.trained,
        }  # fmt: skip
        return pack(header, {"slots": self.slots, "weights": self.weights, "moments": self.moments})


def delta_between(base: int, before: Float32, after: Model) -> Delta:
    """The difference between the dense weights of version ``base`` and a later model."""
    weights = after.dense()
    slots = np.flatnonzero(before != weights).astype(np.uint32)
    return Delta(base, after.fingerprint, after.bits, after.trained, slots, weights[slots], after.moments)


def read_model(where: object, container: Container) -> Model:
    """A full model out of its file.

    :raises ModelError: it is something else, or of another format version.
    """
    header, arrays = _checked(where, container, "model")
    return Model(
        header["fingerprint"], header["bits"], header["trained"],
        arrays["slots"], arrays["weights"], arrays["moments"], header.get("encoder"),
    )  # fmt: skip


def read_delta(where: object, container: Container) -> Delta:
    """A delta out of its file.

    :raises ModelError: it is something else, or of another format version.
    """
    header, arrays = _checked(where, container, "delta")
    return Delta(
        header["base"], header["fingerprint"], header["bits"], header["trained"],
        arrays["slots"], arrays["weights"], arrays["moments"],
    )  # fmt: skip


def _checked(where: object, container: Container, kind: str) -> Container:
    header = container.header
    if (header.get("kind"), header.get("format")) != (kind, FORMAT):
        raise ModelError(
            f"{where}: this is a {header.get('kind')} of format {header.get('format')}, expected a {kind} of format "
            f"{FORMAT}; publish it again with this Dovetail version"
        )
    return container


class ModelDirectory:
    """Published versions in a directory of their own: full models, and deltas that lead from one to the next.

    Versions count up from 1. A version once published never changes, and a reader sees it whole or not at all. The
    last ``keep`` full models are kept, with the deltas after the oldest of them; pinned and shadowed versions stay, and
    those of ``used``, which are scored with for another reason.
    ``serving.json`` holds what was decided by hand: the version to serve instead of the newest (*pin*, a rollback), and
    the candidate to score beside it (*shadow*).
    """

    def __init__(self, path: Path, *, keep: int = 5, used: Collection[int] = ()) -> None:
        if keep < 1:
            raise ConfigError(f"models in {path}: keep must be at least 1, got {keep}")
        self.path = path
        self._keep = keep
        self._used = frozenset(used)
        self._files = NumberedFiles(path, "model")
        self._deltas = NumberedFiles(path, "delta")

    def versions(self) -> list[int]:
        """The published versions that are still kept, ascending."""
        return sorted({*self._files.numbers(), *self._deltas.numbers()})

    def fulls(self) -> list[int]:
        """Those of them that are full models."""
        return self._files.numbers()

    def latest(self) -> int:
        """The newest version, or 0 when nothing is published."""
        names = self._files.names()  # of both kinds, in one listing
        return max([*self._files.among(names), *self._deltas.among(names)], default=0)

    def publish(self, version: int, model: Model) -> bool:
        """Publish ``model`` as ``version`` in full, durably; False when it was published before, with the same content.

        A version older than all that are kept is taken as published before.

        :raises ModelError: ``version`` is below 1, a weight is not finite, or ``version`` is published with other
            content; nothing changed.
        """
        return self._publish(version, model.weights, self._files, model.content(version))

    def publish_delta(self, version: int, delta: Delta) -> bool:
        """Publish ``version`` as its difference to an earlier one; otherwise as :meth:`publish`.

        :raises ModelError: also when ``delta.base`` is not below ``version``.
        """
        if delta.base >= version:
            raise ModelError(f"models in {self.path}: version {version} cannot be a delta to version {delta.base}")
        return self._publish(version, delta.weights, self._deltas, delta.content(version))

    def load(self, version: int) -> Model:
        """``version``, from its full model or from the newest full one before it and the deltas between.

        :raises ModelError: it is not there, a delta on the way is missing, or a file is torn, corrupt, or of another
            format version.
        """
        if version not in self._deltas.numbers() or version in self._files.numbers():
            return self.load_full(version)
        delta = self.load_delta(version)
        chain = [delta]
        while chain[-1].base not in self._files.numbers():
            chain.append(self.load_delta(chain[-1].base))
        full = self.load_full(chain[-1].base)
        weights = full.dense()
        for step in reversed(chain):
            weights = step.apply(weights)
        return Model.from_dense(delta.fingerprint, delta.bits, delta.trained, weights, delta.moments, full.encoder)

    def load_full(self, version: int) -> Model:
        """The full model of ``version``, as :meth:`load`."""
        path = self._files.path(version)
        return read_model(path, self._unpack(path))

    def load_delta(self, version: int) -> Delta:
        """The delta of ``version``, as :meth:`load`."""
        path = self._deltas.path(version)
        return read_delta(path, self._unpack(path))

    def deltas(self) -> list[int]:
        """Versions that are there as deltas, ascending."""
        return self._deltas.numbers()

    def stamp(self, version: int) -> object:
        """A value that changes when the files of ``version`` do: their sizes and times; None for one that is gone."""
        return tuple(_stamp(files.path(version)) for files in (self._files, self._deltas))

    def install(self, content: bytes) -> bool:
        """Publish what another directory's trainer has published, as its bytes; False when it is here already.

        :raises ModelError: the bytes are no model, or the version is here with other content.
        """
        container = parse("published model", content)
        version = int(container.header.get("version", 0))
        if container.header.get("kind") == "delta":
            return self.publish_delta(version, read_delta(f"delta {version}", container))
        return self.publish(version, read_model(f"model {version}", container))

    @property
    def pinned(self) -> int | None:
        """The version that serves instead of the newest one; None when the newest does."""
        return self._decisions().get("pin")

    @property
    def shadow(self) -> int | None:
        """The version that is scored beside the serving one; None when there is none."""
        return self._decisions().get("shadow")

    def pin(self, version: int | None) -> None:
        """Serve ``version`` from now on, whatever is published; None serves the newest again.

        :raises ModelError: that version cannot be loaded; nothing changed.
        """
        self._decide("pin", version)

    def set_shadow(self, version: int | None) -> None:
        """Score ``version`` beside the serving model from now on; None stops that.

        :raises ModelError: that version cannot be loaded; nothing changed.
        """
        self._decide("shadow", version)

    def refuse(self, version: int, reasons: Sequence[str]) -> None:
        """Remember why the candidate ``version`` was not published."""
        file = self.path / f"refused-{version:012d}.json"
        file.write_text(json.dumps(list(reasons), ensure_ascii=False) + "\n", encoding="utf-8")

    def refused(self) -> dict[int, list[str]]:
        """Reasons by refused version, ascending."""
        files = sorted(self.path.glob("refused-*.json"))
        return {int(file.stem.partition("-")[2]): json.loads(file.read_text(encoding="utf-8")) for file in files}

    def _decisions(self) -> dict[str, int | None]:
        try:
            found: dict[str, int | None] = json.loads((self.path / _DECISIONS).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return found

    def _decide(self, what: str, version: int | None) -> None:
        if version is not None:
            self.load(version)
        decisions = {**self._decisions(), what: version}
        draft = self.path / f".{_DECISIONS}.tmp"
        draft.write_text(json.dumps(decisions, sort_keys=True) + "\n", encoding="utf-8")
        draft.replace(self.path / _DECISIONS)

    def _unpack(self, path: Path) -> Container:
        try:
            return unpack(path)
        except FileNotFoundError:
            raise ModelError(f"{path} does not exist; published versions are {self.versions()}") from None

    def _publish(self, version: int, weights: Float32, files: NumberedFiles, content: bytes) -> bool:
        if version < 1:
            raise ModelError(f"models in {self.path}: version {version} cannot be published; versions start at 1")
        if not np.isfinite(weights).all():
            raise ModelError(
                f"model version {version} has {int((~np.isfinite(weights)).sum())} weights that are not finite "
                "and was not published; the model has diverged: lower alpha or raise l2, and resume from the last "
                "checkpoint"
            )
        fulls = self.fulls()
        if len(fulls) >= self._keep and version < fulls[0]:
            return False
        path = files.path(version)
        try:
            create(path, content)
        except FileExistsError:
            if path.exists() and path.read_bytes() == content:
                return False
            raise ModelError(
                f"{path} was published before with other content. A version never changes: two trainers publish "
                "into this directory, or a model was trained anew from the start; give each its own directory"
            ) from None
        self._prune()
        return True

    def _prune(self) -> None:
        fulls = self.fulls()
        oldest = fulls[-self._keep :][0] if fulls else 0
        needed = set(fulls[-self._keep :]) | {version for version in self._deltas.numbers() if version > oldest}
        there = {*self._files.numbers(), *self._deltas.numbers()}
        for version in {self.pinned, self.shadow, *(self._used & there)} - {None, *needed}:
            needed |= set(self._chain(int(version or 0)))
        self._files.keep_only(needed)
        self._deltas.keep_only(needed)

    def _chain(self, version: int) -> Iterator[int]:
        """``version`` and what it is built on."""
        yield version
        while version not in self._files.numbers() and version in self._deltas.numbers():
            version = self.load_delta(version).base
            yield version


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


_DECISIONS = "serving.json"
_AT_ONCE = 1 << 16
