"""Ten thousand gradients, threads, processes: memory stays flat, and answers stay the same.

    python -m benchmarks.soak [--gradients 10000]

1. Gradients of sparse problems of four sizes, one after another, each of a new matrix, so that the
   cache of factorisations turns over. Resident memory after each thousand is printed; after the
   first thousand it may grow by 5 %. Every hundredth gradient repeats the first of its size, and
   must be the same bit by bit.
2. Sixteen threads of four sizes share the cache; their answers are those of one thread.
3. Spawned processes give the answers of this one.
"""

import argparse
import concurrent.futures
import functools
import multiprocessing
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import implicit_eig as ie

jax.config.update("jax_enable_x64", True)

SIZES = (40, 150, 400, 1000)
GROWTH = 1.05


@functools.cache
def gradient(n):
    """The compiled gradient of a function of eigenvectors of a chain of n masses."""
    rows = np.concatenate([np.arange(n), np.arange(n - 1), np.arange(1, n)])
    cols = np.concatenate([np.arange(n), np.arange(1, n), np.arange(n - 1)])
    solve = ie.eigensolver(ie.solvers.arpack(k=3, sigma=0.0), ie.Hermitian(3))
    weight = jnp.linspace(0.0, 1.0, n)

    def loss(springs):
        data = jnp.concatenate([springs[:-1] + springs[1:], -springs[1:-1], -springs[1:-1]])
        values, X = solve(ie.SparseOperator(data, rows, cols, (n, n)))
        return jnp.sum(values) + jnp.sum(weight[:, None] * X**2 * jnp.asarray([[1.0, 2.0, 3.0]]))

    return jax.jit(jax.grad(loss))


def answer(n, seed):
    """The gradient of one chain, as bytes."""
    springs = 1 + np.random.default_rng(seed).random(n + 1)
    return np.asarray(gradient(n)(springs)).tobytes()


def resident():
    """Resident memory of this process, in MiB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def memory(gradients):
    """Run one gradient after another; return whether memory stays flat and answers the same."""
    first = {n: answer(n, 0) for n in SIZES}
    start, flat = None, True
    for i in range(1, gradients + 1):
        n = SIZES[i % len(SIZES)]
        if i % 100 == 0 and answer(n, 0) != first[n]:
            print(f"another answer after {i} gradients, n = {n}")
            return False
        answer(n, i)
        if i % max(gradients // 10, 1) == 0:
            now = resident()
            start = now if start is None else start
            flat = flat and now <= GROWTH * start
            factors = ie.factorization_cache.nbytes / 2**20
            print(f"{i:6d} gradients: {now:7.1f} MiB, {factors:.1f} of factors", flush=True)
    return flat


def threads(rounds):
    """Whether sixteen threads of four sizes find what one thread does."""
    tasks = [(SIZES[i % len(SIZES)], i // len(SIZES)) for i in range(16 * rounds)]
    alone = [answer(*task) for task in tasks]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda task: answer(*task), tasks))
    return alone == together


def processes():
    """Whether spawned processes find what this one does."""
    tasks = [(n, seed) for n in SIZES[:2] for seed in range(2)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return pool.starmap(answer, tasks) == [answer(*task) for task in tasks]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gradients", type=int, default=10_000)
    options = parser.parse_args()
    began = time.time()
    verdicts = {
        "memory flat, answers the same": memory(options.gradients),
        "sixteen threads": threads(options.gradients // 250 + 1),
        "spawned processes": processes(),
    }
    for name, passed in verdicts.items():
        print(f"{name}: {'yes' if passed else 'NO'}")
    print(f"{time.time() - began:.0f} s")
    sys.exit(not all(verdicts.values()))


if __name__ == "__main__":
    main()
