"""Memory instructions of the processor that numba has no word for, as functions a kernel can call.

**Prefetch.** A table of 2**22 records does not fit into a cache, and which records an example needs is known before
its turn comes. A read of memory takes 150 ns and an example of 39 inputs about as long, so one example ahead is too
late for some: four ahead took FTRL from 5.0 to 6.0 M examples/s on those of ``benchmarks/training.py``.

**Unaligned words.** Strings lie one behind the other in an Arrow buffer; reading eight bytes at once, wherever they
begin, is one instruction where eight single bytes are fifteen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from dovetail.platform.compiling import instruction
from dovetail.trainer.arithmetic import Float32, UInt8

__all__ = ["AHEAD", "load_word", "prefetch_row"]

#: How many examples ahead to ask for records.
AHEAD = 4


def _prefetch_row(_typing: Any, records: Any, _row: Any) -> tuple[Any, Any]:
    from llvmlite import ir
    from numba.core import types

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


def _load_word(_typing: Any, data: Any, _at: Any) -> tuple[Any, Any]:
    from llvmlite import ir
    from numba.core import types

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        address = builder.gep(array.data, [arguments[1]])
        return builder.load(builder.bitcast(address, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(data, types.intp), generate


#: ``prefetch_row(records, row)``, in kernels only: ask for row ``row`` of a two-dimensional array. A hint: it changes
#: no result, and an address out of bounds does no harm.
prefetch_row = cast("Callable[[Float32, int], None]", instruction(_prefetch_row))

#: ``load_word(data, at)``, in kernels only: the eight bytes of ``data`` from ``at`` on as a little-endian integer. The
#: caller sees to it that all eight are inside. Like Arrow's own buffers it presumes a little-endian processor.
load_word = cast("Callable[[UInt8, int], np.uint64]", instruction(_load_word))
