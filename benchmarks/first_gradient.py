"""Measure the time to the first gradient.

    python benchmarks/first_gradient.py
    python benchmarks/first_gradient.py sparse --size 300

Of a dense problem: without import, with compilation, in calls that are not compiled as a whole and
in one that is. Of the sparse one of W2: from a cold process, by its parts. The sum is all that
a user waits for, except the making of the problem's own arrays.
"""

import argparse
import itertools
import time

SIZE, PAIRS = 50, 3


def dense():
    import jax
    import jax.numpy as jnp
    import numpy as np

    import implicit_eig as ie

    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    G = rng.standard_normal((SIZE, SIZE))
    A, S = jnp.asarray(G + G.T), jnp.asarray(rng.standard_normal((SIZE, PAIRS)))
    jax.block_until_ready(A)

    def loss(A):
        values, vectors = ie.eigensolver(np.linalg.eigh, ie.Hermitian(PAIRS))(A)
        return jnp.sum(values) + jnp.sum(S * vectors**2)

    for name, gradient in (("eager", jax.grad(loss)), ("jit", jax.jit(jax.grad(loss)))):
        start = time.perf_counter()
        jax.block_until_ready(gradient(A))
        first = time.perf_counter() - start
        start = time.perf_counter()
        jax.block_until_ready(gradient(A))
        print(f"{name}: first {first:.2f} s, second {1e3 * (time.perf_counter() - start):.1f} ms")


def sparse(size):
    times = [time.perf_counter()]
    lap = lambda: times.append(time.perf_counter())
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    lap()
    import implicit_eig as ie

    lap()
    from workloads import Elements

    w = Elements(size)
    p, g, weights = jnp.asarray(w.p), jnp.asarray(w.g), jnp.asarray(w.w)
    solve = ie.eigensolver(ie.solvers.arpack(w.k, 0.0), ie.Hermitian(w.k))
    rows, cols, shape = w.rows, w.cols, (w.n, w.n)

    def loss(p):
        K = ie.SparseOperator(w.stiffness * p[w.cell], rows, cols, shape)
        M = ie.SparseOperator(w.mass * (0.5 + 0.5 * p)[w.cell], rows, cols, shape)
        values, X = solve(K, M)
        return weights @ values + jnp.sum(g[:, None] * X**2)

    lap()
    lowered = jax.jit(jax.value_and_grad(loss)).lower(p)
    lap()
    compiled = lowered.compile()
    lap()
    jax.block_until_ready(compiled(p))
    lap()
    ie.factorization_cache.clear()
    jax.block_until_ready(compiled(p))
    lap()
    parts = [after - before for before, after in itertools.pairwise(times)]
    names = ("import jax", "import implicit_eig", "the problem", "trace", "compile", "run")
    print("| " + " | ".join(names) + " | sum without the problem | run again |")
    print("|---" * 8 + "|")
    total = sum(parts[:6]) - parts[2]
    print("| " + " | ".join(f"{part:.2f}" for part in (*parts[:6], total, parts[6])) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("problem", nargs="?", choices=["dense", "sparse"], default="dense")
    parser.add_argument("--size", type=int, default=300, help="points each way")
    options = parser.parse_args()
    if options.problem == "dense":
        dense()
    else:
        sparse(options.size)
