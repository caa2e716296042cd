"""ONNX files made by hand: a linear model with a sigmoid, in the few protobuf fields that it takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["FLOAT", "INT64", "STRING", "linear"]

FLOAT, INT64, STRING = 1, 7, 8


def linear(
    weights: Sequence[float],
    bias: float = 0.0,
    *,
    version: int = 0,
    inputs: Sequence[str] = ("features",),
    element: int = FLOAT,
    rows: int | None = None,
    outputs: Sequence[str] = ("score",),
) -> bytes:
    """sigmoid(x·weights + bias), [n, 1]; of several ``inputs`` [n, 1] each, x are these side by side."""
    wide = len(weights) // len(inputs)
    nodes, sources = [], []
    for name in inputs:
        nodes.append(_node("Cast", [name], [f"{name}_float"], _attribute("to", FLOAT)))
        sources.append(f"{name}_float")
    nodes.append(_node("Concat", sources, ["x"], _attribute("axis", 1)))
    nodes.append(_node("MatMul", ["x", "w"], ["product"]))
    nodes.append(_node("Add", ["product", "b"], ["margin"]))
    nodes.append(_node("Sigmoid", ["margin"], [outputs[0]]))
    nodes += [_node("Cast", [outputs[0]], [name], _attribute("to", INT64)) for name in outputs[1:]]
    constants = [_tensor("w", np.array(weights)[:, None]), _tensor("b", np.array([bias]))]
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, b"g")
    graph += b"".join(_field(5, constant) for constant in constants)
    graph += b"".join(_field(11, _value(name, element, rows, wide)) for name in inputs)
    kinds = [FLOAT, *[INT64] * (len(outputs) - 1)]
    graph += b"".join(_field(12, _value(n, kind, rows, 1)) for n, kind in zip(outputs, kinds, strict=True))
    return _integer(1, 8) + _integer(5, version) * bool(version) + _field(7, graph) + _field(8, _integer(2, 13))


def _node(operator: str, inputs: Sequence[str], outputs: Sequence[str], attribute: bytes = b"") -> bytes:
    made = b"".join(_field(1, name.encode()) for name in inputs) + b"".join(_field(2, n.encode()) for n in outputs)
    return made + _field(4, operator.encode()) + (_field(5, attribute) if attribute else b"")


def _attribute(name: str, value: int) -> bytes:
    return _field(1, name.encode()) + _integer(3, value) + _integer(20, 2)


def _tensor(name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bytes:
    dims = b"".join(_integer(1, size) for size in values.shape)
    return dims + _integer(2, FLOAT) + _field(8, name.encode()) + _field(9, values.astype("<f4").tobytes())


def _value(name: str, element: int, rows: int | None, columns: int) -> bytes:
    first = _field(2, b"n") if rows is None else _integer(1, rows)
    shape = _field(1, first) + _field(1, _integer(1, columns))
    return _field(1, name.encode()) + _field(2, _field(1, _integer(1, element) + _field(2, shape)))


def _integer(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
