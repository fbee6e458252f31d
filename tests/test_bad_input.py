"""Every mistake of a user gets a sentence that helps."""

import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
from problems import EPS, eigh, random_definite, random_hermitian

import implicit_eig as ie

A, B = random_hermitian(6, seed=0), random_definite(6, seed=1)


def solve(*operators, k=2):
    return ie.eigensolver(eigh, ie.Hermitian(k))(*operators)


CASES = {
    "non-square": (lambda: solve(A[:, :5]), r"a square operator; got shape \(6, 5\)"),
    "non-square B": (lambda: solve(A, B[:5]), r"`solve\(B=...\)`: a square operator"),
    "sizes": (lambda: solve(A, B[:5, :5]), r"operators of one size; got n = 6 and 5"),
    "k > n": (lambda: solve(A, k=7), r"at most n pairs; got n = 6"),
    "integers": (lambda: solve(jnp.eye(6, dtype=int)), r"floating-point entries; got int64"),
    "integers in NumPy": (lambda: solve(np.eye(6, dtype=int)), r"`A.astype\(float\)`"),
    "integers in SciPy": (lambda: solve(sp.eye(6, dtype=int)), r"floating-point entries; got int"),
    "empty": (lambda: solve(jnp.zeros((0, 0))), r"at least one row and column; got an empty"),
    "empty sparse": (
        lambda: solve(ie.SparseOperator(jnp.zeros(0), np.zeros(0, int), np.zeros(0, int), (0, 0))),
        r"got an empty operator",
    ),
    "vector": (lambda: solve(jnp.ones(6)), r"a matrix; got an array of shape \(6,\)"),
    "stack": (lambda: solve(jnp.ones((2, 6, 6))), r"Use `jax.vmap` for a stack"),
    "list": (lambda: solve([[1.0]]), r"got list. Wrap a function"),
    "function": (lambda: solve(lambda v: v), r"Wrap a function v -> A v"),
    "three": (lambda: solve(A, B, B), r"one operator A, or two, A and B; got 3"),
    "none": (lambda: solve(), r"one operator A, or two, A and B; got 0"),
    "k = 0": (lambda: ie.Hermitian(0), r"a positive number of pairs; got 0"),
    "tolerance": (lambda: ie.Policy(residual_rtol=-1.0), r"a number at or above 0; got -1.0"),
    "lengths": (
        lambda: ie.SparseOperator(jnp.ones(3), [0, 1], [0, 1], (2, 2)),
        r"three vectors of one length",
    ),
    "index": (
        lambda: ie.SparseOperator(jnp.ones(2), [0, 2], [0, 1], (2, 2)),
        r"indices in \[0, 2\); got \[0, 2\]",
    ),
    "half precision": (
        lambda: solve(A.astype(jnp.float16)),
        r"in single or double precision; got float16. Convert it, `A.astype\(np.float64\)`",
    ),
    "long double": (lambda: solve(np.asarray(A, np.longdouble)), r"double precision; got float128"),
    "long double in SciPy": (
        lambda: solve(sp.csr_array(np.asarray(A, np.longdouble))),
        r"double precision; got float128",
    ),
    "half precision in lineax": (
        lambda: solve(lx.MatrixLinearOperator(A.astype(jnp.float16))),
        r"in single or double precision; got float16",
    ),
    "masked": (
        lambda: solve(np.ma.masked_array(A, np.asarray(A) > 1)),
        r"entries without a mask; got a masked array. Fill it, `A.filled\(0\)`",
    ),
    "sparse vector": (
        lambda: solve(sp.coo_array(np.ones(3))),
        r"a matrix; got a sparse array of shape \(3,\)",
    ),
    "negative index": (
        lambda: ie.SparseOperator(jnp.ones(2), [0, 1], [-1, 1], (2, 2)),
        r"`SparseOperator\(cols=...\)`: indices in \[0, 2\)",
    ),
    "float index": (
        lambda: ie.SparseOperator(jnp.ones(2), [0.0, 1.0], [0, 1], (2, 2)),
        r"`SparseOperator\(rows=...\)`: integers; got float64",
    ),
    "integer data": (
        lambda: ie.SparseOperator(jnp.ones(2, int), [0, 1], [0, 1], (2, 2)),
        r"`SparseOperator\(data=...\)`: real or complex",
    ),
    "batched BCOO": (
        lambda: ie.SparseOperator.from_bcoo(
            jax.experimental.sparse.BCOO.fromdense(jnp.ones((2, 3, 3)), n_batch=1)
        ),
        r"two sparse dimensions, no batch",
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_message(name):
    call, match = CASES[name]
    with pytest.raises(ie.InputError, match=match):
        call()


NOT_HERMITIAN = {
    "dense": lambda M: M,
    "sparse": lambda M: ie.SparseOperator.from_scipy(sp.csr_matrix(np.asarray(M))),
    "function": lambda M: lx.FunctionLinearOperator(
        lambda x: M @ x, jax.ShapeDtypeStruct((6,), M.dtype)
    ),
}


@pytest.mark.parametrize("form", list(NOT_HERMITIAN))
@pytest.mark.parametrize("dtype", [np.float64, np.complex128, np.float32])
def test_not_hermitian(form, dtype):
    M = random_hermitian(6, dtype, 0).at[0, 1].add(1e-2)
    with pytest.raises(ie.EigensolverError, match=r"A equal to its conjugate transpose; got"):
        solve(NOT_HERMITIAN[form](M))
    with pytest.raises(ie.EigensolverError, match=r"B equal to its conjugate transpose"):
        solve(random_hermitian(6, dtype), NOT_HERMITIAN[form](M + 3 * jnp.eye(6, dtype=dtype)))
    f = jax.jit(lambda M: solve(NOT_HERMITIAN["dense"](M)).values)
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"A equal to its conjugate transpose"):
        jax.block_until_ready(f(M))


def test_complex_symmetric_is_not_hermitian():
    with pytest.raises(ie.EigensolverError, match=r"declare the problem that it is"):
        solve((1 + 1j) * A.astype(complex))


def test_hermitian_to_rounding_passes():
    noise = 1e-16 * np.random.default_rng(0).standard_normal((6, 6))
    assert bool(jnp.all(jnp.isfinite(solve(A + noise).values)))


def test_indefinite_b():
    with pytest.raises(ie.EigensolverError, match=r"B positive definite; got vᴴBv = -"):
        solve(A, -B)


BOTH_WAYS = r"A is definite, as in buckling, solve B x = μ A x, where λ = 1/μ; else .* `General`"


def test_both_ways_out_of_an_indefinite_b():
    with pytest.raises(ie.EigensolverError, match=BOTH_WAYS):
        solve(A, -B)
    # nothing of the operators shows it, but a vector does: positive for most v, or singular
    for smallest in (-1e-3, 0.0):
        indefinite = jnp.diag(jnp.asarray([smallest, 1.0, 1.0, 1.0, 1.0, 1.0]))
        first = lambda *_: (np.ones(2), np.eye(6)[:, :2])
        with pytest.raises(ie.EigensolverError, match=BOTH_WAYS):
            ie.eigensolver(first, ie.Hermitian(2))(A, indefinite)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_either_way_out_has_the_derivatives_of_a_buckling_problem(transform):
    """K x = λ G x with an indefinite G: its smallest positive value is 1/μ of G x = μ K x."""
    K_, G = B, jnp.diag(jnp.asarray([-2.0, -1.0, 0.0, 1.0, 2.0, 4.0])) + 0.1 * A

    def smallest_positive(K_, G):
        values, X = scipy.linalg.eig(K_, G)
        i = [int(np.argmin(np.where(values.real > 0, values.real, np.inf)))]
        return values[i], X[:, i]

    last = lambda G, K_: tuple(part[..., [-1]] for part in eigh(G, K_))
    reciprocal = ie.eigensolver(last, ie.Hermitian(1))
    general = ie.eigensolver(smallest_positive, ie.General(1))
    one = jax.grad(lambda K_, G: 1 / reciprocal(G, K_).values[0], (0, 1))
    other = jax.grad(lambda K_, G: general(K_, G).values[0].real, (0, 1))
    for found, expected in zip(transform(one)(K_, G), transform(other)(K_, G), strict=True):
        size = jnp.max(jnp.abs(expected))
        assert jnp.max(jnp.abs(found - (expected + expected.T) / 2)) < 1e3 * EPS[A.dtype] * size


def test_nan_in_the_operator():
    with pytest.raises(ie.EigensolverError, match=r"finite entries; got NaN or inf"):
        solve(A.at[2, 2].set(jnp.nan))


WRONG_TYPES = {
    "Hermitian(2.0)": r"a positive number of pairs; got 2.0",
    "eigensolver(np.linalg.eigh(np.eye(2)), Hermitian(2))": r"Pass the function itself",
    "eigensolver(np.linalg.eigh, Hermitian)": r"`eigensolver\(problem=...\)`: an instance of Abs",
    "eigensolver(np.linalg.eigh, Hermitian(2), policy=ie.Action.RAISE)": r"Policy\(forward=",
    "eigensolver(np.linalg.eigh, Hermitian(2), system='bordered')": r"Formulation; got 'bordered'",
    "eigensolver(np.linalg.eigh, Hermitian(2), linear_solver='cg')": r"a function f\(matvec, b\)",
    "eigensolver(np.linalg.eigh, Hermitian(2), linear_solver=lx.CG)": r"Pass an object",
    "eigensolver(np.linalg.eigh, Hermitian(2), batched=1)": r"an instance of bool; got 1",
    "ie.Policy(gauge='ignore')": r"`Policy\(gauge=...\)`: an `Action`; got 'ignore'",
    "ie.Policy(residual_rtol='x')": r"a number at or above 0; got 'x'",
    "ie.implicit_function(np.sqrt, np.sqrt, conditions_derivative='fd')": r"`ReverseMode\(\)`; got",
    "ie.host_operator(None, 1.0, shape=(2, 2), dtype=float)": r"assemble=...\)`: a function; got",
    "ie.host_operator(max, 1.0, contract=1, shape=(2, 2), dtype=float)": r"contract=...\)`: a func",
    "ie.host_operator(max, 1.0, shape=(2,), dtype=float)": r"shape=...\)`: numbers of rows and col",
    "ie.host_operator(max, 1.0, shape=(2.0, 2), dtype=float)": r"shape=...\)`: numbers of rows and",
}


@pytest.fixture(scope="module")
def messages_without_type_checks():
    """Run the mistakes where no run-time type checker gets to see them first."""
    script = """
import json, sys
import lineax as lx, numpy as np, implicit_eig as ie
from implicit_eig import Hermitian, eigensolver
messages = {}
for code in json.load(sys.stdin):
    try:
        eval(code)
    except ie.InputError as error:
        messages[code] = str(error)
print(json.dumps(messages))
"""
    run = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(list(WRONG_TYPES)),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout)


@pytest.mark.parametrize("code", list(WRONG_TYPES))
def test_wrong_type(code, messages_without_type_checks):
    assert re.search(WRONG_TYPES[code], messages_without_type_checks[code])


def test_errors_are_of_the_package_and_of_python():
    assert issubclass(ie.InputError, ie.ImplicitEigError)
    assert issubclass(ie.InputError, ValueError)
    assert issubclass(ie.EigensolverError, RuntimeError)
    assert issubclass(ie.LinearSolveError, RuntimeError)


def test_either_byte_order_is_read():
    matrix = np.asarray(A)
    swapped = matrix.astype(matrix.dtype.newbyteorder())
    assert jnp.array_equal(solve(swapped).values, solve(matrix).values)
    assert jnp.array_equal(ie.SparseOperator(swapped[0], *[np.arange(6)] * 2, (6, 6)).data, A[0])


def test_an_integer_of_numpy_is_a_number_of_pairs():
    k = np.int64(2)
    kinds = (ie.Hermitian, ie.General, ie.Singular, ie.Subspace, ie.Polynomial)
    assert all(type(kind(k).k) is int for kind in kinds)
    assert type(ie.Nonlinear(lambda lam, x: x, k).k) is int
    assert type(ie.General(2, guard=k).guard) is int


def test_a_traced_index_outside_the_matrix_is_seen():
    one = ie.eigensolver(
        ie.traceable(lambda A: tuple(part[..., :1] for part in jnp.linalg.eigh(A.as_matrix()))),
        ie.Hermitian(1),
        policy=ie.Policy.nan(),
    )

    @jax.jit
    def smallest(rows):
        cols = jnp.arange(3)
        return one(ie.SparseOperator(jnp.array([1.0, 2.0, 3.0]), rows, cols, (3, 3))).values[0]

    assert smallest(jnp.arange(3)) == 1
    assert jnp.isnan(smallest(jnp.array([0, 1, -1])))  # which NumPy would take for the last
    assert jnp.isnan(smallest(jnp.array([0, 1, 3])))


def test_what_a_linear_solver_must_return():
    def gradient(linear_solver):
        found = ie.eigensolver(eigh, ie.Hermitian(2), linear_solver=linear_solver)
        return jax.grad(lambda A: jnp.sum(found(A).vectors[0] ** 4))(A)

    expected = gradient(None)
    by_lu = lambda matvec, b: jnp.linalg.solve(jax.vmap(matvec)(jnp.eye(len(b))).T, b)
    with pytest.raises(ie.InputError, match=r"a solution of shape \(6,\); got None"):
        gradient(lambda matvec, b: None)
    with pytest.raises(RuntimeError, match=r"got nan .* divided by zero"):
        gradient(lambda matvec, b: jnp.nan * b)
    for imaginary in (0.0, 1.0):  # of a real system; the real part is a solution, and judged
        found = gradient(lambda matvec, b, i=imaginary: jax.lax.complex(by_lu(matvec, b), i * b))
        assert jnp.max(jnp.abs(found - expected)) < 1e-12


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_operators_of_another_size(form):
    """A product with a sparse matrix would read what is not there, and be wrong."""
    other = NOT_HERMITIAN[form](random_definite(5, seed=1))
    solution = solve(A, B)
    with pytest.raises(
        ie.InputError, match=r"B of the pencil, of shape \(6, 6\); got shape \(5, 5"
    ):
        ie.matrix_function(solution, jnp.exp, other)
    with pytest.raises(ie.InputError, match=r"operator of 5 columns: .* got vectors of length 6"):
        ie.apply_projector(solution, jnp.ones(6), other)
    with pytest.raises(ie.InputError, match=r"operator of 5 columns: .* got vectors of length 6"):
        ie.Hermitian(2).residual(solution, other)
    if form == "sparse":
        with pytest.raises(
            ie.InputError, match=r"`A.mv\(x\)`: a vector of shape \(5,\); got shape"
        ):
            other.mv(jnp.ones(6))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_entries_near_the_largest_number(dtype):
    """Those that fit are solved; those that do not are said to overflow, not to be unsymmetric."""
    matrix, most = np.asarray(A) / np.max(np.abs(A)), float(np.finfo(dtype).max)
    small = most**0.9
    values = solve(jnp.asarray(matrix * small, dtype)).values
    assert np.allclose(np.asarray(values, float) / small, np.linalg.eigvalsh(matrix)[:2], rtol=1e-5)
    for size in (0.01 * most, 0.99 * most):
        with pytest.raises(ie.EigensolverError, match=r"scale (A|it)\."):
            solve(jnp.asarray(matrix * size, dtype))


def test_a_square_by_abs_has_another_second_derivative_at_a_complex_zero():
    """As the documentation says of JAX; when this fails, it need not say so any more."""
    second = lambda f: jax.grad(jax.grad(lambda t: f(t * (1 + 1j))))(0.0)
    assert second(lambda x: jnp.abs(x) ** 2) == 0
    assert second(lambda x: (x * x.conj()).real) == 4
