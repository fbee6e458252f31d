"""Walk one gradient: which functions of the package run between the call and the answer.

    python -m benchmarks.walk

For each kind of problem it prints how many functions in how many files a first gradient passes
(traced, compiled and run), and which pairs of files call each other in both directions.
`docs/architecture.md` shows the walk of the first.
"""

import collections
import functools
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

import implicit_eig as ie

HOME = pathlib.Path(ie.__file__).parent
Place = tuple[str, str]  # file, function
FORWARD = ("_eigensolver.py", "Eigensolver.find")


def walk(fn: Callable[[], Any]) -> dict[str, collections.Counter[tuple[Place, Place]]]:
    """Return how often each function of the package called each other one while `fn` ran.

    The caller is the nearest frame of the package on the stack, perhaps with frames of JAX between.
    What `Eigensolver.find` calls is the forward solve with its checks, all else the derivative.
    """
    calls = {part: collections.Counter() for part in ("forward", "derivative")}

    @functools.cache
    def place(code: Any) -> Place | None:
        path = pathlib.Path(code.co_filename)
        # lambdas and comprehensions are a part of the function that they stand in, and
        # `full_precision` wraps functions for the compiler's sake
        if HOME not in path.parents or "<" in code.co_name or path.name == "_compiled.py":
            return None
        return path.relative_to(HOME).as_posix(), code.co_qualname

    def hook(frame: Any, event: str, _: Any) -> None:
        here = place(frame.f_code) if event == "call" else None
        if here is None:
            return
        above, back = [], frame.f_back
        while back is not None:
            caller = place(back.f_code)
            if caller is not None:
                above.append(caller)
            back = back.f_back
        part = "forward" if FORWARD in [here, *above] else "derivative"
        calls[part][above[0] if above else ("", "the user"), here] += 1

    sys.setprofile(hook)
    try:
        fn()
    finally:
        sys.setprofile(None)
    return calls


def back_and_forth(calls: collections.Counter[tuple[Place, Place]]) -> list[tuple[str, str]]:
    """Return the pairs of files with calls in both directions."""
    between = {(a[0], b[0]) for a, b in calls if a[0] != b[0]}
    return sorted((a, b) for a, b in between if a < b and (b, a) in between)


def gradients() -> dict[str, Callable[[], Any]]:
    """Return a gradient of eigenvalues and eigenvectors of each kind of problem."""
    rng = np.random.default_rng(0)
    M = rng.standard_normal((6, 6))
    A = jnp.asarray(M + M.T)
    K = ie.SparseOperator.from_scipy(
        sp.diags_array([-1.0, 2.5, -1.0], offsets=[-1, 0, 1], shape=(40, 40))
    )
    kinds = {
        "a sparse Hermitian matrix, shift and invert": (
            ie.eigensolver(ie.solvers.arpack(3, sigma=0.0), ie.Hermitian(3)),
            K,
        ),
        "a dense Hermitian matrix": (ie.eigensolver(np.linalg.eigh, ie.Hermitian(3)), A),
        "a dense matrix": (ie.eigensolver(np.linalg.eig, ie.General(3)), A),
    }

    def gradient(solve: ie.Eigensolver, A: Any) -> Callable[[], Any]:
        def loss(A: Any) -> jax.Array:
            lam, X = solve(A)
            return jnp.sum(lam.real) + jnp.sum(jnp.abs(X[0]) ** 2)

        return lambda: jax.grad(loss)(A)

    return {name: gradient(*parts) for name, parts in kinds.items()}


def main() -> None:
    for name, gradient in gradients().items():
        print(name)
        for part, calls in walk(gradient).items():
            places = {here for _, here in calls}
            files = {file for file, _ in places}
            print(f"  {part}: {len(places)} functions in {len(files)} files")
            for pair in back_and_forth(calls):
                print("    back and forth:", *pair)
            if "-v" in sys.argv:
                for (a, b), count in calls.items():
                    print(f"    {count:4d}  {a[0]}:{a[1]} -> {b[0]}:{b[1]}")


if __name__ == "__main__":
    main()
