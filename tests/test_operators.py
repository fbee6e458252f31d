"""Every form of operator gives one answer and one gradient, and none is ever made dense."""

import jax
import jax.extend
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp
from jax.experimental import sparse as jsparse
from problems import EPS, eigh, grid_pencil, invariant_loss, jitted

import implicit_eig as ie

pytestmark = pytest.mark.core


def as_function(operator):
    return lx.FunctionLinearOperator(operator.mv, operator.in_structure())


FORMS = {
    "dense": lambda S: S.as_matrix(),
    "sparse": lambda S: S,
    "bcoo": lambda S: jsparse.BCOO((S.data, jnp.stack([S.rows, S.cols], axis=1)), shape=S.shape),
    "bcsr": lambda S: jsparse.BCSR.from_bcoo(
        jsparse.BCOO((S.data, jnp.stack([S.rows, S.cols], axis=1)), shape=S.shape).sort_indices()
    ),
    "lineax matrix": lambda S: lx.MatrixLinearOperator(S.as_matrix()),
    "lineax tagged": lambda S: lx.TaggedLinearOperator(
        lx.MatrixLinearOperator(S.as_matrix()), lx.symmetric_tag
    ),
    "function": as_function,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "jit"), [*((form, True) for form in FORMS), ("sparse", False), ("function", False)]
)
def test_gradient_through_every_form(form, jit):
    pencil, p = grid_pencil(5)
    k, n = 3, 25
    loss = invariant_loss(k, n)
    solve = ie.eigensolver(eigh, ie.Hermitian(k))
    f = lambda p, make: loss(*solve(*map(make, pencil(p))))
    expected = jax.jit(lambda p: jax.grad(f)(p, FORMS["dense"]))(p)
    of_form = lambda p: f(p, FORMS[form])
    derivatives = lambda p: (jax.grad(of_form)(p), jax.jvp(of_form, (p,), (p,))[1])
    found, push = (jax.jit(derivatives) if jit else derivatives)(p)
    assert jnp.max(jnp.abs(found - expected)) < 1e-9 * jnp.max(jnp.abs(expected))
    assert abs(push - jnp.vdot(expected, p)) < 1e-9 * jnp.max(jnp.abs(expected)) * n


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["matrix", "array"])
def test_scipy_and_numpy_operators_are_constants(kind):
    pencil, p = grid_pencil(5)
    K, M = pencil(p)
    convert = sp.csr_matrix if kind == "matrix" else sp.csr_array
    host_K = convert(np.asarray(K.as_matrix()))
    solve = ie.eigensolver(eigh, ie.Hermitian(3))
    f = lambda c, K: jnp.sum(
        solve(K, ie.SparseOperator(c * M.data, M.rows, M.cols, M.shape)).values
    )
    expected, *found = jitted(
        *(lambda c, K=K: jax.grad(f)(c, K) for K in (K, host_K, np.asarray(K.as_matrix())))
    )(1.0)
    for derivative in found:
        assert abs(derivative - expected) < 1e-12 * abs(expected)


@pytest.mark.slow
def test_mixed_forms():
    pencil, p = grid_pencil(5)
    loss = invariant_loss(3, 25)
    solve = ie.eigensolver(eigh, ie.Hermitian(3))
    f = lambda p, F, G: loss(*solve(F(pencil(p)[0]), G(pencil(p)[1])))
    diagonal = lambda M: lx.DiagonalLinearOperator(M.data)
    forms = [
        (FORMS["dense"], FORMS["dense"]),
        (FORMS["sparse"], FORMS["dense"]),
        (FORMS["dense"], FORMS["sparse"]),
        (FORMS["sparse"], FORMS["function"]),
        (FORMS["sparse"], diagonal),
        (FORMS["function"], diagonal),
    ]
    gradients = jitted(*(lambda p, F=F, G=G: jax.grad(f)(p, F, G) for F, G in forms))
    expected, *others = gradients(p)
    for found in others:
        assert jnp.max(jnp.abs(found - expected)) < 1e-9 * jnp.max(jnp.abs(expected))


def test_tridiagonal_and_identity_operators():
    n = 8
    d, e = jnp.arange(1.0, n + 1), 0.3 * jnp.ones(n - 1)
    solve = ie.eigensolver(eigh, ie.Hermitian(2))
    f = lambda d, make: jnp.sum(solve(*make(d)).vectors[2] ** 2)
    dense = lambda d: (jnp.diag(d) + jnp.diag(e, 1) + jnp.diag(e, -1),)
    tridiagonal = lambda d: (
        lx.TridiagonalLinearOperator(d, e, e),
        lx.IdentityLinearOperator(jax.ShapeDtypeStruct((n,), d.dtype)),
    )
    found, expected = jitted(
        *(lambda d, make=make: jax.grad(f)(d, make) for make in (tridiagonal, dense))
    )(d)
    assert jnp.max(jnp.abs(found - expected)) < 1e-10


def test_solvers_receive_the_documented_host_objects():
    pencil, p = grid_pencil(3)
    seen = []

    x = np.arange(9.0)

    def spy(A, B):
        seen.append((A, B))
        if not sp.issparse(B):
            products.append((B.matvec(x), B.rmatvec(x), B.matmat(np.eye(9))))
        return eigh(A, B)

    products = []
    solve = ie.eigensolver(spy, ie.Hermitian(2))
    K, M = pencil(p)
    solve(K.as_matrix(), M)
    solve(K, as_function(M))
    jax.jit(lambda K, M: solve(K, as_function(M)).values)(K, M)
    dense, sparse = seen[0]
    assert type(dense) is np.ndarray
    assert dense.flags.writeable
    assert sp.issparse(sparse)
    assert sparse.format == "csr"
    assert len(products) == 2
    for along, back, block in products:
        expected = np.asarray(M.mv(jnp.asarray(x)))
        assert np.allclose(along, expected, rtol=1e-15)
        assert np.allclose(back, expected, rtol=1e-15)
        assert np.allclose(block, np.asarray(M.as_matrix()), rtol=1e-15)


def test_traceable_solvers_receive_arrays_or_operators():
    pencil, p = grid_pencil(3)
    K, M = pencil(p)
    seen = []

    def spy(A, B):
        seen.append((A, B))
        return jnp.linalg.eigh(A)

    solve = ie.eigensolver(
        ie.traceable(spy), ie.Hermitian(1), policy=ie.Policy(forward=ie.Action.IGNORE)
    )
    solve(K.as_matrix(), M)
    A, B = seen[0]
    assert isinstance(A, jax.Array)
    assert isinstance(B, ie.SparseOperator)


def test_sparse_operator_as_a_lineax_operator():
    rng = np.random.default_rng(0)
    rows, cols = rng.integers(0, 4, 9), rng.integers(0, 5, 9)
    data = jnp.asarray(rng.standard_normal(9) + 1j * rng.standard_normal(9))
    S = ie.SparseOperator(data, rows, cols, (4, 5))
    dense = sp.coo_matrix((data, (rows, cols)), shape=(4, 5)).toarray()
    x = jnp.asarray(rng.standard_normal(5) + 0j)
    tol = 100 * EPS[np.dtype(np.float64)]
    assert jnp.max(jnp.abs(S.as_matrix() - dense)) < tol
    assert jnp.max(jnp.abs(S.mv(x) - dense @ x)) < tol
    assert jnp.max(jnp.abs(S.T.as_matrix() - dense.T)) < tol
    assert jnp.max(jnp.abs(lx.conj(S).as_matrix() - dense.conj())) < tol
    assert jnp.max(jnp.abs(lx.diagonal(S) - np.diag(dense))) < tol
    assert jnp.max(jnp.abs(lx.materialise(S).as_matrix() - dense)) < tol
    assert lx.linearise(S) is S
    assert not lx.is_symmetric(S)
    assert S.in_size() == 5
    assert S.out_size() == 4
    again = ie.SparseOperator.from_scipy(sp.csr_matrix(dense))
    assert jnp.max(jnp.abs(again.as_matrix() - dense)) < tol


def test_padded_bcoo():
    matrix = jsparse.BCOO.fromdense(jnp.eye(3), nse=5)
    assert jnp.array_equal(ie.SparseOperator.from_bcoo(matrix).as_matrix(), jnp.eye(3))


def sizes(jaxpr):
    """The sizes of all arrays in a jaxpr and in those inside it."""
    for eqn in jaxpr.eqns:
        for var in (*eqn.invars, *eqn.outvars):
            yield int(np.prod(var.aval.shape)) if hasattr(var.aval, "shape") else 1
        for param in jax.tree.leaves(
            list(eqn.params.values()),
            is_leaf=lambda x: isinstance(x, (jax.extend.core.Jaxpr, jax.extend.core.ClosedJaxpr)),
        ):
            if isinstance(param, jax.extend.core.ClosedJaxpr):
                yield from sizes(param.jaxpr)
            elif isinstance(param, jax.extend.core.Jaxpr):
                yield from sizes(param)


@pytest.mark.parametrize("make", [lambda S: S, as_function])
@pytest.mark.parametrize("solver", [None, ie.MINRES()])
def test_nothing_of_size_n_by_n(make, solver):
    m = 30
    pencil, p = grid_pencil(m)
    n = m * m
    solve = ie.eigensolver(eigh, ie.Hermitian(3), linear_solver=solver)
    f = lambda p: invariant_loss(3, n)(*solve(*map(make, pencil(p))))
    hvp = lambda p: jax.jvp(jax.grad(f), (p,), (p,))[1]
    for g in (jax.grad(f), hvp):
        largest = max(sizes(jax.make_jaxpr(g)(p).jaxpr))
        assert largest <= 40 * n, largest
    # the walk does see a dense matrix where there is one
    dense = jax.make_jaxpr(lambda p: pencil(p)[0].as_matrix())(p)
    assert max(sizes(dense.jaxpr)) == n * n
