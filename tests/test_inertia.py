"""Counting eigenvalues below a shift, and the certificate of `Hermitian`."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
from problems import grid_pencil, random_definite, random_hermitian

import implicit_eig as ie
from implicit_eig.linear_solvers import inertia

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


def sparse_pencil(dtype, n=60):
    rng = np.random.default_rng(0)
    A, M = (sp.random_array((n, n), density=0.1, rng=rng) for _ in range(2))
    if np.issubdtype(dtype, np.complexfloating):
        A, M = A + 1j * sp.random_array((n, n), density=0.1, rng=rng), M + 0.3j * A
    A, B = A + A.conj().T, M @ M.conj().T + sp.eye_array(n)
    return sp.csr_array(A).astype(dtype), sp.csr_array(B).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "sparse"])
@pytest.mark.parametrize("generalised", [True, False])
def test_every_count(dtype, dense, generalised):
    A, B = sparse_pencil(dtype)
    lam = sla.eigh(A.toarray(), B.toarray() if generalised else None, eigvals_only=True)
    if dense:
        A, B = A.toarray(), B.toarray()
    shifts = np.concatenate([[lam[0] - 1], (lam[:-1] + lam[1:]) / 2, [lam[-1] + 1]])
    gaps = np.diff(lam, prepend=lam[0] - 1, append=lam[-1] + 1)
    for i in np.flatnonzero(gaps > 1e-3 * np.ptp(lam))[::4]:
        assert int(ie.count_below(A, B if generalised else None, float(shifts[i]))) == i


def test_compiled_and_batched():
    A, B = random_hermitian(12), random_definite(12, seed=1)
    lam = sla.eigh(A, B, eigvals_only=True)
    shifts = jnp.asarray((lam[:-1] + lam[1:]) / 2)
    counts = jax.jit(jax.vmap(lambda s: ie.count_below(A, B, s)))(shifts)
    assert counts.tolist() == list(range(1, 12))
    assert jax.grad(lambda s: ie.count_below(A, B, s).astype(float) * s)(shifts[3]) == 4


@pytest.mark.parametrize("make", [np.asarray, sp.csr_array], ids=["dense", "sparse"])
def test_an_eigenvalue_as_shift_is_refused(make):
    A = make(np.diag([1.0, 2.0, 3.0]) + 1e-3 * np.ones((3, 3)))
    lam = np.linalg.eigvalsh(A.toarray() if sp.issparse(A) else A)[1]
    with pytest.raises(ie.LinearSolveError, match="a sigma that is no eigenvalue; got 2"):
        ie.count_below(A, None, lam)


def test_a_badly_scaled_pencil():
    """Penalties of 1e30 and units that differ by 1e12 change no count."""
    A, B = (M.toarray() for M in sparse_pencil(np.float64))
    lam = sla.eigh(A, B, eigvals_only=True)
    scale = np.logspace(-6, 6, len(A))
    penalty = np.zeros(len(A))
    for i in (10, 30, 50):
        sigma = (lam[i - 1] + lam[i]) / 2
        scaled = [sp.csr_array(scale[:, None] * M * scale) for M in (A, B)]
        assert int(ie.count_below(*scaled, sigma)) == i
    penalty[:3] = 1e30
    fixed = sp.csr_array(A + np.diag(penalty)), sp.csr_array(B)
    inner = sla.eigh(A[3:, 3:], B[3:, 3:], eigvals_only=True)
    assert int(ie.count_below(*fixed, (inner[20] + inner[21]) / 2)) == 21


def test_matrices_of_which_rslab_finds_no_pivots(monkeypatch):
    def none(matrix):
        raise RuntimeError("no pivots")

    A, B = sparse_pencil(np.float64)
    lam = sla.eigh(A.toarray(), B.toarray(), eigvals_only=True)
    monkeypatch.setattr(inertia, "factor_symmetric", none)
    assert int(ie.count_below(A, B, (lam[6] + lam[7]) / 2)) == 7
    monkeypatch.setattr(inertia, "DENSE", 10)
    with pytest.raises(ie.LinearSolveError, match="a sigma that is no eigenvalue"):
        ie.count_below(A, B, (lam[6] + lam[7]) / 2)


def test_inexact_factors_are_not_trusted(monkeypatch):
    """The sign of an eigenvalue is believed only above the backward error of the factors."""
    A, B = sparse_pencil(np.float64)
    lam = sla.eigh(A.toarray(), B.toarray(), eigvals_only=True)

    class Inexact:
        inertia = (0, 0, 0)

        def __init__(self, matrix):
            self.factor = sp.linalg.splu(matrix)

        def solve(self, b):
            return self.factor.solve(b) * (1 + 0.1 * np.cos(np.arange(len(b))))

    monkeypatch.setattr(inertia, "factor_symmetric", Inexact)
    assert int(ie.count_below(A, B, (lam[6] + lam[7]) / 2)) == 7


BAD = {
    "products alone": (
        lambda: ie.count_below(
            lx.FunctionLinearOperator(lambda x: x, jax.ShapeDtypeStruct((3,), jnp.float64)),
            None,
            1.0,
        ),
        "operators whose entries are known",
    ),
    "sizes": (lambda: ie.count_below(np.eye(3), np.eye(4), 1.0), "square operators of one size"),
    "shape": (lambda: ie.count_below(np.ones((3, 2)), None, 1.0), "square operators of one size"),
    "complex shift": (lambda: ie.count_below(np.eye(3), None, 1j), "a real number sigma"),
    "shifts": (lambda: ie.count_below(np.eye(3), None, np.ones(2)), "a real number sigma"),
    "certified": (lambda: ie.Hermitian(2, certified="smallest"), "True, False, 'lowest'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(ie.InputError, match=message):
        call()


class TestCertificate:
    def some(self, *indices):
        """A solver that returns these eigenpairs."""

        def solver(A, B=None):
            dense = [M.toarray() if sp.issparse(M) else M for M in (A, B) if M is not None]
            lam, X = sla.eigh(*dense)
            return lam[list(indices)], X[:, list(indices)]

        return solver

    @pytest.mark.parametrize("sparse", [True, False])
    @pytest.mark.parametrize(
        ("certified", "complete", "lossy"),
        [
            (True, (0, 1, 2), (0, 2, 3)),
            ("lowest", (2, 0, 1), (1, 2, 3)),
            ("highest", (-1, -2, -3), (-1, -2, -4)),
            ("between", (7, 9, 8), (7, 8, 10)),
        ],
    )
    def test_lost_pairs_are_reported(self, certified, complete, lossy, sparse):
        A, B = sparse_pencil(np.float64)
        lam = sla.eigh(A.toarray(), B.toarray(), eigvals_only=True)
        form = ie.SparseOperator.from_scipy if sparse else lambda M: jnp.asarray(M.toarray())
        A, B = form(A), form(B)
        problem = ie.Hermitian(3, certified=certified)
        solve = lambda indices: jax.jit(ie.eigensolver(self.some(*indices), problem))
        assert jnp.allclose(solve(complete)(A, B).values, lam[list(complete)])
        with pytest.raises(Exception, match=r"all eigenpairs .*; got 3 of 4"):
            jax.block_until_ready(solve(lossy)(A, B))

    def test_gradients_are_the_same(self):
        (pencil, p), solver = grid_pencil(5), ie.solvers.arpack(3, 0.0)

        def gradient(problem):
            solve = ie.eigensolver(solver, problem)
            return jax.grad(lambda p: jnp.sum(solve(*pencil(p)).vectors[:9, 0]) ** 2)(p)

        found, expected = (gradient(ie.Hermitian(3, certified=c)) for c in (True, False))
        assert jnp.array_equal(found, expected)

    @pytest.mark.parametrize("guard", [0, 1])
    def test_a_cluster_that_k_cuts(self, guard):
        A = np.diag([1.0, 2.0, 2.0, 3.0])
        solve = ie.eigensolver(np.linalg.eigh, ie.Hermitian(3, guard=guard, certified=True))
        assert solve(A).values.tolist() == [1, 2, 2]
        cut = ie.eigensolver(self.some(0, 1), ie.Hermitian(2, certified=True))
        with pytest.raises(ie.EigensolverError, match="got 2 of 3"):
            cut(A)

    def test_policies_and_batches(self):
        A = jnp.stack([jnp.diag(jnp.array(d)) for d in ([1.0, 2, 3, 4], [4.0, 1, 2, 3])])
        first = lambda A: (np.diag(A)[:2].copy(), np.eye(4)[:, :2])
        problem = ie.Hermitian(2, certified=True)
        nan = jax.vmap(ie.eigensolver(first, problem, policy=ie.Policy.nan()))(A)
        assert jnp.isfinite(nan.values).tolist() == [[True, True], [False, False]]
        policy = ie.Policy(forward=ie.Action.WARN)
        with pytest.warns(ie.ForwardWarning, match="all eigenpairs below .*; got 2 of 4"):
            ie.eigensolver(first, problem, policy=policy)(A[1])
        ignore = ie.Policy(forward=ie.Action.IGNORE)
        ie.eigensolver(first, problem, policy=ignore)(A[1])

    def test_the_shift_is_an_eigenvalue(self):
        """Where the gap is so narrow that rounding does not show the side, there is no proof."""
        A = np.diag([1.0, 1 + 3e-8, 5.0])
        solve = ie.eigensolver(
            lambda A: (np.diag(A)[:1].copy(), np.eye(3)[:, :1]), ie.Hermitian(1, certified=True)
        )
        with pytest.raises(ie.EigensolverError, match="got 1 of 2"):
            solve(A + np.diag([0, -2e-8, 0]))
        A[1, 1] = 1 + 2.0**-26
        with pytest.raises(ie.EigensolverError, match="eigenvalues separated from the others"):
            solve(A)

    def test_matrix_free_operators_are_refused(self):
        operator = lx.FunctionLinearOperator(
            lambda x: jnp.arange(1.0, 6) * x, jax.ShapeDtypeStruct((5,), jnp.float64)
        )
        solve = ie.eigensolver(ie.solvers.lobpcg(2), ie.Hermitian(2, certified=True))
        with pytest.raises(ie.InputError, match="operators whose entries are known"):
            solve(operator)
