"""Measure every ready-made solver on a problem of its kind, for a table in the documents.

python benchmarks/solvers.py --write
"""

import argparse
import importlib
import importlib.metadata
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

jax.config.update("jax_enable_x64", True)

import implicit_eig as ie  # noqa: E402
from implicit_eig import solvers  # noqa: E402

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "solvers.md"
MARKS = "<!-- solvers:begin -->", "<!-- solvers:end -->"
K, SIDE, DENSE = 4, 100, 400
RUNS = 3
PACKAGES = {
    "lapack": "scipy",
    "arpack": "scipy",
    "arpack_general": "scipy",
    "arpack_svd": "scipy",
    "lobpcg": "scipy",
    "jax_eigh": "jax",
    "jax_eig": "jax",
    "jax_svd": "jax",
    "primme": "primme",
    "primme_svd": "primme",
    "slepc": "slepc4py",
    "lanczos": "matfree",
    "newton": "optimistix",
}
DISTRIBUTIONS = {"slepc4py": "dolfinx-solver-complex"}


def grid(side, skew=0.0):
    """The pattern and the entries of a Laplacian, with a convection that makes it unsymmetric."""
    one = sp.diags([-1.0 - skew, 2.0, -1.0 + skew], [-1, 0, 1], (side, side))
    return sp.kronsum(one, 1.3 * one).tocoo() * side**2


def scaled(matrix, p):
    """The matrix with rows and columns scaled by √p."""
    rows, cols = (index.astype(np.int32) for index in (matrix.row, matrix.col))
    data = jnp.asarray(matrix.data) * jnp.sqrt(p[rows] * p[cols])
    return ie.SparseOperator(data, rows, cols, matrix.shape)


def loss(solver, problem, operators):
    """The eigenvalues, and the part of the eigenvectors in the first half of the unknowns."""
    solve = ie.eigensolver(solver, problem)

    def value(p):
        solution = solve(*operators(p))
        squares = jnp.abs(solution.vectors) ** 2
        half = jnp.sum(squares[: len(squares) // 2], axis=0) / jnp.sum(squares, axis=0)
        return jnp.sum(jnp.abs(solution.values)) / len(half) + jnp.sum(half)

    return value


def multigrid(A, B):
    """A preconditioner for LOBPCG."""
    import pyamg

    return pyamg.smoothed_aggregation_solver(A).aspreconditioner()


def cases():
    """(solver, what it solves, problem, operators of parameters, their number), by name."""
    n = SIDE**2
    identity = sp.identity(n).tocoo()
    K0, N0 = grid(SIDE), grid(SIDE, skew=0.02)
    R0 = sp.random(n, n // 2, 5 / n, random_state=0, format="coo") + sp.eye(n, n // 2)
    R0 = sp.coo_matrix(R0)
    rng = np.random.default_rng(0)
    G0 = jnp.asarray(rng.standard_normal((DENSE, DENSE)) / DENSE**0.5 + np.diag(np.arange(DENSE)))
    mass = lambda p: scaled(identity, 1 / p)
    pencil = lambda p: (scaled(K0, p), mass(p))
    unsymmetric = lambda p: (scaled(N0, p), mass(p))
    rows, cols = R0.row.astype(np.int32), R0.col.astype(np.int32)
    rectangular = lambda p: (
        ie.SparseOperator(jnp.asarray(R0.data) * p[rows], rows, cols, R0.shape),
    )
    damped = lambda p: (scaled(K0, p), 0.01 * scaled(identity, p), mass(p))
    dense = lambda p: (G0 + G0.T + jnp.diag(p),)
    square = lambda p: (G0 * p[:, None],)
    tall = lambda p: ((G0 * p[:, None])[:, : DENSE // 2],)
    c = jnp.cos(jnp.arange(DENSE)) / 10
    delay = lambda lam, x, G: G @ x + jnp.exp(-lam / DENSE) * c * x - lam * x

    def start(G):
        """The eigenpairs without the delay."""
        lam, X = jnp.linalg.eig(G)
        first = jnp.argsort(-lam.real)[:K]
        return lam[first], X[:, first]

    hermitian, general, singular = ie.Hermitian(K), ie.General(K), ie.Singular(K)
    yield "lapack", {}, "dense", hermitian, dense, DENSE
    yield "jax_eigh", {}, "dense", hermitian, dense, DENSE
    yield "arpack", {"sigma": 0.0}, "sparse pencil", hermitian, pencil, n
    yield "lobpcg", {"preconditioner": multigrid}, "sparse pencil", hermitian, pencil, n
    yield "primme", {"sigma": 0.0}, "sparse pencil", hermitian, pencil, n
    yield "lanczos", {"inverse": ie.MINRES()}, "sparse pencil", hermitian, pencil, n
    yield "slepc", {"sigma": 0.0}, "sparse pencil", hermitian, pencil, n
    yield "lapack", {"which": "LR"}, "dense", general, square, DENSE
    yield "jax_eig", {"which": "LR"}, "dense", general, square, DENSE
    yield "arpack_general", {"sigma": 0.0}, "sparse pencil", general, unsymmetric, n
    yield "slepc", {"sigma": 0.0}, "sparse pencil", general, unsymmetric, n
    yield "lapack", {}, "dense", singular, tall, DENSE
    yield "jax_svd", {}, "dense", singular, tall, DENSE
    yield "arpack_svd", {}, "sparse", singular, rectangular, n
    yield "primme_svd", {}, "sparse", singular, rectangular, n
    yield "slepc", {}, "sparse", singular, rectangular, n
    yield "slepc", {"sigma": 1j}, "sparse quadratic", ie.Polynomial(K), damped, n
    yield (
        "newton",
        {"T": delay, "start": start},
        "dense with delay",
        ie.Nonlinear(delay, K),
        square,
        DENSE,
    )


def measure(name, options, problem, operators, count):
    """The error of the gradient along a direction, the times of the solve and of the gradient."""
    f = jax.jit(loss(getattr(solvers, name)(**options), problem, operators))
    gradient = jax.jit(jax.grad(loss(getattr(solvers, name)(**options), problem, operators)))
    rng = np.random.default_rng(1)
    p, direction = 1 + 0.3 * rng.random(count), rng.standard_normal(count)
    found = float(np.asarray(gradient(jnp.asarray(p))) @ direction)
    at = lambda t: float(f(jnp.asarray(p + t * direction)))
    first, second = ((at(h) - at(-h)) / (2 * h) for h in (1e-4, 2e-4))
    expected = (4 * first - second) / 3
    times = []
    for call in (f, gradient):
        runs = []
        for i in range(RUNS):
            start = time.perf_counter()
            jax.block_until_ready(call(jnp.asarray(p * (1 + 1e-6 * (i + 1)))))
            runs.append(time.perf_counter() - start)
        times.append(statistics.median(runs))
    return abs(found - expected) / abs(expected), *times


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/solvers.md")
    options = parser.parse_args()
    lines = [
        "| solver | problem | n | gradient error | solve, s | gradient, s | package |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, given, form, problem, operators, count in cases():
        package = PACKAGES[name]
        try:
            importlib.import_module(package)
        except ImportError:
            print(f"{name}: {package} is not installed")
            continue
        error, solve, gradient = measure(name, given, problem, operators, count)
        package = DISTRIBUTIONS.get(package, package)
        version = importlib.metadata.version(package)
        kind = f"{form}, `{type(problem).__name__}`"
        lines.append(
            f"| `{name}` | {kind} | {count:,} | {error:.0e} | {solve:.2f} | {gradient:.2f} "
            f"| {package} {version} |"
        )
        print(lines[-1], flush=True)
    if options.write:
        before, rest = PAGE.read_text().split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        table = "\n".join(lines)
        PAGE.write_text(f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
