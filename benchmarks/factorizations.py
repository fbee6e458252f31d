"""Measure every sparse factorisation, or try one on a thousand difficult matrices.

python benchmarks/factorizations.py             # times, one line for each method and matrix
python benchmarks/factorizations.py --methods Ldlt qdldl klujax sparsax
python benchmarks/factorizations.py --stress    # errors of `Ldlt()` beside those of `SuperLU()`
"""

import argparse
import collections
import importlib.util
import statistics
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

import implicit_eig as ie

RUNS = 3
COLUMNS = 1, 6, 40
jax.config.update("jax_enable_x64", True)
# A backward error above this many units of rounding is not one of a backward-stable solve.
STABLE = 1e5


def laplacian(side, dimensions, weights=None):
    """−Δ on a grid of side^dimensions points, with a weight for each edge if given."""
    one = sp.diags_array([1.0, -1.0], offsets=[0, -1], shape=(side + 1, side))
    eye = sp.eye_array(side)
    parts = []
    for axis in range(dimensions):
        part = sp.eye_array(1)
        for other in range(dimensions):
            part = sp.kron(part, one if other == axis else eye)
        parts.append(part)
    D = sp.vstack(parts).tocsr()
    return (D.T @ D if weights is None else D.T @ sp.diags_array(weights(D.shape[0])) @ D).tocsc()


def upper_triangle(matrix, rng, size):
    """A matrix of the pattern whose upper triangle alone is filled, with numbers of a size."""
    upper = sp.triu(abs(matrix), 1).tocsr()
    upper.data[:] = size * rng.standard_normal(upper.nnz)
    return upper


def variants(matrix, rng):
    """The kinds of matrix on one grid."""
    n, upper = matrix.shape[0], upper_triangle(matrix, rng, 0.1)
    shift = 0.3 * matrix.diagonal().mean()
    indefinite = matrix - shift * sp.eye_array(n)
    yield "definite", matrix
    yield "indefinite", indefinite
    yield "non-symmetric", indefinite + upper
    yield "complex symmetric", indefinite + 1j * (upper + upper.T)
    yield "complex Hermitian", indefinite + 1j * (upper - upper.T)


def methods(kind):
    """The package's methods, and those of other libraries that are installed, for one matrix."""
    yield "SuperLU", ie.SuperLU()
    yield "Ldlt", ie.Ldlt()
    if kind == "definite":
        yield "Cholmod", ie.Cholmod()
    if not kind.startswith("complex"):
        yield "Pardiso", ie.Pardiso()
    for name, (method, kinds) in OTHERS.items():
        if importlib.util.find_spec(name) and kind in kinds:
            yield name, method


def by_qdldl(matrix):
    solve = importlib.import_module("qdldl").Solver(sp.triu(matrix, format="csc"), upper=True).solve
    return lambda b: np.stack([solve(column) for column in b.T], axis=1)


def by_klujax(matrix):
    klujax, entries = importlib.import_module("klujax"), matrix.tocoo()
    rows, cols = (jnp.asarray(part, jnp.int32) for part in (entries.row, entries.col))
    symbolic = klujax.analyze(rows, cols, matrix.shape[0])
    numeric = klujax.factor(rows, cols, jnp.asarray(entries.data), symbolic)
    return lambda b: np.asarray(klujax.solve_with_numeric(numeric, jnp.asarray(b), symbolic))


def by_sparsax(matrix):
    sparsax, entries = importlib.import_module("sparsax"), matrix.tocoo()
    rows, cols = (jnp.asarray(part, jnp.int32) for part in (entries.row, entries.col))
    token = sparsax.factor(rows, cols, jnp.asarray(entries.data), matrix.shape[0])
    return lambda b: np.asarray(sparsax.solve_factor(token, jnp.asarray(b)))


KINDS = "definite", "indefinite", "non-symmetric", "complex symmetric", "complex Hermitian"
OTHERS = {
    "qdldl": (by_qdldl, KINDS[:2]),  # without pivots
    "klujax": (by_klujax, KINDS),
    "sparsax": (by_sparsax, KINDS[:1]),  # CHOLMOD
}


def median(run, count=RUNS):
    """The median time of some calls, in seconds."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def table(names):
    rng = np.random.default_rng(0)
    print("| matrix | method | first, s | again, s | 1, 6, 40 right sides, s | MB | residual |")
    print("|---|---|---|---|---|---|---|")
    for name, side, dimensions in (("2-D, n = 90,000", 300, 2), ("3-D, n = 39,304", 34, 3)):
        for kind, matrix in variants(laplacian(side, dimensions), rng):
            for label, method in methods(kind):
                if names and label not in names:
                    continue
                try:
                    first = median(lambda: again(method, matrix), 1)
                except (ie.InputError, ie.LinearSolveError) as error:
                    print(f"| {name}, {kind} | {label} | {error} |", flush=True)
                    continue
                later = median(lambda: again(method, matrix))
                factors = ie.factorize(matrix, method=method)
                b = rng.standard_normal((matrix.shape[0], max(COLUMNS))).astype(matrix.dtype)
                solves = [median(lambda m=m: factors(b[:, :m])) for m in COLUMNS]
                times = ", ".join(f"{seconds:.3f}" for seconds in solves)
                error = abs(matrix @ factors(b[:, :1]) - b[:, :1]).max() / abs(b[:, :1]).max()
                print(
                    f"| {name}, {kind} | {label} | {first:.2f} | {later:.2f} | {times} "
                    f"| {factors.nbytes / 1e6:.0f} | {error:.0e} |",
                    flush=True,
                )


def again(method, matrix):
    ie.factorization_cache.clear()
    ie.factorize(matrix, method=method)


def random_matrix(rng):
    """The name of a family and a matrix of it."""
    family = rng.choice(
        ["grid", "near singular", "graded", "contrast", "saddle", "bordered", "random", "skew"]
    )
    side, dimensions = (
        (int(rng.integers(4, 40)), 2)
        if rng.random() < 0.6
        else (
            int(rng.integers(3, 14)),
            3,
        )
    )
    K = laplacian(side, dimensions, lambda m: 1 + 0.3 * rng.random(m))
    n = K.shape[0]
    shift = K.diagonal().max() * rng.random()
    M = K - shift * sp.eye_array(n)
    if family == "near singular":
        sigma = float(sp.linalg.eigsh(K, 1, sigma=0.1 * shift, return_eigenvectors=False)[0])
        M = K - sigma * (1 + 10.0 ** rng.uniform(-14, -3)) * sp.eye_array(n)
    elif family == "graded":
        scale = sp.diags_array(10.0 ** rng.uniform(-4, 4, n))
        M = scale @ M @ scale
    elif family == "contrast":
        M = laplacian(side, dimensions, lambda m: 10.0 ** rng.uniform(-6, 6, m)) - 1e-3 * shift * (
            sp.eye_array(n)
        )
    elif family == "saddle":
        m = n // int(rng.integers(2, 12)) + 1
        C = sp.random_array((m, n), density=min(1.0, 3 / n), rng=rng) + sp.eye_array(m, n)
        M = sp.block_array([[M, C.T], [C, None]])
    elif family == "bordered":
        k = int(rng.integers(1, 7))
        values, X = np.linalg.eigh(M.toarray()) if n < 500 else sp.linalg.eigsh(M, k, sigma=0.0)
        lam = values[0]
        M = sp.block_array([[M - lam * sp.eye_array(n), X[:, :k]], [X[:, :k].T, None]])
    elif family == "random":
        M = sp.random_array((n, n), density=min(1.0, 4 / n), rng=rng)
        M = M + M.T + sp.diags_array(rng.standard_normal(n))
    elif family == "skew":
        M = M + upper_triangle(K, rng, rng.choice([0.1, 10.0]))
    kind = rng.choice(["real", "complex symmetric", "complex Hermitian"], p=[0.6, 0.2, 0.2])
    if kind != "real":
        upper = upper_triangle(M, rng, 0.3 * abs(M).max())
        M = M + 1j * (upper + (upper.T if kind == "complex symmetric" else -upper.T))
    single = rng.random() < 0.25
    if single:
        M = M.astype(np.complex64 if np.iscomplexobj(M) else np.float32)
    return f"{family}, {kind}, {'single' if single else 'double'}", sp.csc_matrix(M)


def backward_error(M, x, b):
    """‖M x − b‖ / (‖M‖ ‖x‖ + ‖b‖) in units of rounding."""
    residual = np.linalg.norm(M.astype(np.complex128) @ x - b)
    size = sp.linalg.norm(M) * np.linalg.norm(x) + np.linalg.norm(b)
    return float(residual / size / np.finfo(M.dtype).eps)


def stress(count, start):
    found = collections.defaultdict(list)
    worst = collections.Counter()
    for seed in range(start, start + count):
        rng = np.random.default_rng(seed)
        family, M = random_matrix(rng)
        b = rng.standard_normal(M.shape[0]).astype(M.dtype)
        errors = []
        for method in (ie.Ldlt(), ie.SuperLU()):
            try:
                solve = ie.factorize(M, method=method)
                errors.append(
                    max(
                        backward_error(A, x, b)
                        for A, x in (
                            (M, solve(b)),
                            (M.conj().T, solve.solve_adjoint(b)),
                        )
                    )
                )
            except ie.LinearSolveError:
                errors.append(np.inf)
        found[family.split(",")[0]].append(errors)
        if not errors[0] <= max(STABLE, 10 * errors[1]):
            worst[family] += 1
            print(seed, family, M.shape[0], *(f"{error:.1e}" for error in errors), flush=True)
    print("| family | matrices | largest backward error of Ldlt, of SuperLU, in units of eps |")
    print("|---|---|---|")
    for family, errors in sorted(found.items()):
        largest = np.max(errors, axis=0)
        print(f"| {family} | {len(errors)} | {largest[0]:.1e}, {largest[1]:.1e} |")
    print(f"worse than SuperLU and above {STABLE:.0e} units: {sum(worst.values())} of {count}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stress", action="store_true", help="errors instead of times")
    parser.add_argument("--methods", nargs="*", help="SuperLU, Ldlt, …; default: all")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore", sp.SparseEfficiencyWarning)
    if options.stress:
        stress(options.count, options.start)
    else:
        table(options.methods)


if __name__ == "__main__":
    main()
