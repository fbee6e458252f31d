"""The drop-ins return what the originals return, and have derivatives where these have none."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from jax.test_util import check_grads
from problems import random_definite, random_hermitian

import implicit_eig as ie
from implicit_eig import linalg

EPS = {t: float(np.finfo(t).eps) for t in ("float32", "float64", "complex64", "complex128")}
RNG = np.random.default_rng(4)


def general(shape, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    G = rng.standard_normal(shape)
    if dtype.startswith("complex"):
        G = G + 1j * rng.standard_normal(shape)
    return G.astype(dtype)


def same(found, expected, factor=50):
    """Equal to rounding, in shape and dtype too."""
    for f, e in zip(jax.tree.leaves(tuple(found)), jax.tree.leaves(tuple(expected)), strict=True):
        assert f.shape == e.shape
        assert f.dtype == e.dtype
        size = float(jnp.max(jnp.abs(e))) if e.size else 0.0
        if e.size:
            assert float(jnp.max(jnp.abs(f - e))) <= factor * EPS[str(e.dtype)] * max(size, 1)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 4), (2, 4, 4), (2, 1, 3, 3), (1, 1)])
@pytest.mark.parametrize("dtype", sorted(EPS))
def test_dense_ones_over_shapes_and_dtypes(shape, dtype):
    """Bit for bit those of JAX, which they call, but for what is normalised."""
    G = jnp.asarray(general(shape, dtype))
    H = G + jnp.swapaxes(G, -1, -2).conj()
    same(linalg.eigh(H), jnp.linalg.eigh(H))
    same([linalg.eigvalsh(H)], [jnp.linalg.eigvalsh(H)])
    same(linalg.eig(G), jnp.linalg.eig(G))
    same([linalg.eigvals(G)], [jnp.linalg.eigvals(G)])
    same(linalg.svd(G), jnp.linalg.svd(G))
    same([linalg.svdvals(G)], [jnp.linalg.svdvals(G)])


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (2, 5, 3), (4, 4)])
@pytest.mark.parametrize("full", [True, False])
def test_rectangular_decompositions(shape, full):
    A = jnp.asarray(general(shape))
    same(linalg.svd(A, full_matrices=full), jnp.linalg.svd(A, full_matrices=full))
    same([linalg.svd(A, full, False)], [jnp.linalg.svd(A, full, False)])
    U, s, Vh = linalg.svd(A, full)
    assert (
        jnp.max(jnp.abs((U[..., : s.shape[-1]] * s[..., None, :]) @ Vh[..., : s.shape[-1], :] - A))
        < 1e-13
    )
    if full and shape[-1] != shape[-2]:
        with pytest.raises(ie.InputError, match="values alone; got a derivative of U or Vh"):
            jax.grad(lambda A: linalg.svd(A, full).U.sum())(A)


@pytest.mark.parametrize(("triangle", "symmetrise"), list(itertools.product("LU", (True, False))))
def test_triangles(triangle, symmetrise):
    A = jnp.asarray(general((4, 4), "complex128"))
    found, expected = (
        fn(A, UPLO=triangle, symmetrize_input=symmetrise).eigenvalues
        for fn in (linalg.eigh, jnp.linalg.eigh)
    )
    same([found], [expected])
    same([linalg.eigh(A, triangle).eigenvalues], [jnp.linalg.eigh(A, triangle).eigenvalues])
    with pytest.raises(ie.InputError, match="'L' or 'U'; got 'X'"):
        linalg.eigh(A, "X")


def test_pencils_as_of_scipy():
    A, B = random_hermitian(5, np.complex128), random_definite(5, np.complex128, seed=1)
    values, vectors = linalg.eigh(A, B)
    assert np.max(np.abs(values - sla.eigh(A, B)[0])) < 1e-13
    assert np.max(np.abs(np.asarray(vectors.conj().T @ B @ vectors) - np.eye(5))) < 1e-13
    same([linalg.eigh(A, B, eigvals_only=True)], [values])
    G, M = general((5, 5)), np.asarray(B.real)
    values, left, right = map(np.asarray, linalg.eig(G, M, left=True))
    expected = sla.eig(G, M)[0]
    ordered = lambda lam: np.sort_complex(np.round(lam, 10))  # conjugates alike
    assert np.max(np.abs(ordered(values) - ordered(expected))) < 1e-9
    assert np.max(np.abs(left.conj().T @ G - values[:, None] * (left.conj().T @ M))) < 1e-12
    assert np.max(np.abs(G @ right - (M @ right) * values[None, :])) < 1e-12
    assert linalg.eig(G, left=True, right=False)[1].shape == (5, 5)


def invariant(values, vectors):
    return jnp.sum(jnp.sin(jnp.abs(values))) + jnp.sum(jnp.abs(vectors[..., 0, :]) ** 2 * 0.3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_derivatives_of_every_order(dtype):
    """The checks of JAX's own tests of these functions."""
    G = jnp.asarray(general((4, 4), dtype))
    hermitian = lambda G: invariant(*linalg.eigh(G))
    options = {"order": 2, "atol": 1e-4, "rtol": 1e-4}
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        quiet = ie.Policy(gauge=ie.Action.IGNORE, forward=ie.Action.NAN)
        check_grads(lambda G: invariant(*linalg.eigh(G, policy=quiet)), (G,), **options)
        check_grads(lambda G: invariant(*linalg.eig(G, policy=quiet)), (G,), **options)
        R = G[:, :3]
        triplets = lambda R: linalg.svd(R, full_matrices=False, policy=quiet)
        check_grads(lambda R: invariant(triplets(R).S, triplets(R).Vh.T), (R,), **options)
    expected = jax.grad(lambda G: invariant(*jnp.linalg.eigh(G)))(G)
    assert jnp.max(jnp.abs(jax.grad(hermitian)(G) - expected)) < 1e-12


def test_repeated_values():
    """Finite and right where JAX's own are NaN; what has no derivative is warned about."""
    A = jnp.diag(jnp.array([1.0, 1.0, 2.0]))
    trace = lambda f: lambda A: jnp.sum(jnp.sin(f(A)[0]))
    expected = jnp.diag(jnp.cos(jnp.diagonal(A)))
    assert jnp.max(jnp.abs(jax.grad(trace(linalg.eigh))(A) - expected)) < 1e-14
    entry = lambda X: X[0] @ X[2]  # of the projector X Xᵀ
    projector = lambda eigh: lambda A: entry(eigh(A)[1][:, :2])
    assert jnp.all(jnp.isfinite(jax.grad(projector(linalg.eigh))(A)))
    assert not jnp.all(jnp.isfinite(jax.grad(projector(jnp.linalg.eigh))(A)))
    with pytest.warns(ie.GaugeWarning, match="treats the values of a cluster alike"):
        jax.block_until_ready(jax.grad(lambda A: linalg.eigvalsh(A)[0])(A))


def test_the_value_holds_no_callback():
    A = jnp.eye(3)
    for fn in (linalg.eigh, linalg.eigvalsh, linalg.svd, linalg.svdvals):
        assert "callback" not in str(jax.make_jaxpr(fn)(A))


N = 60
SCATTERED = [sp.csr_array(M * (M > 0.9)) for M in np.random.default_rng(0).random((2, N, N))]
GRID = (SCATTERED[0] + SCATTERED[0].T + sp.diags_array(np.arange(1.0, N + 1))).tocsr()
MASS = sp.diags_array(np.linspace(1.0, 2.0, N)).tocsr()
OTHER = (GRID + SCATTERED[1]).tocsr()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 3, "which": "SA"},
        {"k": 3, "sigma": 2.0},
        {"k": 3, "sigma": 2.0, "which": "LA"},
        {"k": 4, "which": "BE"},
        {"k": 3, "sigma": 2.0, "mode": "buckling"},
        {"k": 3, "which": "LA", "ncv": 30, "tol": 1e-10, "maxiter": 900, "v0": np.ones(N)},
    ],
    ids=str,
)
def test_eigsh(options):
    for M in (None, MASS):
        if M is not None and "mode" in options:
            continue
        found, vectors = linalg.eigsh(GRID, M=M, **options)
        expected = spla.eigsh(GRID, M=M, **options)[0]
        assert np.max(np.abs(found - expected)) < 1e-9 * np.max(np.abs(expected))
        assert vectors.shape == (N, len(expected))
        alone = linalg.eigsh(GRID, M=M, return_eigenvectors=False, **options)
        assert np.max(np.abs(alone - found)) < 1e-12 * np.max(np.abs(expected))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"k": 4, "sigma": 2.0}, {"k": 3, "which": "SR"}, {"k": 2, "which": "LR", "ncv": 30}],
    ids=str,
)
def test_eigs(options):
    for M in (None, MASS):
        found, vectors = linalg.eigs(OTHER, M=M, **options)
        expected = spla.eigs(OTHER, M=M, **options)[0]
        gap = np.abs(np.sort_complex(np.asarray(found)) - np.sort_complex(expected))
        assert np.max(gap) < 1e-9 * np.max(np.abs(expected))
        assert vectors.shape == (N, len(expected))
    assert linalg.eigs(OTHER, return_eigenvectors=False, **options).shape == found.shape


def test_svds_and_lobpcg():
    U, s, Vh = linalg.svds(OTHER, k=3)
    assert np.max(np.abs(s - spla.svds(OTHER, k=3)[1])) < 1e-10
    assert np.max(np.abs(OTHER @ Vh.T - U * s[None, :])) < 1e-9
    assert np.max(np.abs(linalg.svds(OTHER, k=3, return_singular_vectors=False) - s)) < 1e-12
    X = RNG.standard_normal((N, 3))
    for largest in (True, False):
        found = linalg.lobpcg(GRID, X, MASS, largest=largest, maxiter=500)[0]
        expected = spla.eigsh(GRID, 3, MASS, which="LA" if largest else "SA")[0]
        assert np.max(np.abs(found - (expected[::-1] if largest else expected))) < 1e-8


@pytest.mark.slow
def test_a_gradient_through_each_sparse_one():
    """By the entries of the matrix, against the dense ones."""
    rows, cols = GRID.tocoo().coords
    matrix = lambda data: ie.SparseOperator(data, rows, cols, (N, N))
    data = jnp.asarray(GRID.tocoo().data)
    dense = lambda data: jnp.zeros((N, N)).at[rows, cols].set(data)
    X = RNG.standard_normal((N, 3))
    pairs = [
        (lambda d: linalg.eigsh(matrix(d), 3, sigma=0.0)[0], linalg.eigvalsh, slice(3)),
        (lambda d: linalg.eigs(matrix(d), 3, sigma=0.0)[0].real, linalg.eigvalsh, slice(3)),
        (lambda d: linalg.svds(matrix(d), 2)[1], linalg.svdvals, slice(2)),
        (lambda d: linalg.lobpcg(matrix(d), X, maxiter=500)[0], linalg.eigvalsh, slice(-3, None)),
    ]
    for sparse, full, which in pairs:
        found = jax.grad(lambda d, f=sparse: jnp.sum(f(d)))(data)
        loss = lambda d, f=full, which=which: jnp.sum(f(dense(d))[which])
        expected = jax.grad(loss)(data)
        assert jnp.max(jnp.abs(found - expected)) < 1e-7


def test_a_shift_may_be_traced():
    found = jax.jit(lambda s: linalg.eigsh(GRID, 2, sigma=s)[0])(5.0)
    assert np.max(np.abs(found - spla.eigsh(GRID, 2, sigma=5.0)[0])) < 1e-10


@pytest.mark.parametrize(
    ("name", "original"),
    [("eigsh", spla.eigsh), ("eigs", spla.eigs), ("svds", spla.svds), ("lobpcg", spla.lobpcg)],
)
def test_arguments_and_defaults_are_those_of_scipy(name, original):
    ours, theirs = (inspect.signature(f).parameters for f in (getattr(linalg, name), original))
    own = {"linear_solver", "policy"}
    for argument, parameter in ours.items():
        if argument not in own:
            assert parameter.default == theirs[argument].default, argument
    order = [argument for argument in ours if argument not in own]
    assert order == list(theirs)[: len(order)]


def test_what_is_refused():
    A = jnp.eye(4)
    for call, words in [
        (lambda: linalg.eigh(jnp.ones((3, 4))), "`linalg.eigh.a.`: an array of shape"),
        (lambda: linalg.eigsh(A, 2, OPinv=A), "`linalg.eigsh.OPinv=....`: `None`; got"),
        (lambda: linalg.eigs(A, 2, Minv=A), "`linalg.eigs.Minv=....`: `None`; got"),
        (lambda: linalg.eigsh(A, 2, mode="cayley"), "a shift `sigma`; got none"),
        (lambda: linalg.svds(A, 2, solver="propack"), "'arpack'; got another"),
        (lambda: linalg.lobpcg(A, jnp.ones(4)), r"a start of shape \(n, k\); got"),
    ]:
        with pytest.raises(ie.InputError, match=words):
            call()
