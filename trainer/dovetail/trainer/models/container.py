"""One model file: named arrays and a JSON header, checksummed, written atomically. See docs/decisions/0002."""

from __future__ import annotations

import io
import json
import os
import secrets
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dovetail.platform.errors import ModelError

__all__ = ["Container", "create", "pack", "parse", "unpack"]

_HEADER = "header.json"
_MEMBERS = "arrays"
# Fixed, so that equal content is equal bytes whenever it is written.
_DATE = (1980, 1, 1, 0, 0, 0)


class Container(NamedTuple):
    """The contents of a model file."""

    header: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]


def pack(header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """The bytes of a model file; equal content gives equal bytes. ``np.load`` reads the arrays of such a file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        # The names are checksummed with the header: damage to the archive's directory could hide a member.
        text = json.dumps({**header, _MEMBERS: sorted(arrays)}, sort_keys=True, indent=1, allow_nan=False)
        archive.writestr(zipfile.ZipInfo(_HEADER, _DATE), text)
        for name in sorted(arrays):
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _DATE), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(arrays[name]), allow_pickle=False)
    return buffer.getvalue()


def unpack(path: Path) -> Container:
    """Read a model file, checking the checksum of every member. Never unpickles.

    :raises ModelError: the file is torn or corrupt, or cannot be read.
    :raises FileNotFoundError: there is no such file.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ModelError(
            f"{path}: no readable model file: {error.strerror}; move away what is there, or give this user access"
        ) from error
    return parse(path, content)


def parse(where: object, content: bytes) -> Container:
    """Unpack the bytes of :func:`pack`; ``where`` names them in errors.

    :raises ModelError: it is torn or corrupt.
    """
    try:
        return _parse(content)
    # NotImplementedError and RuntimeError are zipfile's words for flag bits that pack never sets.
    except (
        zipfile.BadZipFile, zlib.error, struct.error, KeyError, ValueError, EOFError, OSError, NotImplementedError,
        RuntimeError,
    ) as error:  # fmt: skip
        raise ModelError(
            f"{where}: torn or corrupt ({type(error).__name__}: {error}). Delete it to fall back to the file before it"
        ) from error


def create(path: Path, content: bytes) -> None:
    """Make ``path`` appear with ``content``, durably and all at once, unless it exists.

    After a crash at any point, ``path`` is either absent or complete.

    :raises FileExistsError: it exists already, or did before it was pruned; it was not touched.
    """
    # A name of its own keeps two writers apart; link() below decides which of them wins.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(draft, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Unlike rename, link refuses to replace an existing file: that is the compare-and-set.
        os.link(draft, path)
    except FileNotFoundError as error:
        # A rival that got further has cleared this draft away, see NumberedFiles.prune.
        raise FileExistsError(f"{path}: another writer was faster") from error
    finally:
        draft.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _parse(content: bytes) -> Container:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        # ZipFile.read checks a member's CRC-32 once it has read all of it.
        members = {name: archive.read(name) for name in archive.namelist()}
    header = json.loads(members.pop(_HEADER))
    arrays = {
        name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        for name, data in members.items()
    }
    if header.pop(_MEMBERS) != sorted(arrays):
        raise ValueError(f"it holds the arrays {sorted(arrays)}, which are not those its header names")
    return Container(header, arrays)
