"""Sums, multiples and products of operators of known entries; mixed forms and dtypes."""

import itertools
import operator

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
from problems import (
    EPS,
    dense,
    eigh,
    grid_pencil,
    invariant_loss,
    jax_eigh,
    jitted,
    random_definite,
    random_hermitian,
    sparse,
)
from test_pairs import polyeig

import implicit_eig as ie
from implicit_eig.operators.packed import union

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]
N = 6


def random_sparse(dtype=np.float64, seed=0, shape=(N, N), density=0.4):
    """A SciPy matrix of small integers, of which sums and multiples by them are exact."""
    rng = np.random.default_rng(seed)
    entries = rng.integers(1, 9, shape) * (rng.random(shape) < density)
    if np.issubdtype(dtype, np.complexfloating):
        entries = entries * (1 + 1j * rng.integers(1, 9, shape))
    return sp.csr_matrix(entries.astype(dtype))


def as_sparse(matrix):
    return ie.SparseOperator.from_scipy(matrix)


EXPRESSIONS = {
    "A + B": lambda A, B, t: A + B,
    "A - B": lambda A, B, t: A - B,
    "-A": lambda A, B, t: -A,
    "t * A": lambda A, B, t: t * A,
    "A * t": lambda A, B, t: A * t,
    "A / t": lambda A, B, t: A / t,
    "A + t * A": lambda A, B, t: A + t * A,
    "A - t * B / 4": lambda A, B, t: A - t * B / 4,
    "A.T - 2 * B": lambda A, B, t: A.T - 2 * B,
    "sum": lambda A, B, t: sum([A, B, A]),
}


@pytest.mark.parametrize("name", list(EXPRESSIONS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_expressions_are_sparse(name, dtype):
    A, B = random_sparse(dtype, 0), random_sparse(dtype, 1)
    expected = EXPRESSIONS[name](A.toarray(), B.toarray(), 0.5)
    f = lambda t: EXPRESSIONS[name](as_sparse(A), as_sparse(B), t)
    for found in (f(0.5), jax.jit(f)(jnp.asarray(0.5, dtype))):
        assert type(found) is ie.SparseOperator
        assert found.pattern is not None
        assert found.data.dtype == dtype
        assert jnp.array_equal(found.as_matrix(), expected)


@pytest.mark.parametrize("traced", [False, True])
def test_patterns_are_united(traced):
    """No place is kept twice, and what adds nothing new changes no structure; traced ones join."""
    A, B = random_sparse(seed=0), random_sparse(seed=1)

    def f(places):
        rows, cols = places if traced else A.nonzero()
        return ie.SparseOperator(jnp.asarray(A.data), rows, cols, A.shape) + as_sparse(B)

    places = tuple(map(jnp.asarray, A.nonzero()))
    found = jax.jit(f)(places)
    assert jnp.array_equal(found.as_matrix(), A.toarray() + B.toarray())
    if traced:
        assert found.data.size == A.nnz + B.nnz
        return
    assert found.data.size == ((A != 0) + (B != 0)).nnz
    assert (found + as_sparse(B)).pattern == found.pattern
    last = jax.lax.fori_loop(0, 3, lambda _, S: S + as_sparse(B), found)
    assert jnp.array_equal(last.as_matrix(), A.toarray() + 4 * B.toarray())


@pytest.mark.parametrize("dtype", DTYPES)
def test_derivatives_of_expressions(dtype):
    """By the number, the entries, in both modes, under `jit` and `vmap`, against dense arrays."""
    A, B = random_sparse(dtype, 0), random_sparse(dtype, 1)
    real = np.finfo(dtype).dtype
    x = jnp.asarray(np.random.default_rng(2).standard_normal((N, 3)), dtype)

    def f(data, t, form):
        K = ie.SparseOperator(data, *A.nonzero(), A.shape)
        M = as_sparse(B)
        K, M = (K, M) if form == "sparse" else (K.as_matrix(), M.as_matrix())
        return jnp.sum(jnp.abs((K - t.astype(dtype) * M / 2) @ x) ** 2)

    data, t = jnp.asarray(A.data), jnp.asarray(0.7, real)
    ts = jnp.asarray([0.1, 0.7], real)
    sparsely, densely = (lambda *args, form=form: f(*args, form) for form in ("sparse", "dense"))
    found, expected, (_, push), mapped, mapped_densely = jitted(
        jax.grad(sparsely, (0, 1)),
        jax.grad(densely, (0, 1)),
        lambda *args: jax.jvp(sparsely, args, args),
        lambda data, t: jax.vmap(lambda t: sparsely(data, t))(ts),
        lambda data, t: jax.vmap(lambda t: densely(data, t))(ts),
    )(data, t)
    tol = 100 * EPS[np.dtype(dtype)]
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert jnp.max(jnp.abs(a - b)) < tol * jnp.max(jnp.abs(b))
    pulled = jnp.sum(expected[0] * data).real + expected[1] * t
    size = jnp.sum(jnp.abs(expected[0] * data)) + jnp.abs(expected[1])
    assert abs(push - pulled) < tol * size
    assert np.allclose(mapped, mapped_densely, rtol=tol)


NUMBERS = {
    "Python": 2.0,
    "integer": 2,
    "NumPy": np.float64(2),
    "NumPy array": np.array(2.0),
    "JAX": jnp.array(2.0),
}


@pytest.mark.parametrize("name", list(NUMBERS))
def test_numbers_on_either_side(name):
    A, t = random_sparse(), NUMBERS[name]
    for found in (t * as_sparse(A), as_sparse(A) * t, (4 * as_sparse(A)) / t):
        assert type(found) is ie.SparseOperator
        assert jnp.array_equal(found.as_matrix(), 2 * A.toarray())


def test_dtypes_of_expressions_are_those_of_arrays():
    A = as_sparse(random_sparse(np.float32))
    with jax.numpy_dtype_promotion("standard"):
        for t in (2, 2.0, np.float64(2), 2j, np.complex64(2j)):
            assert (t * A).data.dtype == (t * A.data).dtype
        both = A + as_sparse(random_sparse(np.complex128, 1))
        assert both.data.dtype == np.complex128
        x = jnp.ones((N, 2), np.complex64)
        assert (A @ x).dtype == np.complex64
        # and the gradient is real again
        f = lambda data: jnp.sum(jnp.abs(A.with_data(data) @ (1j * x)) ** 2)
        g = lambda data: jnp.sum(jnp.abs(A.with_data(data).as_matrix() @ (1j * x)) ** 2)
        expected = jax.grad(g)(A.data)
        assert jax.grad(f)(A.data).dtype == np.float32
        assert jnp.allclose(jax.grad(f)(A.data), expected, rtol=100 * EPS[np.dtype(np.float32)])
    with pytest.raises(Exception, match="promotion"):
        np.float64(2) * A


@pytest.mark.parametrize("convert", [sp.csr_matrix, sp.csr_array, sp.coo_array, sp.dia_array])
def test_scipy_on_either_side(convert):
    A, B = random_sparse(seed=0), random_sparse(seed=1)
    K, M = as_sparse(A), convert(B)
    for op in (operator.add, operator.sub):
        for found, expected in ((op(K, M), op(A, B)), (op(M, K), op(B, A))):
            assert type(found) is ie.SparseOperator
            assert jnp.array_equal(found.as_matrix(), expected.toarray())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("traced", [False, True])
def test_product_with_an_array(dtype, traced):
    rng = np.random.default_rng(3)
    A = random_sparse(dtype, shape=(4, 5))
    x, y = (jnp.asarray(rng.standard_normal((n, 3)), dtype) for n in (5, 4))

    def products(places, x, y):
        rows, cols = places if traced else A.nonzero()
        S = ie.SparseOperator(jnp.asarray(A.data), rows, cols, A.shape)
        return S @ x, S @ x[:, 0], S.T @ y

    Ax, Ax_0, ATy = jax.jit(products)(tuple(map(jnp.asarray, A.nonzero())), x, y)
    tol = 100 * EPS[np.dtype(dtype)] * np.abs(A.toarray()).sum()
    assert jnp.max(jnp.abs(Ax - A.toarray() @ x)) < tol
    assert jnp.max(jnp.abs(Ax_0 - Ax[:, 0])) < tol
    assert jnp.max(jnp.abs(jnp.sum(ATy * x) - jnp.sum(y * Ax))) < tol
    assert jnp.array_equal(as_sparse(A) @ np.asarray(x), as_sparse(A) @ x)


def test_transpose_keeps_the_pattern_known():
    S = as_sparse(random_sparse(shape=(4, 5)))
    for f in (lambda S: S.T, lambda S: lx.conj(S)):
        assert jax.jit(f)(S).pattern is not None


def test_composition_is_lineaxs():
    A, B = random_sparse(seed=0), random_sparse(seed=1)
    found = as_sparse(A) @ as_sparse(B)
    assert isinstance(found, lx.ComposedLinearOperator)
    assert jnp.allclose(found.as_matrix(), (A @ B).toarray())


S = as_sparse(random_sparse())
REFUSALS = {
    "vector as number": (lambda: jnp.ones(N) * S, r"`t \* A`: a number t; got shape \(6,\)"),
    "NumPy vector": (lambda: np.ones(N) * S, r"`t \* A`: a number t; got shape \(6,\)"),
    "operator as number": (lambda: S * S, r"a number t; got SparseOperator. Write `A @ x`"),
    "SciPy as number": (lambda: random_sparse() * S, r"a number t; got csr_matrix"),
    "division": (lambda: S / np.ones((N, N)), r"`A / t`: a number t; got shape \(6, 6\)"),
    "array as term": (lambda: S + np.ones((N, N)), r"beside a `SparseOperator`; got ndarray. Wrap"),
    "array on the left": (lambda: jnp.ones((N, N)) - S, r"Wrap an array in `lineax.MatrixLinear"),
    "number as term": (lambda: 1 + S, r"beside a `SparseOperator`; got int"),
    "shapes": (
        lambda: S + as_sparse(random_sparse(shape=(N, 5))),
        r"`A \+ B`: operators of one shape; got \(6, 6\) and \(6, 5\)",
    ),
    "length": (lambda: S @ jnp.ones(5), r"`A @ x`: an array of shape \(6,\) or \(6, k\).*\(5,\)"),
    "SciPy product": (lambda: S @ random_sparse(), r"or a lineax operator; got csr_matrix"),
}


@pytest.mark.parametrize("name", list(REFUSALS))
def test_refusals(name):
    call, match = REFUSALS[name]
    with pytest.raises(ie.InputError, match=match):
        call()


def matrix(S):
    return lx.MatrixLinearOperator(S.as_matrix())


def identity(S):
    return lx.IdentityLinearOperator(S.in_structure())


def function(S):
    return lx.FunctionLinearOperator(S.mv, S.in_structure())


# K stiffness, M diagonal mass; what the solver on the host is to receive
TREES = {
    "sparse": (lambda K, M, t: K + t * M, "csr"),
    "diagonal": (lambda K, M, t: t * lx.DiagonalLinearOperator(M.data) + K, "csr"),
    "identity": (lambda K, M, t: -(K / t - identity(K) * 3.0) * -1.0, "csr"),
    "tridiagonal": (
        lambda K, M, t: (
            K + lx.TridiagonalLinearOperator(t * M.data, 0.1 * M.data[1:], 0.1 * M.data[1:])
        ),
        "csr",
    ),
    "tagged": (
        lambda K, M, t: lx.TaggedLinearOperator(K / t, lx.symmetric_tag) - -(M * t),
        "csr",
    ),
    "one dense": (lambda K, M, t: matrix(K) * t + M, "dense"),
    "both dense": (lambda K, M, t: -(matrix(K) / t) - matrix(M), "dense"),
    "dense on the right": (lambda K, M, t: t * M + matrix(K), "dense"),
    "product": (lambda K, M, t: t * K + function(M), "function"),
    "product on the left": (lambda K, M, t: function(K) * t - M, "function"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TREES))
def test_lineax_expressions_reach_the_solver_by_their_entries(name):
    make, expected = TREES[name]
    seen = []

    def spy(A, B):
        kind = "csr" if sp.issparse(A) else "dense" if type(A) is np.ndarray else "function"
        seen.append(kind)
        return eigh(A, B)

    pencil, p = grid_pencil(4)
    loss = invariant_loss(2, 16)
    tree = lambda p, t: make(*pencil(p), t)
    f = lambda p, t: loss(*ie.eigensolver(spy, ie.Hermitian(2))(tree(p, t), pencil(p)[1]))
    g = lambda p, t: loss(*jax_eigh(tree(p, t).as_matrix(), pencil(p)[1].as_matrix()))
    t = jnp.array(1.3)
    found, wanted = jitted(jax.grad(f, (0, 1)), jax.grad(g, (0, 1)))(p, t)
    for a, b in zip(found, wanted, strict=True):
        assert jnp.max(jnp.abs(a - b)) < 1e-9 * jnp.max(jnp.abs(b))
    assert set(seen) == {expected}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sparse", "diagonal", "one dense"])
def test_shift_and_invert_on_expressions(name):
    pencil, p = grid_pencil(6)
    loss = invariant_loss(3, 36)
    solve = ie.eigensolver(ie.solvers.arpack(3, sigma=-1.0), ie.Hermitian(3))
    f = lambda t: loss(*solve(TREES[name][0](*pencil(p), t), pencil(p)[1]))
    g = lambda t: loss(
        *jax_eigh(TREES[name][0](*pencil(p), t).as_matrix(), pencil(p)[1].as_matrix())
    )
    t = jnp.array(1.3)
    *found, expected = jitted(jax.grad(f), lambda t: jax.jvp(f, (t,), (1.0,))[1], jax.grad(g))(t)
    for derivative in found:
        assert abs(derivative - expected) < 1e-8 * abs(expected)


def test_directional_derivatives_of_a_lineax_expression():
    """The tangent of t A is not the product of the tangents."""
    A = random_hermitian(5, seed=0)
    assemble = lambda t: lx.MatrixLinearOperator(A) * t
    primal, tangent = jax.jvp(assemble, (jnp.array(2.0),), (jnp.array(1.0),))
    solve = ie.eigensolver(np.linalg.eigh, ie.Hermitian(3))
    found = ie.directional_derivatives(solve, (primal,), (tangent,))
    assert jnp.max(jnp.abs(found - jnp.linalg.eigvalsh(A)[:3])) < 1e-12


FORMS = {"dense": lambda M: M, "sparse": sparse}
MIXED = [("sparse", "dense"), ("dense", "sparse")]
PAIRS = [
    (np.float64, np.complex128),
    (np.complex128, np.float64),
    (np.float32, np.float64),
    (np.float64, np.float32),
    (np.float64, np.complex64),
]


# each pair in two of the four combinations of forms, each combination with real and complex ones
PROMOTED = [
    (dtypes, forms)
    for i, dtypes in enumerate(PAIRS)
    for forms in ([("dense", "dense"), MIXED[0]], [("sparse", "sparse"), MIXED[1]])[i % 2]
]


@pytest.mark.slow
@pytest.mark.parametrize(("dtypes", "forms"), PROMOTED)
def test_dtypes_are_promoted(dtypes, forms):
    n, k = 6, 2
    A, B = random_hermitian(n, dtypes[0], 0), random_definite(n, dtypes[1], 1)
    loss = invariant_loss(k, n)
    solve = ie.eigensolver(eigh, ie.Hermitian(k))
    F, G = (FORMS[form] for form in forms)
    common = np.result_type(*dtypes)
    f = lambda A, B: loss(*solve(F(A), G(B)))
    hermitian = lambda M: (M + M.conj().T) / 2
    g = lambda A, B: loss(*jax_eigh(hermitian(A.astype(common)), hermitian(B.astype(common))))
    dots = random_hermitian(n, dtypes[0], 2), random_hermitian(n, dtypes[1], 3)
    derivatives = lambda f: lambda *P: (jax.grad(f, (0, 1))(*P), jax.jvp(f, P, dots)[1])
    solution, (found, push), (expected, expected_push) = jitted(
        lambda A, B: solve(F(A), G(B)), derivatives(f), derivatives(g)
    )(A, B)
    assert (solution.vectors.dtype, solution.values.dtype) == (common, np.finfo(common).dtype)
    for M, a, b in zip((A, B), found, expected, strict=True):
        assert a.dtype == M.dtype
        # the gradient of a sparse operator treats its entries as independent
        tol = 1e3 * max(EPS[M.dtype], EPS[np.dtype(common)])
        assert jnp.max(jnp.abs(hermitian(a - b))) < tol * jnp.max(jnp.abs(b))
    tol = 1e3 * max(EPS[A.dtype], EPS[B.dtype])
    assert abs(push - expected_push) < tol * (1 + abs(expected_push))


def eig(*operators):
    w, v = sla.eig(*map(dense, operators))
    order = np.argsort(np.abs(w))
    return w[order], v[:, order]


OTHERS = {
    "General": (eig, ie.General(2), 2),
    "Subspace": (eig, ie.Subspace(2), 2),
    "Polynomial": (polyeig, ie.Polynomial(2), 3),
}


def skewed(dtype, seed):
    return random_hermitian(6, dtype, seed) + jnp.asarray(np.diag(np.arange(2.0, 8.0)), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(OTHERS))
def test_dtypes_are_promoted_in_other_problems(name):
    solver, problem, count = OTHERS[name]
    solve = ie.eigensolver(solver, problem)
    dtypes = [np.float32, np.complex128, np.float64][:count]
    operators = [random_definite(6, d, i) for i, d in enumerate(dtypes)]
    operators[0] = skewed(np.float32, 5)
    f = lambda *ops: jnp.sum(solve(*map(sparse, ops)).values).real
    if name == "Subspace":
        f = lambda *ops: jnp.trace(solve(*map(sparse, ops)).values).real
    gradient = jax.jit(jax.grad(f, tuple(range(count))))
    found = gradient(*operators)
    expected = gradient(*(M.astype(np.complex128) for M in operators))
    for M, a, b in zip(operators, found, expected, strict=True):
        assert a.dtype == M.dtype
        b = (b if jnp.iscomplexobj(M) else b.real).astype(M.dtype)
        assert jnp.max(jnp.abs(a - b)) < 100 * EPS[M.dtype] * jnp.max(jnp.abs(b))


def test_each_operator_is_judged_by_the_rounding_of_its_own_dtype():
    A = random_hermitian(6, np.float32, 0)
    A = A.at[0, 1].multiply(1 + 4 * EPS[np.dtype(np.float32)])
    B = random_definite(6, np.float64, 1)
    solve = ie.eigensolver(eigh, ie.Hermitian(2))
    expected = solve(A.astype(np.float64) / 2 + A.astype(np.float64).T / 2, B).values
    assert jnp.allclose(solve(A, B).values, expected, rtol=1e-12)
    with pytest.raises(ie.EigensolverError, match="A equal to its conjugate transpose"):
        solve(A.astype(np.float64), B)


@pytest.mark.parametrize("problem", [ie.Hermitian(2), ie.General(2), ie.Subspace(2)])
def test_products_alone_are_not_promoted(problem):
    A, B = random_hermitian(6, np.float64, 0), random_definite(6, np.complex128, 1)
    solve = ie.eigensolver(eigh, problem)
    match = "one is known by its products alone; got one of float64 beside complex128"
    with pytest.raises(ie.InputError, match=match):
        solve(function(sparse(A)), B)
    # the operator of known entries gives way
    found = ie.eigensolver(eigh, ie.Hermitian(2))(A, function(sparse(B))).values
    assert jnp.allclose(found, jax_eigh(A.astype(complex), B)[0][:2], rtol=1e-12)


host = ie.host_linear_solver(lambda A, b: np.linalg.solve(dense(A), b))
SOLVERS = {
    "arpack": (ie.solvers.arpack(2), ie.Hermitian(2), {}),
    "arpack, sigma": (ie.solvers.arpack(2, sigma=-3.0), ie.Hermitian(2), {}),
    "LU": (eigh, ie.Hermitian(2), {"linear_solver": lx.LU()}),
    "ShiftInvert": (eigh, ie.Hermitian(2), {"linear_solver": ie.ShiftInvert()}),
    "MINRES": (eigh, ie.Hermitian(2), {"linear_solver": ie.MINRES()}),
    "host, deflated": (
        eigh,
        ie.Hermitian(2),
        {"linear_solver": host, "system": ie.Deflated()},
    ),
    "host, bordered": (
        eigh,
        ie.Hermitian(2),
        {"linear_solver": host, "system": ie.Bordered()},
    ),
    "general": (eig, ie.General(2), {}),
    "general, host": (eig, ie.General(2), {"linear_solver": host}),
    "arpack_general": (ie.solvers.arpack_general(2, which="SM"), ie.General(2), {}),
    "arpack_general, sigma": (
        ie.solvers.arpack_general(2, 0.01, left=True),
        ie.General(2),
        {},
    ),
    "subspace": (eig, ie.Subspace(2), {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SOLVERS))
def test_one_sparse_and_one_dense_operator(name):
    solver, problem, options = SOLVERS[name]
    n = 9
    A, B = skewed_pencil(n) if not isinstance(problem, ie.Hermitian) else hermitian_pencil(n)
    solve = ie.eigensolver(solver, problem, **options)

    def f(A, B, forms):
        solution = solve(*(FORMS[form](M) for form, M in zip(forms, (A, B), strict=True)))
        if isinstance(problem, ie.Subspace):
            return jnp.trace(solution.values).real
        weights = jnp.arange(1.0, n + 1)[:, None]
        return jnp.sum(weights * jnp.abs(solution.vectors) ** 2)

    gradient = lambda forms: jax.grad(lambda A, B: f(A, B, forms), (0, 1))
    *mixed, expected = jitted(*map(gradient, (*MIXED, ("dense", "dense"))))(A, B)
    symmetric = (lambda M: M + M.T) if isinstance(problem, ie.Hermitian) else lambda M: M
    for found in mixed:
        for a, b in zip(found, expected, strict=True):
            assert jnp.max(jnp.abs(symmetric(a - b))) < 1e-8 * jnp.max(jnp.abs(b))


def hermitian_pencil(n):
    return random_hermitian(n, seed=0), random_definite(n, seed=1)


def skewed_pencil(n):
    A, B = hermitian_pencil(n)
    return A + 0.2 * jnp.triu(jnp.ones((n, n))), B


@pytest.mark.parametrize("forms", MIXED)
def test_sparse_solvers_refuse_a_dense_operator_with_its_reason(forms):
    A, B = (FORMS[form](M) for form, M in zip(forms, skewed_pencil(6), strict=True))
    gradient = lambda A, B, **options: jax.jit(
        jax.grad(
            lambda s: jnp.sum(
                jnp.abs(ie.eigensolver(eig, ie.General(2), **options)(s * A, B).vectors[0])
            )
        )
    )(1.0)
    with pytest.raises(ie.InputError, match="or a Hermitian problem; got a dense operator"):
        gradient(A, B, linear_solver=ie.ShiftInvert())
    with pytest.raises(jax.errors.JaxRuntimeError, match="made of sparse operators alone; got nda"):
        jax.block_until_ready(gradient(A, B, linear_solver=ie.SparseDirect()))


def test_arpack_names_what_it_cannot_factorise():
    A, B = hermitian_pencil(9)
    solve = ie.eigensolver(ie.solvers.arpack(2, sigma=-3.0), ie.Hermitian(2))
    for given in (A, sparse(A)):
        with pytest.raises(Exception, match=r"of known entries.*got \w+ and \w*LinearOperator"):
            solve(given, function(sparse(B)))


def test_unions_are_kept():
    """The pattern of a sum is made once for all steps of an iteration."""
    A, B = as_sparse(random_sparse(seed=10)), as_sparse(random_sparse(seed=11))
    A + B
    before = union.cache_info()
    for t, _ in itertools.product((1.0, 2.0), range(2)):
        A + t * B
    after = union.cache_info()
    assert after.misses == before.misses
    assert after.hits == before.hits + 4
