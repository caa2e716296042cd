"""One model file: named arrays and a JSON header, checksummed, written atomically. See docs/decisions/0002."""

from __future__ import annotations

import io
import json
import math
import os
import secrets
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from dovetail.platform.errors import ModelError

__all__ = ["Container", "Damaged", "create", "head", "pack", "parse", "unpack"]

_HEADER = "header.json"
_MEMBERS = "arrays"
#: Of a member's own header: signature, seven fields of no interest, and the lengths of its name and of what is extra.
_LOCAL = struct.Struct("<4s22xHH")
_LONGEST_HEAD = 1 << 16
# Fixed, so that equal content is equal bytes whenever it is written.
_DATE = (1980, 1, 1, 0, 0, 0)


T = TypeVar("T")


class Damaged(ModelError):
    """A file is torn or corrupt, or is not readable at all: another one may be whole."""


#: Files that read into memory that is there already.
_Source = io.FileIO | io.BytesIO


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

    :raises Damaged: the file is torn or corrupt, or cannot be read.
    :raises FileNotFoundError: there is no such file.
    """
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(
            f"{path}: no readable model file: {error.strerror}; move away what is there, or give this user access"
        ) from error
    with file:
        return _read(path, file, _parse)


def head(path: Path) -> dict[str, Any]:
    """The header of a model file, whose checksum is right; its arrays are not read.

    :raises Damaged: the file is torn or corrupt.
    :raises FileNotFoundError: there is no such file.
    """
    with path.open("rb", buffering=0) as file:
        return _read(path, file, _parse_header)


def parse(where: object, content: bytes) -> Container:
    """Unpack the bytes of :func:`pack`; ``where`` names them in errors.

    :raises Damaged: it is torn or corrupt.
    """
    return _read(where, io.BytesIO(content), _parse)


def _read(where: object, source: _Source, parse: Callable[[_Source], T]) -> T:
    try:
        return parse(source)
    # NotImplementedError and RuntimeError are zipfile's words for flag bits that pack never sets.
    except (
        zipfile.BadZipFile, zlib.error, struct.error, KeyError, ValueError, EOFError, OSError, NotImplementedError,
        RuntimeError,
    ) as error:  # fmt: skip
        raise Damaged(
            f"{where}: torn or corrupt ({type(error).__name__}: {error}). Restore it from a copy, or delete it: "
            "the file before it is used then, if there is one"
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


def _parse_header(source: _Source) -> dict[str, Any]:
    with zipfile.ZipFile(source) as archive:
        header: dict[str, Any] = json.loads(archive.read(_HEADER))
    del header[_MEMBERS]
    return header


def _parse(source: _Source) -> Container:
    """The members of the archive.

    Each long step, reading millions of bytes where they stay or adding up their checksum, is one call that leaves the
    interpreter to other threads; nothing large is held twice.
    """
    with zipfile.ZipFile(source) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        header = json.loads(archive.read(infos.pop(_HEADER)))
        arrays = {name.removesuffix(".npy"): _array(archive, info, source) for name, info in infos.items()}
    if header.pop(_MEMBERS) != sorted(arrays):
        raise ValueError(f"it holds the arrays {sorted(arrays)}, which are not those its header names")
    return Container(header, arrays)


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: _Source) -> npt.NDArray[Any]:
    """The array that ``np.save`` has written as a member, whose checksum is right."""
    archive.open(info).close()  # compares the member's own header with the directory
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed")
    source.seek(info.header_offset)
    _, name, extra = _LOCAL.unpack(source.read(_LOCAL.size) or b"")
    start = source.seek(info.header_offset + _LOCAL.size + name + extra)
    head = io.BytesIO(source.read(min(_LONGEST_HEAD, info.file_size)) or b"")
    if np.lib.format.read_magic(head) != (1, 0):
        raise ValueError("an array of another format")
    try:
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
    # It is read before its checksum is known: numpy's reader of damaged ones is Python's own.
    except (SyntaxError, tokenize.TokenError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"the header of {info.filename} is damaged") from error
    if dtype.hasobject:
        raise ValueError("an array of objects")
    count = math.prod(shape)
    if head.tell() + count * dtype.itemsize != info.file_size:
        raise ValueError(f"{info.filename} has {info.file_size} bytes, which are not those of {count} x {dtype}")
    array = np.empty(count, dtype)
    source.seek(start + head.tell())
    view, at = memoryview(array.view(np.uint8).data), 0
    while at < len(view):
        read = source.readinto(view[at:])
        if not read:
            raise EOFError(f"{info.filename} ends early")
        at += read
    if zlib.crc32(view, zlib.crc32(head.getvalue()[: head.tell()])) != info.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {info.filename!r}")
    return array.reshape(shape, order="F" if fortran else "C")
