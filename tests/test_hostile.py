"""Solvers that misbehave: what they return is right, or refused in words that help.

One table for forward solvers, one for linear solvers. The programs are compiled once, and their
host code is exchanged below them.
"""

import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
from problems import EPS, Exchanged, dense, eigh, random_hermitian, sparse, with_spectrum

import implicit_eig as ie

pytestmark = pytest.mark.core

N, K = 6, 2
A = with_spectrum([1.0, 2.0, 3.0, 5.0, 8.0, 13.0], seed=3)
G = jnp.asarray(np.random.default_rng(4).standard_normal((N, N)))
W = jnp.asarray(np.random.default_rng(1).standard_normal(N))
D = random_hermitian(N, seed=5)
OLD = eigh(np.asarray(A + 1e-3 * D))


class Row(NamedTuple):
    """Host code, and its verdict: an error with its words, or, without one, the right answer."""

    code: Any
    error: type[BaseException] | None = None
    words: str = ""


def on_pairs(change):
    """A solver whose right answer is changed by `change(values, vectors)`."""
    return lambda A: change(*eigh(A))


def in_place(code):
    """The answer of `code(A, answer)`, which may spoil what it is given and what it returned."""

    def solver(A):
        values, X = eigh(A.copy())
        return code(A, values, X)

    return solver


def entry(array, index, value):
    array[index] = value
    return array


def times(A, factor):
    """Multiply a matrix in place, also one whose arrays are marked as read-only."""
    for part in (A.data, A.indices, A.indptr) if sp.issparse(A) else (A,):
        part.flags.writeable = True
        part *= factor


BUFFER = np.empty(N), np.empty((2 * N, N), order="F")


def in_a_buffer(A, values, X):
    BUFFER[0][:], BUFFER[1][::2] = values, X
    return BUFFER[0], BUFFER[1][::2]


RANDOM = np.random.default_rng(0)


def permuted(values, X):
    order = np.concatenate([RANDOM.permutation(K), np.arange(K, N)])
    return values[order], X[:, order] * RANDOM.choice([-1.0, 1.0], N)


def raises(error):
    def code(*_):
        raise error

    return code


class LostError(Exception):
    """A solver's own."""


UNFIT, INPUT = ie.EigensolverError, ie.InputError
RESIDUAL, SHAPES = r"pairs with A x = λ B x; got a residual", r"one column for each value; got shap"
TEXT, TUPLE = r"arrays of numbers; got an array of dtype", r"\(values, vectors\); got "
REAL, TWICE = r"must return real", r"independent vectors; got pairs 0 and 1"

HERMITIAN = {
    "well-behaved": Row(eigh),
    # wrong, or not those that were asked for
    "values shifted": Row(on_pairs(lambda v, X: (v + 1, X)), UNFIT, RESIDUAL),
    "values negated": Row(on_pairs(lambda v, X: (-v, X)), UNFIT, RESIDUAL),
    "values in another order": Row(on_pairs(lambda v, X: (v[::-1], X)), UNFIT, RESIDUAL),
    "vectors in rows": Row(on_pairs(lambda v, X: (v, X.T)), UNFIT, RESIDUAL),
    "few vectors in rows": Row(on_pairs(lambda v, X: (v[:K], X[:, :K].T)), UNFIT, "Transpose the"),
    "of an older matrix": Row(lambda A: OLD, UNFIT, RESIDUAL),
    "the matrix itself": Row(lambda A: (dense(A).diagonal(), dense(A)), UNFIT, RESIDUAL),
    "one pair twice": Row(on_pairs(lambda v, X: (v[[0, 0]], X[:, [0, 0]])), UNFIT, TWICE),
    "and with another sign": Row(
        on_pairs(lambda v, X: (v[[0, 0]], X[:, [0, 0]] * [1, -1])), UNFIT, TWICE
    ),
    "and nearly": Row(
        on_pairs(lambda v, X: (v[[0, 0]], X[:, [0, 0]] + 1e-9 * X[:, [0, 1]])), UNFIT, TWICE
    ),
    "NaN": Row(on_pairs(lambda v, X: (v, entry(X, (0, 1), np.nan))), UNFIT, "NaN or inf in pair 1"),
    "inf": Row(on_pairs(lambda v, X: (entry(v, 0, np.inf), X)), UNFIT, "NaN or inf in pair 0"),
    "a vector of zeros": Row(
        on_pairs(lambda v, X: (v, X * (np.arange(N) != 1))), UNFIT, "got none for pair 1"
    ),
    "too few": Row(on_pairs(lambda v, X: (v[:1], X[:, :1])), UNFIT, "at least k = 2 pairs; got 1"),
    "fewer columns than values": Row(on_pairs(lambda v, X: (v[:4], X[:, :K])), UNFIT, SHAPES),
    "a vector alone": Row(on_pairs(lambda v, X: (v[:1], X[:, 0])), UNFIT, SHAPES),
    "vectors first": Row(on_pairs(lambda v, X: (X, v)), UNFIT, SHAPES),
    "an equal value beyond k": Row(
        on_pairs(lambda v, X: (entry(v, slice(2, None), v[1]), X)), UNFIT, "k between clusters"
    ),
    # of another type
    "None": Row(lambda A: None, UNFIT, TUPLE + "NoneType"),
    "a dictionary": Row(on_pairs(lambda v, X: {"values": v}), UNFIT, TUPLE + "dict"),
    "a generator": Row(lambda A: (part for part in eigh(A)), UNFIT, TUPLE + "generator"),
    "an array": Row(on_pairs(lambda v, X: X), UNFIT, TUPLE + "ndarray"),
    "four arrays": Row(on_pairs(lambda v, X: (v, X, X, X)), UNFIT, TUPLE + "a tuple of 4"),
    "SciPy's info": Row(on_pairs(lambda v, X: (v, X, 0)), UNFIT, SHAPES),
    "two times None": Row(lambda A: (None, None), UNFIT, TEXT + " object"),
    "text": Row(on_pairs(lambda v, X: (v.astype(str), X)), UNFIT, TEXT + " <U"),
    "objects": Row(on_pairs(lambda v, X: (v, X.astype(object))), UNFIT, TEXT + " object"),
    "dates": Row(on_pairs(lambda v, X: (v.astype("M8[s]"), X)), UNFIT, TEXT + " datetime64"),
    "sparse vectors": Row(on_pairs(lambda v, X: (v, sp.csr_array(X))), UNFIT, TEXT + " object"),
    "ragged lists": Row(lambda A: ([1.0], [[1.0], [1.0, 2.0]]), ValueError, "inhomogeneous"),
    "complex": Row(on_pairs(lambda v, X: (v, X * np.exp(1j))), UNFIT, REAL + " vectors"),
    "complex values": Row(on_pairs(lambda v, X: (v + 1e-3j, X)), UNFIT, REAL + " values"),
    "float32": Row(on_pairs(lambda v, X: (v, X.astype(np.float32))), UNFIT, RESIDUAL),
    "float16": Row(on_pairs(lambda v, X: (v.astype(np.float16), X + 1e-4)), UNFIT, RESIDUAL),
    "arrays of JAX": Row(on_pairs(lambda v, X: (jnp.asarray(v), X)), INPUT, "by `traceable`"),
    # that ends otherwise
    "a ValueError": Row(raises(ValueError("lost it")), ValueError, "lost it"),
    "an error of its own": Row(raises(LostError("lost it")), LostError, "lost it"),
    "out of memory": Row(raises(MemoryError("no room")), MemoryError, "no room"),
    "StopIteration": Row(raises(StopIteration("no more")), StopIteration, "no more"),
    "sys.exit": Row(lambda A: sys.exit("goodbye"), SystemExit, "goodbye"),
    # right, although it looks wrong
    "in random order and sign": Row(on_pairs(permuted)),
    "in another order": Row(on_pairs(lambda v, X: (v[[1, 0]], X[:, [1, 0]]))),
    "of any norm": Row(on_pairs(lambda v, X: (v, X * [1e-200, 1e200, 1, 1, 1, 1]))),
    "of largest component 1": Row(on_pairs(lambda v, X: (v, X / np.abs(X).max(axis=0)))),
    "imaginary parts of rounding": Row(on_pairs(lambda v, X: (v + 1e-12j, X * (1 + 1e-17j)))),
    "NaN beyond k": Row(on_pairs(lambda v, X: (entry(v, slice(2, None), np.nan), X))),
    "extended precision": Row(on_pairs(lambda v, X: (v.astype(np.longdouble), X))),
    "integers": Row(on_pairs(lambda v, X: (v.round().astype(int), X))),
    "lists": Row(on_pairs(lambda v, X: (v.tolist(), X.tolist()))),
    "masked arrays": Row(on_pairs(lambda v, X: (v, np.ma.masked_array(X, mask=X > 0)))),
    "Fortran order, read-only": Row(
        on_pairs(lambda v, X: (v, np.frombuffer(X.T.tobytes()).reshape(N, N).T))
    ),
    "the other byte order": Row(on_pairs(lambda v, X: (v.astype(">f8"), X.astype(">f8")))),
    "a buffer used again": Row(in_place(in_a_buffer)),
    "overwrites its input": Row(in_place(lambda A, v, X: times(A, 0) or (v, X))),
    "overwrites it with LAPACK": Row(lambda A: sla.eigh(dense(A), overwrite_a=True)),
}


def eig(A):
    """Those of largest imaginary part first; with left eigenvectors."""
    values, Y, X = sla.eig(A, left=True)
    order = np.argsort(-values.imag, kind="stable")
    return values[order], X[:, order], Y[:, order]


def on_eig(change):
    return lambda A: change(*eig(A))


LEFT = r"yᴴ T\(λ\) of a left vector"

GENERAL = {
    "well-behaved": Row(eig),
    "left vectors in another order": Row(
        on_eig(lambda v, X, Y: (v, X, Y[:, [1, 0, 2, 3, 4, 5]])), UNFIT, LEFT
    ),
    "their conjugates": Row(on_eig(lambda v, X, Y: (v, X, Y.conj())), UNFIT, LEFT),
    "right vectors for left ones": Row(on_eig(lambda v, X, Y: (v, X, X)), UNFIT, LEFT),
    "left vectors nearly": Row(on_eig(lambda v, X, Y: (v, X, Y + 1e-5 * X)), UNFIT, LEFT),
    "left vectors in rows": Row(
        on_eig(lambda v, X, Y: (v[:2], X[:, :2], Y[:, :2].T)), UNFIT, SHAPES
    ),
    "left vectors of NaN": Row(on_eig(lambda v, X, Y: (v, X, np.nan * Y)), UNFIT, "finite pairs"),
    "left vectors None": Row(on_eig(lambda v, X, Y: (v, X, None)), UNFIT, TEXT + " object"),
    "conjugate values": Row(on_eig(lambda v, X, Y: (v.conj(), X)), UNFIT, r"T\(λ\) x. = "),
    "real parts": Row(on_eig(lambda v, X, Y: (v.real, X.real)), UNFIT, r"T\(λ\) x. = "),
    "values nearly": Row(on_eig(lambda v, X, Y: (v + 1e-7, X)), UNFIT, r"T\(λ\) x. = "),
    "one pair twice": Row(
        on_eig(lambda v, X, Y: (v[[0, 0]], X[:, [0, 0]])), UNFIT, "pairs 0 and 1"
    ),
    "no left vectors": Row(on_eig(lambda v, X, Y: (v, X))),
    "left vectors of any norm": Row(on_eig(lambda v, X, Y: (v, X, (3 - 2j) * Y))),
    "one left vector missing": Row(on_eig(lambda v, X, Y: (v, X, Y * (np.arange(N) != 1)))),
    "in another order": Row(on_eig(lambda v, X, Y: (v[[1, 0]], X[:, [1, 0]], Y[:, [1, 0]]))),
}


def svd(A):
    U, sigma, Vh = np.linalg.svd(A)
    return sigma, Vh.T, U


def on_svd(change):
    return lambda A: change(*svd(A))


TRIPLETS = r"triplets with A v = σ u"

SINGULAR = {
    "well-behaved": Row(svd),
    "as SciPy returns them": Row(np.linalg.svd, UNFIT, SHAPES),
    "Vᴴ for V": Row(on_svd(lambda s, V, U: (s, V.T, U)), UNFIT, TRIPLETS),
    "U and V exchanged": Row(on_svd(lambda s, V, U: (s, U, V)), UNFIT, TRIPLETS),
    "U in another order": Row(on_svd(lambda s, V, U: (s, V, U[:, ::-1])), UNFIT, TRIPLETS),
    "eigenvalues of AᵀA": Row(on_svd(lambda s, V, U: (s**2, V)), UNFIT, TRIPLETS),
    "negative values": Row(on_svd(lambda s, V, U: (-s, V, -U)), UNFIT, "positive singular values"),
    "U of another sign": Row(
        on_svd(lambda s, V, U: (s, V, -U)), UNFIT, "left vectors of the phase"
    ),
    "U and V of another sign": Row(on_svd(lambda s, V, U: (s, -V, -U))),
    "no U": Row(on_svd(lambda s, V, U: (s, V))),
}

LU = lambda A, b: np.linalg.solve(dense(A), b)


def off_by(error):
    """The solution with a relative residual of this size."""

    def solve(A, b):
        r = np.roll(b, 1) + 1e-3
        return LU(A, b + error * np.linalg.norm(b) / np.linalg.norm(r) * r)

    return solve


def remembering(code):
    """`code(memory, A, b)`, where `memory` is that of all systems of this size."""
    memory = {}
    return lambda A, b: code(memory.setdefault(b.size, {}), dense(A), b)


def forgets_to_transpose(memory, A, b):
    first = memory.setdefault("A", A)
    return LU(A if np.allclose(A, first) else A.T, b)


def in_one_buffer(memory, A, b):
    x = memory.setdefault("x", np.empty_like(b))
    x[:] = LU(A, b)
    return x


def a_step_behind(memory, A, b):
    before = memory.get("x", 0 * b)
    memory["x"] = LU(A, b)
    return before


UNSOLVED, SHAPE = r"relative residual of 1.0e-05; got ", r"a solution of shape \(.*\); got "

LINEAR = {
    "well-behaved": Row(LU),
    "zeros": Row(lambda A, b: 0 * b, RuntimeError, UNSOLVED + "1.0e.00"),
    "NaN": Row(lambda A, b: np.nan * b, RuntimeError, "got nan .* divided by zero"),
    "inf": Row(lambda A, b: np.full_like(b, np.inf), RuntimeError, "got nan .* divided by zero"),
    "b": Row(lambda A, b: b, RuntimeError, UNSOLVED),
    "random": Row(lambda A, b: RANDOM.standard_normal(b.shape), RuntimeError, UNSOLVED),
    "of the call before": Row(remembering(a_step_behind), RuntimeError, UNSOLVED),
    "never the transpose": Row(remembering(forgets_to_transpose), RuntimeError, UNSOLVED),
    "always the transpose": Row(lambda A, b: LU(dense(A).T, b), RuntimeError, UNSOLVED),
    "an error of 9e-5": Row(off_by(9e-5), RuntimeError, UNSOLVED + "9.0e-05"),
    "and of 2e-5": Row(off_by(2e-5), RuntimeError, UNSOLVED + "2.0e-05"),
    "a failure reported": Row(lambda A, b: (0 * b, -1), RuntimeError, "breakdown"),
    "None": Row(lambda A, b: None, RuntimeError, SHAPE + "NoneType"),
    "a dictionary": Row(lambda A, b: {"x": b}, RuntimeError, SHAPE + "dict"),
    "a generator": Row(lambda A, b: (x for x in b), RuntimeError, SHAPE + "generator"),
    "three parts": Row(lambda A, b: (b, 0, 0), RuntimeError, SHAPE + "tuple"),
    "text": Row(lambda A, b: LU(A, b).astype(str), RuntimeError, SHAPE + "ndarray of <U"),
    "objects": Row(lambda A, b: LU(A, b).astype(object), RuntimeError, SHAPE + "ndarray of object"),
    "too short": Row(lambda A, b: LU(A, b)[:-1], RuntimeError, SHAPE + r"\("),
    "a column": Row(lambda A, b: LU(A, b)[:, None], RuntimeError, SHAPE + r"\(.*, 1\)"),
    "a number": Row(lambda A, b: 0.0, RuntimeError, SHAPE + r"\(\)"),
    "arrays of JAX": Row(lambda A, b: jnp.asarray(b), RuntimeError, "a call of JAX"),
    "an exception": Row(raises(LostError("lost it")), RuntimeError, "LostError: lost it"),
    "sys.exit": Row(lambda A, b: sys.exit("goodbye"), RuntimeError, "SystemExit: goodbye"),
    "a success reported as a failure": Row(lambda A, b: (LU(A, b), 7)),
    "a list": Row(lambda A, b: LU(A, b).tolist()),
    "a buffer used again": Row(remembering(in_one_buffer)),
    "overwrites b": Row(lambda A, b: (LU(A, b), times(b, 0))[0]),
    "returns b, overwritten": Row(lambda A, b: entry(b, slice(None), LU(A, b))),
    "overwrites A": Row(lambda A, b: (LU(A, b), times(A, 0))[0]),
}


def of_pairs(solution):
    """A function of a complex solution that needs its vectors too, and no phase."""
    values, X = solution
    squares = (X * X.conj()).real
    return jnp.sum(jnp.sin(values.real) + values.imag**2 + (W @ squares) * values.real)


def of_triplets(solution):
    joined = jnp.sum(solution.left_vectors[0] * solution.vectors[1])
    return of_pairs(solution) + joined


FORWARD, INNER = Exchanged(), Exchanged(LU)
KINDS = {
    "Hermitian": (HERMITIAN, ie.Hermitian(K), of_pairs, A),
    "General": (GENERAL, ie.General(K), of_pairs, G),
    "Singular": (SINGULAR, ie.Singular(K), of_triplets, G),
}


def derivatives(kind, form=lambda A: A, **options):
    """A matrix -> the value, the gradient and a directional derivative."""
    _, problem, loss, _ = KINDS[kind]
    solve = ie.eigensolver(FORWARD, problem, **options)
    f = lambda A: loss(solve(form(A)))
    return lambda A: (*jax.value_and_grad(f)(A), jax.jvp(f, (A,), (D,))[1])


EAGER = {kind: derivatives(kind) for kind in KINDS}
JITTED = {kind: jax.jit(derivatives(kind)) for kind in KINDS}
SPARSE = jax.jit(
    derivatives("Hermitian", lambda A: sparse((A + A.T) / 2), linear_solver=ie.ShiftInvert())
)
BY_INNER = {
    kind: jax.jit(derivatives(kind, linear_solver=ie.host_linear_solver(INNER)))
    for kind in ("Hermitian", "General")
}


def run(program, kind, code):
    """The result of the program for this solver; an error is raised."""
    FORWARD.now = code
    return jax.block_until_ready(program(KINDS[kind][3]))


@pytest.fixture(scope="module")
def expected():
    """The numbers of the well-behaved solver, that finite differences confirm."""
    found = {}
    for kind, (rows, _, loss, matrix) in KINDS.items():
        value, gradient, slope = found[kind] = run(JITTED[kind], kind, rows["well-behaved"].code)
        solver, step = rows["well-behaved"].code, 1e-5

        def along(t, solver=solver, loss=loss, matrix=matrix):
            answer = solver(np.asarray(matrix + t * D))
            values, X, *left = (jnp.asarray(part[..., :K]) for part in answer)
            X = X / jnp.asarray(np.linalg.norm(X, axis=0)[None], X.dtype)
            return loss(ie.Solution(values, X, left[0] if left else None))

        difference = (along(step) - along(-step)) / (2 * step)
        assert abs(along(0.0) - value) < 1e-12
        assert abs(difference - slope) < 1e-7 * jnp.max(jnp.abs(gradient))
        assert abs(jnp.sum(gradient * D) - slope) < 1e-12 * jnp.max(jnp.abs(gradient))
    return found


ROUNDING = 1e4 * EPS[np.dtype(float)]


def agree(found, expected, tol=ROUNDING):
    for one, other in zip(found, expected, strict=True):
        assert jnp.max(jnp.abs(one - other)) < tol * jnp.max(jnp.abs(other))


# JAX's runtime delivers an error inside a program by one of these
OF_A_PROGRAM = (jax.errors.JaxRuntimeError, ValueError)


def judge(row, error, program, expected, **options):
    if row.error is None:
        return agree(program(), expected, **options)
    with pytest.raises(error, match=row.words):
        program()
    return None


# one program for all of them
@pytest.mark.filterwarnings("ignore:.*a deterministic solver:implicit_eig.GaugeWarning")
@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in KINDS for name in KINDS[kind][0]]
)
def test_forward_solver(kind, name, expected):
    row = KINDS[kind][0][name]
    if kind == "Hermitian":
        judge(row, row.error, lambda: run(EAGER[kind], kind, row.code), expected[kind])
    judge(row, OF_A_PROGRAM, lambda: run(JITTED[kind], kind, row.code), expected[kind])


@pytest.mark.parametrize("name", [name for name in HERMITIAN if "overwrites" in name])
def test_forward_solver_of_a_sparse_matrix(name, expected):
    agree(run(SPARSE, "Hermitian", HERMITIAN[name].code), expected["Hermitian"])


@pytest.mark.parametrize("name", LINEAR)
def test_linear_solver(name, expected):
    row = LINEAR[name]
    INNER.now = row.code
    # the matrix of a Hermitian problem is its own transpose
    kinds = ["General"] if "transpose" in name else ["Hermitian", "General"]
    for kind in kinds:
        solver = KINDS[kind][0]["well-behaved" if kind == "Hermitian" else "no left vectors"].code
        judge(row, OF_A_PROGRAM, lambda: run(BY_INNER[kind], kind, solver), expected[kind])  # noqa: B023


@pytest.mark.parametrize("error", [9e-7, 9e-6])
def test_an_accepted_error_is_the_error_of_a_gradient(error, expected):
    INNER.now = off_by(error)
    agree(run(BY_INNER["Hermitian"], "Hermitian", eigh), expected["Hermitian"], tol=10 * error)


def by_lu(matvec, b):
    return jnp.linalg.solve(jax.vmap(matvec)(jnp.eye(len(b))).T, b)


TRACED = {
    "well-behaved": Row(by_lu),
    "zeros": Row(lambda matvec, b: 0 * b, RuntimeError, UNSOLVED + "1.0e.00"),
    "not linear": Row(lambda matvec, b: by_lu(matvec, b) + 1e-3 * b**2, RuntimeError, UNSOLVED),
    "None": Row(lambda matvec, b: None, INPUT, SHAPE + "NoneType"),
    "a list": Row(lambda matvec, b: list(b), INPUT, SHAPE + "list"),
    "three parts": Row(lambda matvec, b: (b, 0, 0), INPUT, SHAPE + "tuple"),
    "too short": Row(lambda matvec, b: b[:-1], INPUT, SHAPE + r"\(5,\)"),
    "host code": Row(lambda matvec, b: np.asarray(b), INPUT, "Wrap host code .* `host_linear_solv"),
    "an exception": Row(raises(LostError("lost it")), LostError, "lost it"),
    "integers": Row(lambda matvec, b: jnp.zeros(N, int), RuntimeError, UNSOLVED),
    "a success reported as a failure": Row(lambda matvec, b: (by_lu(matvec, b), 7)),
}


@pytest.mark.parametrize("name", TRACED)
def test_function_as_linear_solver(name, expected):
    row = TRACED[name]
    program = jax.jit(derivatives("Hermitian", linear_solver=row.code))
    error = OF_A_PROGRAM if row.error is RuntimeError else row.error
    judge(row, error, lambda: run(program, "Hermitian", eigh), expected["Hermitian"])


def test_float32_of_a_function_is_judged_by_its_residual(expected):
    single = lambda matvec, b: by_lu(matvec, b).astype(jnp.float32)
    program = jax.jit(derivatives("Hermitian", linear_solver=single))
    agree(run(program, "Hermitian", eigh), expected["Hermitian"], tol=EPS[np.dtype(np.float32)])
