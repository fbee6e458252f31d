"""The bilinear finite-element problem on an N×N grid: time and memory of forward and gradient.

    python benchmarks/fem.py --grid 300 --loss values

Each measurement is a process of its own: the forward solve alone, then value and gradient. Times
are medians of `--repeat` runs after the first; memory is the peak of the process.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh, splu

import implicit_eig as ie

PAIRS = 6


def problem(m, width=1.0, height=1.2):
    """Return p -> (K, M) for m×m interior nodes, and the number of cells."""
    cells = m + 1
    hx, hy = width / cells, height / cells
    k1, m1 = np.array([[1, -1], [-1, 1.0]]), np.array([[2, 1], [1, 2.0]]) / 6
    corners = [(0, 0), (1, 0), (1, 1), (0, 1)]
    Ke, Me = np.empty((4, 4)), np.empty((4, 4))
    for a, (ax, ay) in enumerate(corners):
        for b, (bx, by) in enumerate(corners):
            Ke[a, b] = k1[ax, bx] / hx * m1[ay, by] * hy + m1[ax, bx] * hx * k1[ay, by] / hy
            Me[a, b] = m1[ax, bx] * hx * m1[ay, by] * hy
    i, j = (x.ravel() for x in np.meshgrid(np.arange(cells), np.arange(cells), indexing="ij"))
    nodes = np.full((cells + 1, cells + 1), -1)
    nodes[1:-1, 1:-1] = np.arange(m * m).reshape(m, m)
    cell_nodes = np.stack([nodes[i + di, j + dj] for di, dj in corners], axis=1)
    rows, cols = np.repeat(cell_nodes, 4, axis=1).ravel(), np.tile(cell_nodes, (1, 4)).ravel()
    keep = np.flatnonzero((rows >= 0) & (cols >= 0))
    rows, cols, cell = rows[keep].astype(np.int32), cols[keep].astype(np.int32), keep // 16
    stiffness, mass = np.tile(Ke.ravel(), cells**2)[keep], np.tile(Me.ravel(), cells**2)[keep]
    shape = (m * m, m * m)

    def pencil(p):
        K = ie.SparseOperator(stiffness * p[cell], rows, cols, shape)
        return K, ie.SparseOperator(mass * (0.5 + 0.5 * p)[cell], rows, cols, shape)

    return pencil, cells**2


def arpack(K, M):
    """Shift-and-invert about zero with SuperLU in its symmetric mode."""
    options = {"SymmetricMode": True}
    factors = splu(K.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    inverse = LinearOperator(K.shape, factors.solve, dtype=K.dtype)
    return eigsh(K, k=PAIRS, M=M, sigma=0, OPinv=inverse, v0=np.ones(K.shape[0]))


def measure(options):
    """Time one mode in this process; print figures as JSON."""
    jax.config.update("jax_enable_x64", True)
    pencil, cells = problem(options.grid)
    rng = np.random.default_rng(0)
    p = jnp.asarray(1 + 0.5 * rng.random(cells))
    w, g = (
        jnp.asarray(rng.standard_normal(PAIRS)),
        jnp.asarray(rng.standard_normal(options.grid**2)),
    )
    solve = ie.eigensolver(arpack, ie.Hermitian(PAIRS))

    def loss(p):
        if options.loss == "values":
            return w @ solve(*pencil(p)).values
        values, vectors = solve(*pencil(p))
        return w @ values + jnp.sum(g[:, None] * vectors**2)

    f = loss if options.measure == "forward" else jax.value_and_grad(loss)
    f = f if options.eager else jax.jit(f)
    seconds = []
    for _ in range(options.repeat + 1):
        start = time.perf_counter()
        jax.block_until_ready(f(p))
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {"first": seconds[0], "median": statistics.median(seconds[1:]), "peak_mb": peak}
    print(json.dumps(figures))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grid", type=int, default=300)
    parser.add_argument("--loss", choices=["values", "vectors"], default="values")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--eager", action="store_true", help="without jit")
    parser.add_argument("--measure", choices=["forward", "gradient"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options)
        return
    found = {}
    for mode in ("forward", "gradient"):
        run = [sys.executable, __file__, *sys.argv[1:], "--measure", mode]
        found[mode] = json.loads(subprocess.check_output(run, text=True).splitlines()[-1])
        print(f"{mode:9s}" + "  ".join(f"{k} {v:9.3f}" for k, v in found[mode].items()))
    forward, gradient = found["forward"], found["gradient"]
    print(f"gradient over forward {gradient['median'] / forward['median'] - 1:.3f}")
    print(f"peak memory over the forward's {gradient['peak_mb'] / forward['peak_mb']:.3f}")


if __name__ == "__main__":
    main()
