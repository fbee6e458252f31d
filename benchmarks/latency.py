"""Measure what a call and a compilation cost, beside `jnp.linalg.eigh` on the same work.

The problem is a symmetric matrix of n rows, all eigenpairs or four, with a traceable solver: a
function's value, its gradient, and a Hessian-vector product, under the default policy and under one
that checks nothing. Each entry gives the seconds to trace, compile and run the first call, and the
microseconds of each later call, the median of many; each column is a contestant. Run it on an
otherwise idle machine.

    python benchmarks/latency.py [--sizes 8 32 64 200] [--eager]
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

import implicit_eig as ie

jax.config.update("jax_enable_x64", True)

UNCHECKED = ie.Policy.unchecked()


def ours(k, policy):
    some = ie.traceable(lambda A: tuple(part[..., :k] for part in jnp.linalg.eigh(A)))
    solve = ie.eigensolver(some, ie.Hermitian(k), policy=policy)
    return lambda A: tuple(solve(A))


def peer(k):
    return lambda A: tuple(part[..., :k] for part in jnp.linalg.eigh(A))


def programs(pairs):
    def loss(A):
        values, vectors = pairs(A)
        weights = jnp.linspace(1, 2, len(vectors))[:, None]
        return jnp.sum(values**2) + jnp.sum(weights * vectors**4)

    gradient = jax.grad(loss)
    return {
        "value": loss,
        "value and gradient": jax.value_and_grad(loss),
        "Hessian-vector product": lambda A: jax.jvp(gradient, (A,), (A,))[1],
    }


def measure(program, A, seconds):
    start = time.perf_counter()
    jax.block_until_ready(program(A))
    first = time.perf_counter() - start
    times = []
    while sum(times) < seconds or len(times) < 5:
        start = time.perf_counter()
        jax.block_until_ready(program(A))
        times.append(time.perf_counter() - start)
    return first, 1e6 * np.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 32, 64, 200])
    parser.add_argument("--eager", action="store_true", help="without `jax.jit`")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    options = parser.parse_args()
    jax.block_until_ready(jax.jit(jnp.sin)(jnp.ones(3)))
    names = ("default", "unchecked", "eigh")
    print("n    pairs  program                 " + "".join(f"{name:>20}" for name in names))
    for n in options.sizes:
        M = np.random.default_rng(n).standard_normal((n, n))
        A = jnp.asarray(M + M.T + np.diag(np.arange(n) * 3.0))
        for k in (n, 4):
            contestants = (ours(k, ie.Policy()), ours(k, UNCHECKED), peer(k))
            for name in programs(contestants[0]):
                row = []
                for pairs in contestants:
                    program = programs(pairs)[name]
                    compiled = program if options.eager else jax.jit(program)
                    row.append(measure(compiled, A, options.seconds))
                figures = "".join(f"{first:9.2f} s {each:6.0f} µs" for first, each in row)
                print(f"{n:<5}{'all' if k == n else k:<7}{name:<24}{figures}", flush=True)


if __name__ == "__main__":
    main()
