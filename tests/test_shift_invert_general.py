"""One factorisation for all bordered systems of a pencil, right, counted, loud where it fails."""

import warnings

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
from problems import CountingLU, Exchanged, dense, jitted, sparse

import implicit_eig as ie
from implicit_eig.linear_solvers._systems import Structure
from implicit_eig.systems.bordered_pairs import BorderedPairs
from implicit_eig.systems.matrices import Shifted

N = 30
# two real values, a pair of conjugates, a double value with two vectors, others farther away
SPECTRUM = [1.0, 2.0, 1.5 + 1j, 1.5 - 1j, 2.5, 2.5, *np.linspace(4, 20, N - 6)]


@pytest.fixture(autouse=True)
def _fresh_cache():
    ie.factorization_cache.clear()


def random(rng, shape, dtype):
    part = rng.standard_normal(shape)
    return part + 1j * rng.standard_normal(shape) if dtype == np.complex128 else part


def pencil_with_spectrum(dtype, B="none", seed=0):
    """A and B with these values, and their right vectors, which are far from orthogonal."""
    rng = np.random.default_rng(seed)
    D = np.diag(np.asarray(SPECTRUM)).real.astype(dtype)
    D[2:4, 2:4] = [[1.5, 1.0], [-1.0, 1.5]]  # of values 1.5 ± i
    V, W = np.eye(N) + 0.2 * random(rng, (N, N), dtype), np.eye(N, dtype=dtype)
    turn = np.eye(N, dtype=complex)
    turn[2:4, 2:4] = np.array([[1, 1], [1j, -1j]]) / np.sqrt(2)
    if B == "singular":  # the last value at infinity
        D[-1, -1], W[-1, -1] = 1, 0
    scale = np.eye(N) + (0 if B == "none" else 0.2 * random(rng, (N, N), dtype))
    left = scale if B != "none" else np.linalg.inv(V)
    A = left @ D @ np.linalg.inv(V) if B != "none" else V @ D @ left
    return A, None if B == "none" else left @ W @ np.linalg.inv(V), V @ turn


def bordered(A, B, lam, X, clusters):
    """The systems of these pairs, with a border as it is in derivatives; `clusters` (k, k)."""
    operators = [
        None if M is None else ie.SparseOperator.from_scipy(sp.csr_matrix(M)) for M in (A, B)
    ]
    lam, X = jnp.asarray(lam, complex), jnp.asarray(X / np.linalg.norm(X, axis=0), complex)
    BX = X if B is None else jnp.asarray(B, complex) @ X
    gram = jnp.where(clusters, X.conj().T @ X, 0)
    near, alpha = jnp.asarray(clusters, float), jnp.full(len(lam), 0.1)
    weights = (jnp.ones_like(lam), -lam)
    return BorderedPairs(
        Structure.SPARSE,
        Shifted(tuple(operators), weights),
        -0.1 * BX,
        0.1 * (X @ jnp.linalg.inv(gram)).conj(),
        near,
        alpha,
        X,
        jnp.zeros_like(X),
        near,
    )


PICKS = {
    "real": [0, 1],
    "conjugates": [0, 2, 3],
    "half of the conjugates": [1, 2],
    "a double value": [0, 4, 5, 2],
}


@pytest.mark.parametrize(
    ("dtype", "B", "pick", "sigma"),
    [
        (np.float64, "none", "real", None),
        (np.float64, "regular", "conjugates", 0.4),
        (np.float64, "none", "half of the conjugates", None),
        (np.float64, "singular", "a double value", None),
        (np.float64, "regular", "half of the conjugates", 1.3 + 0.4j),
        (np.complex128, "none", "a double value", 1.7),
        (np.complex128, "singular", "conjugates", None),
        (np.complex128, "regular", "real", 1.3 + 0.4j),
    ],
)
def test_systems_and_their_transposes(dtype, B, pick, sigma):
    A, B, V = pencil_with_spectrum(dtype, B)
    pick = PICKS[pick]
    lam, k = np.asarray(SPECTRUM)[pick], len(pick)
    systems = bordered(A, B, lam, V[:, pick], np.abs(lam[:, None] - lam) < 1e-9)
    counting = CountingLU()
    solver = ie.ShiftInvert(sigma, counting, rtol=1e-11)
    b = jnp.asarray(random(np.random.default_rng(3), (N + k, k), np.complex128))
    b = b.at[:, 1].set(0)
    for side in (systems, systems.transposed()):
        U, outcome = solver.solve_systems(side, (b[:N], b[N:]))
        U = jnp.concatenate(U)
        assert not outcome.verdicts.any()
        assert not U[:, 1].any()
        for i in range(k):
            M = jax.tree.map(np.asarray, side).host_columns()(i)
            residual = np.linalg.norm(M @ np.asarray(U[:, i]) - np.asarray(b[:, i]))
            assert residual <= 1e-11 * np.linalg.norm(b[:, i])
    # the transposes have the factors of another matrix only where the method gives one side
    assert counting.factorisations == 2


@pytest.mark.parametrize("error", [1e-10, 1e-5])
def test_vectors_that_are_not_exact(error):
    """What is deflated is not an eigenvector then; rounds of refinement gain the digits."""
    A, _, V = pencil_with_spectrum(np.float64)
    # noise of complex numbers: that of a solver which does not know that A is real
    X = V[:, :3] + error * random(np.random.default_rng(5), (N, 3), np.complex128)
    lam = np.asarray(SPECTRUM)[:3] * (1 + error)
    systems = bordered(A, None, lam, X, np.eye(3, dtype=bool))
    b = jnp.asarray(random(np.random.default_rng(3), (N + 3, 3), np.complex128))
    for side in (systems, systems.transposed()):
        U, outcome = ie.ShiftInvert(0.5, rtol=1e-10).solve_systems(side, (b[:N], b[N:]))
        assert not outcome.verdicts.any()
        residual = jnp.linalg.norm(jnp.concatenate(side.mv(U)) - b, axis=0)
        assert jnp.all(residual < 1e-10 * jnp.linalg.norm(b, axis=0))


def flow(m, dtype=np.float64):
    """Convection and diffusion on m×m points, sparse, and the diffusivity it depends on."""
    rng = np.random.default_rng(0)
    D = sp.diags_array([-np.ones(m - 1), 2 * np.ones(m), -np.ones(m - 1)], offsets=[-1, 0, 1])
    C = sp.diags_array([-np.ones(m - 1), np.ones(m - 1)], offsets=[-1, 1])
    E = sp.eye_array(m)
    place = sp.diags_array(np.linspace(-2, 2, m))
    fixed: sp.csr_matrix = (sp.kron(C, place) - sp.kron(place, C)).tocsr()  # a rotation
    if np.issubdtype(dtype, np.complexfloating):
        fixed = fixed + 0.3j * sp.kron(D, C).tocsr()
    moving: sp.csr_matrix = (sp.kron(D, E) + sp.kron(E, 1.3 * D)).tocsr()
    pattern = (abs(fixed) + abs(moving)).tocoo()
    rows, cols = pattern.coords
    fixed, moving = (
        np.asarray(M.tocsr()[rows, cols]).ravel().astype(dtype) for M in (fixed, moving)
    )

    def operator(p):
        data = jnp.asarray(moving) * ((p[rows] + p[cols]) / 2).astype(dtype) + jnp.asarray(fixed)
        return ie.SparseOperator(data, rows, cols, (m * m, m * m))

    real = np.zeros(1, dtype).real.dtype
    return operator, jnp.asarray(1 + 0.3 * rng.random(m * m), real)


def loss_by(k, operator, pairs=True, **options):
    """A loss of values and vectors of the pairs next to 0."""
    solve = ie.eigensolver(nearest(k), ie.General(k), **options)

    def loss(p):
        solution = solve(operator(p))
        out = jnp.sum(jnp.cos(solution.values.real) + solution.values.imag**2)
        rows = jnp.arange(len(p), dtype=p.dtype)
        return out + jnp.sum(jnp.sin(rows)[:, None] * jnp.abs(solution.vectors) ** 2)

    return loss


def nearest(k):
    def solver(A):
        lam, X = sla.eig(dense(A))
        order = np.lexsort((-lam.imag, np.round(np.abs(lam), 8)))[:k]
        return lam[order], X[:, order]

    return solver


class TestDerivatives:
    """Against a dense LU of each bordered system."""

    @pytest.mark.slow
    @pytest.mark.parametrize(("dtype", "k"), [(np.float64, 5), (np.complex128, 3), (np.float32, 5)])
    def test_both_modes_and_second_order(self, dtype, k):
        operator, p = flow(7, dtype)
        f = loss_by(k, operator)
        exact = loss_by(k, lambda p: operator(p).as_matrix(), linear_solver=lx.LU())
        tol = 1e-8 if p.dtype == np.float64 else 5e-3
        derivatives = lambda f: jitted(
            lambda p: jax.jvp(f, (p,), (p,))[1], lambda p: jax.jvp(jax.grad(f), (p,), (p,))
        )(p)
        by_both = (jax.tree.leaves(jax.device_get(derivatives(g))) for g in (f, exact))
        for found, expected in zip(*by_both, strict=True):
            assert found.dtype == expected.dtype
            assert np.max(np.abs(found - expected)) < tol * np.max(np.abs(expected))

    @pytest.mark.slow
    def test_a_subspace_by_the_same_factors(self):
        counting, (operator, p) = CountingLU(), flow(7)
        values = lambda A: sla.eigvals(dense(A))

        def schur(A):
            S, X, _ = sla.schur(dense(A), "complex", sort=lambda lam: abs(lam) < bound)
            return np.diagonal(S)[:5], X[:, :5]

        sizes = np.sort(np.abs(values(operator(p).as_matrix())))
        bound = (sizes[4] + sizes[5]) / 2
        weights = jnp.sin(jnp.arange(49.0)).astype(complex)

        def gradient(make, **options):
            solve = ie.eigensolver(schur, ie.Subspace(5), **options)
            of = lambda p: jnp.sum(jnp.abs(ie.apply_projector(solve(make(p)), weights)) ** 4)
            return jax.grad(of)

        found, expected = jitted(
            gradient(operator, linear_solver=ie.ShiftInvert(None, counting)),
            gradient(lambda p: operator(p).as_matrix()),
        )(p)
        assert jnp.max(jnp.abs(found - expected)) < 1e-8 * jnp.max(jnp.abs(expected))
        assert counting.factorisations == 2  # of the matrix and, as the method gives one side, Aᴴ


class TestCounts:
    """What is made once, and for how many columns."""

    def test_forward_and_adjoint_share_one_factorisation(self):
        operator, p = flow(8)
        solve = ie.eigensolver(ie.solvers.arpack_general(5, 0.0), ie.General(5))
        loss = lambda p: jnp.sum(jnp.abs(solve(operator(p)).vectors) ** 4)
        jax.block_until_ready(jax.jit(jax.grad(loss))(p))
        assert ie.factorization_cache.misses == 1
        assert ie.factorization_cache.hits >= 1

    @pytest.mark.parametrize(("sigma", "width"), [(0.0, 14), (1e-9j, 10)])
    def test_conjugate_pairs_share_their_columns(self, sigma, width):
        """Two real pairs and two of conjugates: real columns, or complex ones for one of each.

        Each has another column, a random right side that shows that its system is nonsingular; it
        is complex, of real pairs too.
        """
        operator, p = flow(8)
        values, _ = nearest(6)(operator(p).as_matrix())
        assert int(np.sum(values.imag > 1e-8)) == int(np.sum(values.imag < -1e-8)) == 2
        counting = CountingLU()
        options = {"linear_solver": ie.ShiftInvert(sigma, counting)}
        jax.block_until_ready(jax.jit(jax.grad(loss_by(6, operator, **options)))(p))
        # the right sides come first: their real and imaginary parts, or both at once
        first = 1 if sigma else 2
        assert counting.widths[:first] == [12] * first
        assert max(counting.widths[first:]) == width

    def test_zero_cotangents_stay_out(self):
        operator, p = flow(8)
        counting = CountingLU()
        solve = ie.eigensolver(
            nearest(6), ie.General(4), linear_solver=ie.ShiftInvert(0.0, counting)
        )
        one = lambda p: jnp.sum(jnp.abs(solve(operator(p)).vectors[:, 0]) ** 4)
        jax.block_until_ready(jax.jit(jax.grad(one))(p))
        assert set(counting.widths) == {1}


def check_quiet_and_right(solve, loss):
    """The gradient with A as a sparse operator has no warning, and is that with it as an array."""
    gradients = jitted(
        jax.grad(lambda A: loss(solve(sparse(A)))), jax.grad(lambda A: loss(solve(A)))
    )

    def check(A):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found, expected = jax.device_get(gradients(A))
        assert np.max(np.abs(found - expected)) < 1e-8 * np.max(np.abs(expected))

    return check


class TestShifts:
    """Shifts by default, and what happens where one is bad."""

    @pytest.mark.slow
    def test_values_far_from_the_real_axis(self):
        """Values about 1 ± 40i of a real matrix, above and below: a complex shift serves both."""
        pick = [0, -1, 1, -2]
        rng = np.random.default_rng(1)
        blocks = [[[1, w], [-w, 1]] for w in (40.0, 40.5, 42, 43, 45, 48)]
        D = sla.block_diag(*blocks, np.diag(np.linspace(1, 9, 8)))
        V = np.eye(20) + 0.1 * rng.standard_normal((20, 20))
        A = jnp.asarray(V @ D @ np.linalg.inv(V))

        def solver(A):
            lam, X = sla.eig(dense(A))
            order = np.argsort(np.abs(lam - 40j))[pick]
            return lam[order], X[:, order]

        loss = lambda s: jnp.sum(jnp.abs(s.vectors) ** 4) + jnp.sum(s.values.imag)
        check_quiet_and_right(ie.eigensolver(solver, ie.General(len(pick))), loss)(A)

    def test_a_bad_shift_is_replaced_with_a_warning(self):
        operator, p = flow(7)
        solver = ie.ShiftInvert(300.0, max_steps=6)
        gradients = jitted(
            jax.grad(loss_by(3, operator, linear_solver=solver)), jax.grad(loss_by(3, operator))
        )
        with pytest.warns(ie.LinearSolveWarning, match=r"trying a shift next to each"):
            found, expected = jax.device_get(gradients(p))
        assert np.max(np.abs(found - expected)) < 1e-7 * np.max(np.abs(expected))

    def test_a_value_that_is_rounding_of_zero(self):
        """The steady state of a Markov chain: the shift is measured by the matrix."""
        rates = np.random.default_rng(2).random((12, 12))
        A = jnp.asarray(rates - np.diag(rates.sum(axis=0)))

        def solver_of(value):
            def solver(A):
                lam, X = sla.eig(dense(A))
                first = np.argmin(np.abs(lam))
                return np.array([value]), X[:, [first]]

            return solver

        weights = jnp.sin(jnp.arange(12.0))
        loss = lambda s: weights @ jnp.abs(s.vectors[:, 0]) ** 2
        solver = Exchanged()
        check = check_quiet_and_right(ie.eigensolver(solver, ie.General(1)), loss)
        for solver.now in map(solver_of, (0.0, -9e-16)):
            check(A)

    @pytest.mark.slow
    def test_where_no_shift_helps_the_default_factorises_each_system(self):
        """A factorisation that is no good for iterating."""
        operator, p = flow(7)

        def useless(matrix):
            return lambda b: np.roll(b, 1, axis=0)

        solver = ie.AutoLinearSolver(0.0, useless)
        gradients = jitted(
            jax.grad(loss_by(3, operator, linear_solver=solver)), jax.grad(loss_by(3, operator))
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found, expected = jax.device_get(gradients(p))
        messages = " ".join(str(w.message) for w in caught)
        assert "ShiftInvert did not converge; trying SparseDirect" in messages
        assert np.max(np.abs(found - expected)) < 1e-8 * np.max(np.abs(expected))

    def test_dense_operators_are_refused(self):
        operator, p = flow(7)
        loss = loss_by(2, lambda p: operator(p).as_matrix(), linear_solver=ie.ShiftInvert())
        with pytest.raises(ie.InputError, match="sparse operators, or a Hermitian problem"):
            jax.eval_shape(jax.grad(loss), p)

    def test_polynomials_are_refused(self):
        operator, p = flow(7)
        solve = ie.eigensolver(
            lambda K, C: nearest(2)(-K), ie.Polynomial(2), linear_solver=ie.ShiftInvert()
        )
        loss = lambda p: jnp.sum(jnp.abs(solve(operator(p), sp.eye_array(49)).vectors) ** 4)
        with pytest.raises(ie.InputError, match="the systems of a pencil"):
            jax.eval_shape(jax.grad(loss), p)
