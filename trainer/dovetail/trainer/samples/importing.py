"""Samples of others: libsvm and Vowpal Wabbit text as Arrow tables that an encoder's ``list`` input reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dovetail.platform.errors import WireError
from dovetail.platform.rows.encodings.shared import Spreader

__all__ = ["FEATURES", "SCHEMA", "read_libsvm", "read_parquet", "read_vw"]

#: The column of named numbers, for ``InputSpec("features", "list", length=…)``.
FEATURES = "features"
_FEATURE = pa.struct([("name", pa.string()), ("value", pa.float32())])
#: What text becomes: label 0 or 1, weight, and the features of each row.
SCHEMA = pa.schema([("label", pa.int8()), ("weight", pa.float32()), (FEATURES, pa.list_(_FEATURE))])

_NAMED = r"^(?P<name>[^:]+)(?::(?P<value>[^:]+))?$"


def read_libsvm(path: Path, *, rows: int = 100_000) -> Iterator[pa.Table]:
    """``label index:value …`` per line, ``#`` begins a comment; tables of :data:`SCHEMA` of up to ``rows`` rows.

    A label above 0 is positive. Names are the indices as they are written.

    :raises WireError: a line that is none, with its number.
    """
    yield from _read(path, rows, _libsvm)


def read_vw(path: Path, *, rows: int = 100_000) -> Iterator[pa.Table]:
    """Vowpal Wabbit's text format, ``label [importance] ['tag]|namespace[:scale] feature[:value] …``, as above.

    A label above 0 is positive. Names are ``namespace^feature``, as Vowpal Wabbit's audit prints them; those of the
    unnamed namespace stand alone. An initial prediction, the third number before the first bar, is refused.

    :raises WireError: a line that is none, or has no label, with its number.
    """
    yield from _read(path, rows, _vw)


def read_parquet(paths: list[Path], *, rows: int = 100_000) -> Iterator[pa.Table]:
    """Parquet files, and folders of them in order of their names; tables of up to ``rows`` rows.

    :raises WireError: there is no such file, or it is no Parquet file.
    """
    files = [file for path in paths for file in (sorted(path.rglob("*.parquet")) if path.is_dir() else [path])]
    if not files:
        raise WireError(f"{', '.join(str(path) for path in paths)}: there is no Parquet file")
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                spreader = Spreader()  # a file of Dovetail's own archive may have lists once per request
                for batch in opened.iter_batches(rows):
                    yield from spreader.parts(pa.table(batch))
        except (OSError, pa.ArrowInvalid) as error:
            raise WireError(f"{file}: cannot be read as Parquet: {error}") from error


def _read(path: Path, rows: int, parse: Callable[[pa.Array, Callable[[int, str], WireError]], pa.Table]) -> (
    Iterator[pa.Table]
):  # fmt: skip
    try:
        with path.open(encoding="utf-8") as file:
            first = 1
            while lines := list(islice(file, rows)):
                numbers = np.arange(first, first + len(lines))
                text = pc.utf8_trim_whitespace(pc.replace_substring_regex(pa.array(lines), r"(^|\s)#.*", ""))
                kept = pc.not_equal(text, "")
                numbers = numbers[kept.to_numpy(zero_copy_only=False)]

                def wrong(row: int, what: str, numbers: np.ndarray[tuple[int], np.dtype[np.int64]] = numbers) -> (
                    WireError
                ):  # fmt: skip
                    return WireError(f"{path}:{numbers[row]}: {what}; correct the line or remove it")

                yield parse(text.filter(kept), wrong)
                first += len(lines)
    except UnicodeDecodeError as error:
        raise WireError(f"{path}: cannot be read: it is not UTF-8") from error
    except OSError as error:
        raise WireError(f"{path}: cannot be read: {error}") from error


def _libsvm(lines: pa.Array, wrong: Callable[[int, str], WireError]) -> pa.Table:
    tokens = pc.utf8_split_whitespace(lines)
    labels = _numbers(pc.list_element(tokens, 0), np.arange(len(lines)), wrong, "label")
    features = pc.list_slice(tokens, 1)
    lengths = pc.list_value_length(features).to_numpy()
    rows = np.repeat(np.arange(len(lines)), lengths)
    return _table(labels, np.ones(len(lines)), *_named(features.flatten(), rows, wrong), lengths)


def _vw(lines: pa.Array, wrong: Callable[[int, str], WireError]) -> pa.Table:
    parts = pc.split_pattern(lines, "|")
    everything = np.arange(len(lines))
    heads = pc.extract_regex(
        pc.list_element(parts, 0), r"^\s*(?P<label>[^\s']+)(?:\s+(?P<weight>[^\s']+))?\s*(?P<tag>'\S*)?\s*$"
    )
    unlabelled = np.flatnonzero(heads.is_null().to_numpy(zero_copy_only=False))
    if len(unlabelled):
        raise wrong(int(unlabelled[0]), "its part before the first bar is not `label [importance] ['tag]`")
    labels = _numbers(pc.struct_field(heads, "label"), everything, wrong, "label")
    given = pc.struct_field(heads, "weight")
    given = pc.if_else(pc.equal(given, ""), "1", given)
    weights = _numbers(given, everything, wrong, "importance")
    spaces = pc.list_slice(parts, 1)
    of_row = np.repeat(everything, pc.list_value_length(spaces).to_numpy())
    split = pc.extract_regex(spaces.flatten(), r"^(?P<space>[^\s:]*)(?::(?P<scale>\S+))?(?P<rest>.*)$")
    scale = pc.struct_field(split, "scale")
    scales = _numbers(pc.if_else(pc.equal(scale, ""), "1", scale), of_row, wrong, "namespace scale")
    tokens = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.struct_field(split, "rest")))
    sizes = pc.list_value_length(tokens).to_numpy().copy()
    flat = tokens.flatten()
    of_space = np.repeat(np.arange(len(split)), sizes)
    kept = pc.not_equal(flat, "")
    flat, of_space = flat.filter(kept), of_space[kept.to_numpy(zero_copy_only=False)]
    names, values = _named(flat, of_row[of_space], wrong)
    space = pc.struct_field(split, "space").take(pa.array(of_space))
    names = pc.if_else(pc.equal(space, ""), names, pc.binary_join_element_wise(space, names, "^"))
    lengths = np.bincount(of_row[of_space], minlength=len(lines))
    return _table(labels, weights, names, values * scales[of_space], lengths)


def _named(
    tokens: pa.Array, rows: np.ndarray[tuple[int], np.dtype[np.int64]], wrong: Callable[[int, str], WireError]
) -> tuple[pa.Array, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    parts = pc.extract_regex(tokens, _NAMED)
    broken = np.flatnonzero(parts.is_null().to_numpy(zero_copy_only=False))
    if len(broken):
        raise wrong(int(rows[broken[0]]), f"{tokens[int(broken[0])].as_py()!r} is no `name` or `name:value`")
    values = pc.struct_field(parts, "value")
    return pc.struct_field(parts, "name"), _numbers(pc.if_else(pc.equal(values, ""), "1", values), rows, wrong, "value")


def _numbers(
    texts: pa.Array,
    rows: np.ndarray[tuple[int], np.dtype[np.int64]],
    wrong: Callable[[int, str], WireError],
    what: str,
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    unsigned = pc.utf8_ltrim(texts, "+")
    try:
        numbers: np.ndarray[tuple[int], np.dtype[np.float64]] = pc.cast(unsigned, pa.float64()).to_numpy(
            zero_copy_only=False
        )
    except pa.ArrowInvalid:
        # Slow, and only when a line is broken: which one?
        broken = next(place for place, plain in enumerate(unsigned) if not _is_number(plain))
        raise wrong(int(rows[broken]), f"its {what} is {texts[broken].as_py()!r}, not a number") from None
    return numbers


def _is_number(text: pa.Scalar) -> bool:
    try:
        text.cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _table(
    labels: np.ndarray[tuple[int], np.dtype[np.float64]],
    weights: np.ndarray[tuple[int], np.dtype[np.float64]],
    names: pa.Array,
    values: np.ndarray[tuple[int], np.dtype[np.float64]],
    lengths: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> pa.Table:
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    features = pa.StructArray.from_arrays([names, pa.array(values.astype(np.float32))], fields=list(_FEATURE))
    columns = [pa.array((labels > 0).astype(np.int8)), pa.array(weights.astype(np.float32))]
    return pa.table([*columns, pa.ListArray.from_arrays(pa.array(offsets), features)], schema=SCHEMA)
