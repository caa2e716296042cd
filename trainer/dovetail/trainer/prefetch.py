"""The processor's prefetch instruction as something a numba kernel can call.

A table of 2**22 records does not fit into a cache, and which records an example needs is known one example ahead.
Asking for them early took FTRL from 1.6 to 2.2 M examples/s in ``benchmarks/training.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from dovetail.trainer.kernels import Float32

__all__ = ["prefetch_row"]


def _prefetch_row(_typing: Any, records: Any, _row: Any) -> tuple[Any, Any]:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        step = builder.extract_value(array.strides, 0)
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        address = builder.gep(builder.bitcast(array.data, byte), [builder.mul(arguments[1], step)])
        instruction = builder.module.declare_intrinsic(
            "llvm.prefetch", (byte,), ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        )
        # For writing, to be kept in all cache levels, data (not code).
        builder.call(instruction, [address, *(ir.Constant(number, option) for option in (1, 3, 1))])
        return context.get_dummy_value()

    return types.void(records, types.intp), generate


#: ``prefetch_row(records, row)``, in kernels only: ask for row ``row`` of a two-dimensional array. A hint: it changes
#: no result, and an address out of bounds does no harm.
prefetch_row = cast("Callable[[Float32, int], None]", intrinsic(_prefetch_row))
