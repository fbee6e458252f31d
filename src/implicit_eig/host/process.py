"""What JAX's runtime does not pass on of the process that it runs in: interrupts and forks."""

import _thread
import os

from .._errors import ImplicitEigError


class _Interruption:
    """Interrupt the main thread when this object is dropped.

    `__del__` is a function in C: one in Python would itself be interrupted, where it is lost.
    """

    __del__ = _thread.interrupt_main


def interrupt(error: KeyboardInterrupt) -> KeyboardInterrupt:
    """Return the error for JAX's runtime, which makes another one of it, and interrupts anew.

    Ctrl-C would otherwise arrive as a `ValueError`, which a program may well catch to go on. The
    runtime drops what it is given once it has left Python, and only there can the interrupt begin:
    before, it would again arise in the host code.
    """
    again = KeyboardInterrupt(*error.args)
    vars(again)["again"] = _Interruption()
    return again


_started: dict[str, int] = {}


def refuse_forks() -> None:
    """Raise where the process was forked from one that has run JAX: its threads are gone.

    Raises:
        ImplicitEigError: it was.
    """
    if _started.setdefault("process", os.getpid()) != os.getpid():
        raise ImplicitEigError(
            "`eigensolver(...)`, `implicit_function(...)`: the process that JAX runs in; got one "
            "forked from it, in which JAX can wait for ever. Start processes by "
            '`multiprocessing.get_context("spawn")`, or fork before the first solve.'
        )
