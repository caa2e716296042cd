"""XXH64 as numba kernels over Arrow buffers.

The strings features are made of are short, and their lengths vary: a branch on the length is a coin the processor
cannot guess. So up to eight bytes are hashed without one. All the ways to hash them are computed, eight strings at a
time where the processor has the vectors for it, and the right one is selected: 2.5 ns a string instead of 15.

XXH64 is Yann Collet's 64-bit hash (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md). It was chosen because it is
specified to the bit, fast on the short strings features are made of, and its low bits are as good as its high ones.
A changed hash would silently turn every stored weight into another feature's, so published vectors pin it in a test.
"""

from __future__ import annotations

import numpy as np

from dovetail.platform.compiling import compiled_as_ieee
from dovetail.trainer.arithmetic import Int32, Int64, UInt8, UInt32, UInt64
from dovetail.trainer.samples.memory import load_word

__all__ = ["fill_nulls", "hash_bytes", "hash_decimals", "hash_integers", "hash_pairs", "hash_strings"]

_P1 = np.uint64(11400714785074694791)
_P2 = np.uint64(14029467366897019727)
_P3 = np.uint64(1609587929392839161)
_P4 = np.uint64(9650029242287828579)
_P5 = np.uint64(2870177450012600261)

_TEN = np.uint64(10)
_LOW32 = np.uint64(0xFFFFFFFF)
_SIGN = np.uint64(1 << 63)

_BYTE, _BYTE_BITS = np.uint64(0xFF), np.uint64(8)
_ONE, _TWO, _THREE, _FOUR, _EIGHT = (np.uint64(number) for number in (1, 2, 3, 4, 8))

# Strings hashed together; what is kept of them meanwhile fits into the first-level cache.
_BLOCK = 256


@compiled_as_ieee
def _rotate(value: np.uint64, by: int) -> np.uint64:
    return (value << np.uint64(by)) | (value >> np.uint64(64 - by))


@compiled_as_ieee
def _tail_word(data: UInt8, at: int, length: int) -> np.uint64:
    """At most eight bytes as a little-endian integer, where reading eight could leave the buffer."""
    value = np.uint64(0)
    for i in range(min(length, 8)):
        value |= np.uint64(data[at + i]) << np.uint64(8 * i)
    return value


@compiled_as_ieee
def _round(accumulator: np.uint64, lane: np.uint64) -> np.uint64:
    return _rotate(accumulator + lane * _P2, 31) * _P1


@compiled_as_ieee
def _mix_word(state: np.uint64, lane: np.uint64) -> np.uint64:
    return _rotate(state ^ _round(np.uint64(0), lane), 27) * _P1 + _P4


@compiled_as_ieee
def _avalanche(state: np.uint64) -> np.uint64:
    state = (state ^ (state >> np.uint64(33))) * _P2
    state = (state ^ (state >> np.uint64(29))) * _P3
    return state ^ (state >> np.uint64(32))


@compiled_as_ieee
def _long_state(data: UInt8, start: int, length: int, seed: np.uint64) -> np.uint64:
    """The state after all whole 32-byte stripes of an input of at least 32 bytes."""
    a, b, c, d = seed + _P1 + _P2, seed + _P2, seed, seed - _P1
    for at in range(start, start + length - 31, 32):
        a = _round(a, load_word(data, at))
        b = _round(b, load_word(data, at + 8))
        c = _round(c, load_word(data, at + 16))
        d = _round(d, load_word(data, at + 24))
    state = _rotate(a, 1) + _rotate(b, 7) + _rotate(c, 12) + _rotate(d, 18)
    for lane in (a, b, c, d):
        state = (state ^ _round(np.uint64(0), lane)) * _P1 + _P4
    return state


@compiled_as_ieee
def _hash_range(data: UInt8, start: int, length: int, seed: np.uint64) -> np.uint64:
    end = start + length
    at = start
    if length >= 32:
        state = _long_state(data, start, length, seed)
        at += length // 32 * 32
    else:
        state = seed + _P5
    state += np.uint64(length)
    while at + 8 <= end:
        state = _mix_word(state, load_word(data, at))
        at += 8
    if at + 4 <= end:
        state = _rotate(state ^ (_tail_word(data, at, 4) * _P1), 23) * _P2 + _P3
        at += 4
    while at < end:
        state = _rotate(state ^ (np.uint64(data[at]) * _P5), 11) * _P1
        at += 1
    return _avalanche(state)


@compiled_as_ieee
def _hash_word(value: np.uint64, seed: np.uint64) -> np.uint64:
    """XXH64 of the eight little-endian bytes of ``value``."""
    return _avalanche(_mix_word(seed + _P5 + np.uint64(8), value))


@compiled_as_ieee
def _mix_four(state: np.uint64, word: np.uint64) -> np.uint64:
    return _rotate(state ^ ((word & _LOW32) * _P1), 23) * _P2 + _P3


@compiled_as_ieee
def _mix_byte(state: np.uint64, word: np.uint64) -> np.uint64:
    return _rotate(state ^ ((word & _BYTE) * _P5), 11) * _P1


@compiled_as_ieee
def _hash_short(word: np.uint64, length: np.uint64, seed: np.uint64) -> np.uint64:
    """XXH64 of the first ``length`` bytes of ``word``, at most eight; whatever else ``word`` holds is not looked at."""
    state = seed + _P5 + length
    whole = _mix_word(state, word)
    four = length & _FOUR
    state = _mix_four(state, word) if four else state
    rest, tail = length & _THREE, word >> (four * _BYTE_BITS)
    state = _mix_byte(state, tail) if rest >= _ONE else state
    state = _mix_byte(state, tail >> _BYTE_BITS) if rest >= _TWO else state
    state = _mix_byte(state, tail >> (_BYTE_BITS + _BYTE_BITS)) if rest >= _THREE else state
    return _avalanche(whole if length == _EIGHT else state)


@compiled_as_ieee
def _hash_strings(data: UInt8, offsets: Int32 | Int64, seed: np.uint64, out: UInt32 | UInt64) -> None:
    words, lengths = np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.uint64)
    last = len(data) - 8
    for start in range(0, len(out), _BLOCK):
        count = min(_BLOCK, len(out) - start)
        longest = np.uint64(0)
        for i in range(count):
            at = offsets[start + i]
            length = offsets[start + i + 1] - at
            lengths[i] = length
            longest = max(longest, np.uint64(length))
            words[i] = load_word(data, at) if at <= last else _tail_word(data, at, length)
        for i in range(count):
            out[start + i] = _hash_short(words[i], lengths[i], seed)
        if longest > _EIGHT:
            for i in range(count):
                if lengths[i] > _EIGHT:
                    at = offsets[start + i]
                    out[start + i] = _hash_range(data, at, offsets[start + i + 1] - at, seed)


@compiled_as_ieee
def _hash_integers(values: UInt64, seed: np.uint64, out: UInt32 | UInt64) -> None:
    for i in range(len(out)):
        out[i] = _hash_word(values[i], seed)


@compiled_as_ieee
def _fill_nulls(valid: UInt8, first: int, null: np.uint64, out: UInt32 | UInt64) -> None:
    for i in range(len(out)):
        at = first + i
        out[i] = out[i] if (valid[at >> 3] >> (at & 7)) & 1 else null


@compiled_as_ieee
def _hash_pairs(seeds: UInt64, values: UInt64, out: UInt64) -> None:
    for i in range(len(out)):
        out[i] = _hash_word(values[i], seeds[i])


@compiled_as_ieee
def _divide_by_ten(high: np.uint64, low: np.uint64) -> tuple[np.uint64, np.uint64, np.uint64]:
    """Quotient (high, low) and remainder of a 128-bit unsigned number by ten: schoolbook, 32 bits at a time."""
    quotient_high = high // _TEN
    upper = ((high % _TEN) << np.uint64(32)) | (low >> np.uint64(32))
    lower = ((upper % _TEN) << np.uint64(32)) | (low & _LOW32)
    return quotient_high, ((upper // _TEN) << np.uint64(32)) | (lower // _TEN), lower % _TEN


@compiled_as_ieee
def _hash_decimals(words: UInt64, scale: int, seed: np.uint64, out: UInt32 | UInt64) -> None:
    buffer = np.empty(24, np.uint8)
    for i in range(len(out)):
        low, high, left = words[2 * i], words[2 * i + 1], scale
        negative = high >= _SIGN
        if negative:
            low, high = ~low + np.uint64(1), ~high + np.uint64(low == 0)
        while left > 0:
            quotient_high, quotient_low, remainder = _divide_by_ten(high, low)
            if remainder != 0:
                break
            high, low, left = quotient_high, quotient_low, left - 1
        if high == 0 and low == 0:
            left = 0
        if negative:
            low, high = ~low + np.uint64(1), ~high + np.uint64(low == 0)
        extension = ~np.uint64(0) if low >= _SIGN else np.uint64(0)
        if left == 0 and high == extension:
            out[i] = _hash_word(low, seed)
            continue
        for j in range(8):
            shift = np.uint64(8 * j)
            buffer[j] = (low >> shift) & np.uint64(0xFF)
            buffer[8 + j] = (high >> shift) & np.uint64(0xFF)
            buffer[16 + j] = (np.uint64(left) >> shift) & np.uint64(0xFF)
        out[i] = _hash_range(buffer, 0, 24, seed)


def hash_bytes(data: bytes, seed: int = 0) -> int:
    """XXH64 of ``data``."""
    return int(_hash_range(np.frombuffer(data, np.uint8), 0, len(data), np.uint64(seed)))


def hash_strings(data: UInt8, offsets: Int32 | Int64, seed: int, out: UInt32 | UInt64) -> None:
    """``out[i]`` becomes XXH64, or its low 32 bits, of ``data[offsets[i]:offsets[i + 1]]``."""
    _hash_strings(data, offsets, np.uint64(seed), out)


def hash_integers(values: UInt64, seed: int, out: UInt32 | UInt64) -> None:
    """XXH64, or its low 32 bits, of each value's eight little-endian bytes (two's complement where negative)."""
    _hash_integers(values, np.uint64(seed), out)


def fill_nulls(valid: UInt8, first: int, null: int, out: UInt32 | UInt64) -> None:
    """``null`` where bit ``first + i`` of ``valid``, an Arrow validity bitmap, is not set."""
    _fill_nulls(valid, first, np.uint64(null), out)


def hash_pairs(seeds: UInt64, values: UInt64) -> UInt64:
    """XXH64 of each value's eight little-endian bytes under a seed of its own; uint64 [n]."""
    out = np.empty(len(values), np.uint64)
    _hash_pairs(seeds, values, out)
    return out


def hash_decimals(words: UInt64, scale: int, seed: int, out: UInt32 | UInt64) -> None:
    """XXH64, or its low 32 bits, of each decimal's numeric value.

    ``words`` are Arrow decimal128 values, two 64-bit words each, low word first. Trailing zeros of the fraction are
    taken off first, so 1.50 at scale 2 and 1.5 at scale 1 agree; what is then a whole number that fits in 64 bits
    hashes as :func:`hash_integers` does; anything else as 24 bytes: low word, high word, remaining scale.
    """
    _hash_decimals(words, scale, np.uint64(seed), out)
