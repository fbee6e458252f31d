"""Factors of earlier operators: the same answers, fewer factorisations, an explicit state."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from problems import EPS, CountingLU, grid_pencil, invariant_loss, random_definite, sparse

import implicit_eig as ie
from implicit_eig.linear_solvers._preconditioned import solve_preconditioned

K, N = 3, 100


@pytest.fixture(autouse=True)
def _fresh_cache():
    ie.factorization_cache.clear()


def grid():
    """The pencil of a grid, its parameters, and a loss."""
    pencil, p = grid_pencil(10)
    return pencil, p, invariant_loss(K, N)


def by_factors(factorize=ie.Ldlt(), **options):  # noqa: B008
    return ie.eigensolver(
        ie.solvers.lobpcg(preconditioner=ie.ShiftInvert(0.0, factorize)), ie.Hermitian(K), **options
    )


def near(p, size=0.1, seed=1):
    return p * (1 + size * jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, p.shape)))


class TestDerivatives:
    """The same as without earlier factors, in both modes, to second order."""

    @pytest.mark.parametrize("jit", [False, True])
    def test_gradient(self, jit):
        pencil, p, loss = grid()
        solve, lagged = by_factors(), ie.LaggedFactors(*pencil(near(p)))
        gradient = jax.grad(lambda p: loss(*solve(*pencil(p), reuse=lagged)))
        found = (jax.jit(gradient) if jit else gradient)(p)
        ie.factorization_cache.clear()
        new = jax.grad(lambda p: loss(*solve(*pencil(p))))(p)
        assert np.linalg.norm(found - new) < 1e-8 * np.linalg.norm(new)

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
    def test_dtypes_and_modes(self, dtype):
        n, spectrum = 30, np.concatenate([[1.0, 2.0, 3.5], np.linspace(6.0, 30.0, 27)])
        rng = np.random.default_rng(0)
        G = rng.standard_normal((n, n)) + 1j * rng.standard_normal((n, n))
        Q = np.linalg.qr(G if np.issubdtype(dtype, np.complexfloating) else G.real)[0]
        A = jnp.asarray((Q * spectrum) @ Q.conj().T, dtype)
        A, B = (A + A.conj().T) / 2, random_definite(n, dtype, 1)
        E = 0.1 * random_definite(n, dtype, 2)
        solve = by_factors()
        plain = ie.eigensolver(ie.solvers.arpack(sigma=0.0), ie.Hermitian(K))
        loss, lagged = invariant_loss(K, n), ie.LaggedFactors(sparse(A + E), sparse(B))
        options = {"reuse": lagged}
        real = np.finfo(dtype).dtype.type
        curves = [
            lambda t, solve=solve, options=options: loss(
                *solve(sparse(A + t.astype(dtype) * E), sparse(B), **options)
            )
            for solve, options in ((solve, options), (plain, {}))
        ]
        tol = 1e3 * EPS[np.dtype(dtype)] ** 0.6
        for derivative in (jax.jacfwd, jax.grad, lambda f: jax.jacfwd(jax.grad(f))):
            found, expected = (derivative(curve)(real(0.25)) for curve in curves)
            np.testing.assert_allclose(found, expected, rtol=tol, atol=tol)

    def test_no_derivative_with_respect_to_the_earlier_operators(self):
        pencil, p, loss = grid()
        solve = by_factors()

        def f(q):
            return loss(*solve(*pencil(p), reuse=ie.LaggedFactors(*pencil(q))))

        assert not np.any(jax.grad(f)(near(p)))

    def test_vmap(self):
        pencil, p, loss = grid()
        solve, lagged = by_factors(), ie.LaggedFactors(*pencil(p))
        gradient = jax.grad(lambda p: loss(*solve(*pencil(p), reuse=lagged)))
        several = jnp.stack([near(p, seed=i) for i in range(3)])
        together = jax.vmap(gradient)(several)
        for one, found in zip(several, together, strict=True):
            np.testing.assert_allclose(found, gradient(one), rtol=1e-7, atol=1e-9)

    def test_highest_pairs(self):
        A = sp.diags_array(np.arange(1.0, 61.0), format="csr")
        method = ie.solvers.lobpcg(2, ie.ShiftInvert(61.5), which="LA")
        solve = ie.eigensolver(method, ie.Hermitian(2))
        lagged = ie.LaggedFactors(0.99 * A)
        np.testing.assert_allclose(solve(A, reuse=lagged).values, [59.0, 60.0], rtol=1e-10)


class TestFactorisations:
    """Made once for many steps, and again where they do not serve."""

    @pytest.mark.parametrize("jit", [False, True])
    def test_one_serves_all_steps(self, jit):
        pencil, p, loss = grid()
        counting = CountingLU()
        solve, lagged = by_factors(counting), ie.LaggedFactors(*pencil(p))
        gradient = jax.grad(lambda p: loss(*solve(*pencil(p), reuse=lagged)))
        gradient = jax.jit(gradient) if jit else gradient
        for seed in range(4):
            gradient(near(p, seed=seed)).block_until_ready()
        assert counting.factorisations == 1

    def test_others_are_made_where_they_do_not_serve(self):
        pencil, p, loss = grid()
        counting = CountingLU()
        solve = by_factors(counting)
        far = near(p) * jnp.logspace(-4, 4, p.size).reshape(p.shape)
        lagged = ie.LaggedFactors(*pencil(far))
        gradient = jax.grad(lambda p, **o: loss(*solve(*pencil(p), **o)))
        found = gradient(p, reuse=lagged)
        assert counting.factorisations == 2
        np.testing.assert_allclose(found, gradient(p), rtol=1e-7, atol=1e-9)

    def test_the_answer_does_not_depend_on_the_cache(self):
        pencil, p, loss = grid()
        solve, lagged = by_factors(), ie.LaggedFactors(*pencil(near(p)))
        gradient = jax.jit(jax.grad(lambda p: loss(*solve(*pencil(p), reuse=lagged))))
        first = gradient(p)
        jax.block_until_ready(jax.grad(lambda p: loss(*solve(*pencil(p))))(p))  # other factors
        second = gradient(p)
        ie.factorization_cache.clear()
        third = gradient(p)
        assert np.array_equal(first, second)
        assert np.array_equal(first, third)


class TestState:
    """When the operators are replaced, and what else the state is."""

    @staticmethod
    def states(counts, cost):
        A = sp.diags_array(np.arange(1.0, 5.0), format="csr")
        state, found = ie.LaggedFactors(A, cost=cost), []
        for t, steps in enumerate(counts):
            stats = {"steps": jnp.int32(steps), "factorised": jnp.int32(steps > 50)}
            solution = ie.Solution(jnp.ones(1), jnp.ones((4, 1)), stats=stats)
            state = state.after(solution, (t + 2) * A)
            found.append((int(state.uses), float(state.operators[0].data[0])))
        return found

    def test_replaced_when_one_more_use_costs_more_than_the_average(self):
        # extra 0, 1, 3, 5: (10 + 0 + 1 + 3) / 3 = 4.7 < 5
        found = self.states([10, 11, 13, 15, 12], cost=10)
        assert found == [(1, 1.0), (2, 1.0), (3, 1.0), (0, 5.0), (1, 5.0)]

    def test_kept_while_that_is_dear(self):
        assert self.states([10, 11, 13, 15, 16], cost=100)[-1] == (5, 1.0)

    def test_kept_where_nothing_grows(self):
        assert self.states([10] * 5, cost=0)[-1] == (5, 1.0)

    def test_replaced_where_they_did_not_serve(self):
        assert self.states([10, 60, 12], cost=1000) == [(1, 1.0), (0, 3.0), (1, 3.0)]

    def test_a_failed_solve_changes_nothing(self):
        assert self.states([-1, 10, -1, 10], cost=0)[1:] == [(1, 1.0), (1, 1.0), (2, 1.0)]

    def test_a_dear_first_solve_is_no_measure(self):
        # the first has no start; the others are compared with the cheapest
        assert self.states([30, 10, 12, 13], cost=5)[-1] == (0, 5.0)

    def test_carried_by_scan(self):
        pencil, p, loss = grid()
        solve = by_factors()

        def step(carry, seed):
            solution, lagged = carry
            A, B = pencil(p * (1 + 0.1 * seed))
            solution = solve(A, B, start=solution, reuse=lagged)
            return (solution, lagged.after(solution, A, B)), loss(*solution)

        lagged = ie.LaggedFactors(*pencil(p))
        first = solve(*pencil(p), reuse=lagged), lagged
        (_, last), losses = jax.lax.scan(step, first, jnp.arange(3.0))
        assert last.uses == 3
        expected = [loss(*solve(*pencil(p * (1 + 0.1 * s)))) for s in range(3)]
        np.testing.assert_allclose(losses, expected, rtol=1e-8)

    def test_a_start_saves_steps(self):
        pencil, p, _ = grid()
        solve, lagged = by_factors(), ie.LaggedFactors(*pencil(p))
        before = solve(*pencil(p), start=None, reuse=lagged)
        again = solve(*pencil(near(p, 1e-3)), start=before, reuse=lagged)
        assert 0 < again.stats["steps"] < before.stats["steps"]


class TestBlock:
    """LOBPCG by factors, which begins with what it is given."""

    def test_progress_may_be_slow(self):
        values = np.concatenate([1 + np.arange(8) / 100, np.linspace(2, 50, 492)])
        A = sp.diags_array(values, format="csr")
        found = ie.solvers.lobpcg(1, ie.ShiftInvert(0.0))(A)
        np.testing.assert_allclose(found[0], [1.0], rtol=1e-10)

    def test_equal_chains(self):
        chain = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(50, 50))
        A = sp.csr_array(sp.block_diag([chain] * 10))
        A = A + 1e-4 * sp.diags_array(np.ones(450), offsets=50, shape=(500, 500))
        A = sp.csr_array((A + A.T) / 2)
        for k in (1, 2, 5):
            values, _ = ie.solvers.lobpcg(k, ie.ShiftInvert(0.0))(A)
            np.testing.assert_allclose(values, np.linalg.eigvalsh(A.toarray())[:k], rtol=1e-8)

    def test_answers_are_pairs(self):
        answer = ie.solvers.lobpcg(2)(np.diag(np.arange(1.0, 31.0)))
        assert len(answer) == 2
        assert answer.figures["factorised"] == 0

    def test_operators_as_preconditioners(self):
        A = sp.diags_array(np.arange(1.0, 101.0), format="csr")
        inverse = spla.aslinearoperator(sp.diags_array(1 / np.arange(1.0, 101.0)))
        for M in (inverse, lambda A, B: inverse):
            np.testing.assert_allclose(ie.solvers.lobpcg(2, M)(A)[0], [1.0, 2.0], rtol=1e-6)

    @pytest.mark.parametrize("which", ["SA", "LA"])
    @pytest.mark.parametrize("columns", [1, 3, 8, "complex", "nan"])
    def test_starts(self, which, columns):
        A = sp.diags_array(np.arange(1.0, 101.0), format="csr")
        eigenvectors = np.eye(100)[:, :8] if which == "SA" else np.eye(100)[:, -8:]
        noise = 1e-3 * np.random.default_rng(0).standard_normal((100, 8))
        start = (eigenvectors + noise)[:, : columns if isinstance(columns, int) else 3]
        start = start.astype(complex) if columns == "complex" else start
        start = start * np.nan if columns == "nan" else start
        solver = ie.solvers.lobpcg(3, ie.ShiftInvert(0.0 if which == "SA" else 101.0), which=which)
        values = [1.0, 2.0, 3.0] if which == "SA" else [98.0, 99.0, 100.0]
        np.testing.assert_allclose(solver(A, start=start)[0], values, rtol=1e-9)

    def test_constraints_of_small_problems(self):
        A = sp.diags_array(np.arange(1.0, 19.0), format="csr")
        values, _ = ie.solvers.lobpcg(2, ie.ShiftInvert(0.0), Y=np.eye(18)[:, :1])(A)
        np.testing.assert_allclose(values, [2.0, 3.0], rtol=1e-8)

    def test_earlier_operators_that_are_singular(self):
        pencil, p, loss = grid()
        A, B = pencil(p)
        lowest = sla.eigh(A.as_matrix(), np.diag(B.data), eigvals_only=True)[0]
        singular = ie.LaggedFactors(A - lowest * B, B)
        solve = by_factors(ie.SuperLU())
        gradient = jax.grad(lambda p, **options: loss(*solve(*pencil(p), **options)))
        np.testing.assert_allclose(gradient(p, reuse=singular), gradient(p), rtol=1e-7, atol=1e-9)
        nothing = ie.LaggedFactors(0.0 * A, B)
        assert solve(A, B, reuse=nothing).stats["factorised"] == 1
        np.testing.assert_allclose(gradient(p, reuse=nothing), gradient(p), rtol=1e-7, atol=1e-9)


class TestErrors:
    """Every combination that has no meaning is refused, with a way out."""

    def test_operators(self):
        with pytest.raises(ie.InputError, match="sparse operators, whose factors are reused; got"):
            ie.LaggedFactors(jnp.eye(3))

    def test_after(self):
        A = sp.eye_array(4, format="csr")
        lagged, plain = ie.LaggedFactors(A), ie.Solution(jnp.ones(1), jnp.ones((4, 1)))
        with pytest.raises(ie.InputError, match=r'`stats\["steps"\]`, which .* counts; got one'):
            lagged.after(plain, A)
        counted = ie.Solution(
            jnp.ones(1), jnp.ones((4, 1)), stats={"steps": jnp.int32(3), "factorised": jnp.int32(0)}
        )
        other = sp.csr_array(np.ones((4, 4)))
        with pytest.raises(ie.InputError, match="the same pattern as those"):
            lagged.after(counted, other)

    def test_a_shift_that_moves(self):
        pencil, p, loss = grid()
        lagged = ie.LaggedFactors(*pencil(p))
        solve = ie.eigensolver(
            ie.solvers.arpack(sigma=0.0),
            ie.Hermitian(K),
            linear_solver=ie.ShiftInvert(reuse=lagged),
        )
        with pytest.raises(ie.InputError, match=r"a fixed shift .* got no `sigma`"):
            jax.grad(lambda p: loss(*solve(*pencil(p))))(p)
        with pytest.raises(ie.InputError, match=r"a real shift beyond the eigenvalues; got None"):
            ie.solvers.lobpcg(preconditioner=ie.ShiftInvert())

    def test_one_matrix(self):
        A = sp.diags_array(np.arange(1.0, 9.0), format="csr")
        skew = sp.diags_array([1.0, -0.5], offsets=[0, 1], shape=(8, 8), format="csr")
        lagged, b = ie.LaggedFactors(1.1 * A), jnp.ones(8)
        operator = lambda M: ie.SparseOperator.from_scipy(M)
        solver = ie.ShiftInvert(0.5, reuse=lagged)
        x = lx.linear_solve(operator(A), b, solver).value
        assert np.linalg.norm(A @ x - b) < 1e-8
        with pytest.raises(ie.InputError, match=r"a fixed shift .* got no `sigma`"):
            lx.linear_solve(operator(A), b, ie.ShiftInvert(reuse=lagged))
        with pytest.raises(jax.errors.JaxRuntimeError, match="got another kind of problem"):
            lx.linear_solve(operator(skew), b, solver)  # seen on the host, by the entries

    def test_other_kinds_of_problem(self):
        pencil, p, _ = grid()
        lagged = ie.LaggedFactors(*pencil(p))
        method = ie.solvers.lobpcg(preconditioner=ie.ShiftInvert(0.0))
        solve = ie.eigensolver(method, ie.Subspace(K))
        energy = lambda p: jnp.sum(solve(*pencil(p), reuse=lagged).vectors[0] ** 2)
        with pytest.raises(ie.InputError, match="got another kind of problem"):
            jax.grad(energy)(p)

    def test_solvers_that_cannot_reuse(self):
        pencil, p, _ = grid()
        lagged = ie.LaggedFactors(*pencil(p))
        arpack = ie.eigensolver(ie.solvers.arpack(sigma=0.0), ie.Hermitian(K))
        with pytest.raises(ie.InputError, match="a solver that takes `reuse`; got one that takes"):
            arpack(*pencil(p), reuse=lagged)
        bare = ie.eigensolver(ie.solvers.lobpcg(), ie.Hermitian(K))
        with pytest.raises(ie.InputError, match=r"`solvers.lobpcg\(preconditioner=ShiftInvert\("):
            bare(*pencil(p), reuse=lagged)
        own = by_factors(linear_solver=ie.MINRES())
        with pytest.raises(ie.InputError, match="whose linear solver is `ShiftInvert"):
            own(*pencil(p), reuse=lagged)

    def test_another_size(self):
        pencil, p, _ = grid()
        smaller, q = grid_pencil(9)
        with pytest.raises(ie.InputError, match="the same size, n = 100; got 81"):
            by_factors()(*pencil(p), reuse=ie.LaggedFactors(*smaller(q)))

    def test_options_of_the_solver(self):
        lagged = ie.LaggedFactors(sp.eye_array(4, format="csr"))
        with pytest.raises(ie.InputError, match="a solver without `reuse`"):
            ie.solvers.lobpcg(2, ie.ShiftInvert(0.0, reuse=lagged))
        with pytest.raises(ie.InputError, match=r"a real shift .* got 1j"):
            ie.solvers.lobpcg(2, ie.ShiftInvert(1j))

    def test_something_else_than_lagged_factors(self):
        pencil, p, _ = grid()
        with pytest.raises(ie.InputError, match=r"a `LaggedFactors\(A, B\)`, and"):
            by_factors()(*pencil(p), reuse=jnp.ones(3))


class TestSpace:
    """The common space of all systems, against dense solves."""

    @staticmethod
    def solve(R, lam, distance, max_steps=50):
        n = 40
        A = np.diag(np.linspace(2.0, 9.0, n)) + 0.1 * np.ones((n, n))
        inverse = np.linalg.inv(A + distance * np.diag(np.linspace(0.0, 1.0, n)))
        made = []

        def products(V):
            made.append(V.shape[1])
            return np.asfortranarray(A @ V), V

        residual = lambda R, Z, lam: np.asfortranarray(R - A @ Z + lam * Z)
        apply = lambda V: np.asfortranarray(inverse @ V)
        tol = np.full(R.shape[1], 1e-10)
        Z, steps = solve_preconditioned(products, residual, apply, R, apply(R), lam, tol, max_steps)
        return np.linalg.norm(residual(R, Z, lam), axis=0), steps, made

    def test_many_systems(self):
        R = np.asfortranarray(np.random.default_rng(0).standard_normal((40, 4)))
        residuals, steps, made = self.solve(R, np.array([0.0, 0.5, 1.0, 1.5]), 1.0)
        assert np.max(residuals) < 1e-10
        assert len(made) == steps
        assert sum(made) <= 40

    def test_dependent_right_sides(self):
        b = np.random.default_rng(0).standard_normal((40, 1))
        R = np.asfortranarray(np.hstack([b, 2 * b, b]))
        residuals, _, made = self.solve(R, np.zeros(3), 0.5)
        assert made[0] == 1
        assert np.max(residuals) < 1e-10

    def test_ends_after_max_steps(self):
        R = np.asfortranarray(np.random.default_rng(0).standard_normal((40, 2)))
        residuals, steps, _ = self.solve(R, np.zeros(2), 5.0, max_steps=2)
        assert steps == 2
        assert np.max(residuals) > 1e-10
