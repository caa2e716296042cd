"""Loops that numba compiles, each at its first call: a module of kernels is imported without numba.

A command that shows definitions or adds up accounts imports such modules on its way and calls no kernel; importing
numba and preparing every kernel would take it half a second of processor time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar, cast

__all__ = ["compiled", "compiled_as_ieee", "instruction"]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A kernel of ``function``: compiled at its first call, machine code kept on disk, run without the GIL.

    Division by zero raises ZeroDivisionError, as in Python. Kernels may call each other. The machine code on disk is
    renewed when the function's own file changes, not when a function in another file does that it calls: after an edit
    of such a one, delete the ``*.nb*`` files beside its callers.
    """
    return cast("Callable[_P, _R]", _Kernel(function, "python"))


def compiled_as_ieee(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A kernel like :func:`compiled`, in which a float divided by zero is infinite or NaN, as IEEE 754 has it."""
    return cast("Callable[_P, _R]", _Kernel(function, "numpy"))


def instruction(generator: _F) -> _F:
    """A function for kernels alone, made of LLVM instructions.

    ``generator`` is as ``numba.extending.intrinsic`` takes it. The result has the signature of the instruction, not of
    its generator: cast it.
    """
    made = _Instruction(generator)
    _instructions.append(made)
    return cast("_F", made)


class _Prepared:
    """An object that numba knows how to type, made when it is first needed.

    Two threads that need it at the same time get the same one.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(cast("Callable[..., Any]", self), function)
        self._function = function
        self._made: list[Any] = []

    def numba(self) -> Any:
        """The object that numba knows."""
        if not self._made:
            self._made.append(self._make())
        return self._made[0]

    def _make(self) -> Any:
        raise NotImplementedError


#: All there are: a kernel that uses one has imported it.
_instructions: list[_Prepared] = []


class _Kernel(_Prepared):
    def __init__(self, function: Callable[..., Any], errors: Literal["python", "numpy"]) -> None:
        super().__init__(function)
        self._errors = errors

    def __call__(self, *arguments: Any) -> Any:
        return self.numba()(*arguments)

    @property
    def _numba_type_(self) -> Any:
        """The type under which a kernel that calls this one finds it; numba asks for it."""
        import numba

        typed: Any = numba.typeof(self.numba())  # type: ignore[no-untyped-call]
        return typed

    def _make(self) -> Any:
        import numba

        for known in _instructions:  # before numba compiles what may use them: then it looks at what there is
            known.numba()
        return numba.njit(cache=True, nogil=True, error_model=self._errors)(self._function)


class _Instruction(_Prepared):
    @property
    def _numba_type_(self) -> Any:
        """The type under which a kernel that calls the instruction finds it; numba asks for it."""
        from numba.core.registry import cpu_target

        return cpu_target.typing_context.resolve_value_type(self.numba())

    def _make(self) -> Any:
        from numba.extending import intrinsic

        return intrinsic(self._function)
