"""Every linear solver gives the gradient in both modes, counts its solves, and admits failure."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse.linalg as spla
from problems import Counting, eigh, grid_pencil, invariant_loss, jitted, random_hermitian

import implicit_eig as ie

K = 3
JSP = jax.scipy.sparse.linalg


def as_function(operator):
    return lx.FunctionLinearOperator(operator.mv, operator.in_structure())


def dense(operator):
    return operator.as_matrix()


def sparse(operator):
    return operator


def host_minres(A, b):
    return spla.minres(A, b, rtol=1e-12, maxiter=10 * len(b))


def host_gmres(A, b):
    return spla.gmres(A, b, rtol=1e-12, restart=40, maxiter=100)


def own_function(matvec, b):
    """A user's solver: dense, from products."""
    return jnp.linalg.solve(jax.vmap(matvec, out_axes=1)(jnp.eye(b.size, dtype=b.dtype)), b)


SOLVERS = {
    "default dense": (None, dense),
    "default sparse": (None, sparse),
    "default matrix-free": (None, as_function),
    "lineax LU": (lx.LU(), dense),
    "lineax auto": (lx.AutoLinearSolver(well_posed=True), dense),
    "lineax QR": (lx.QR(), dense),
    "lineax Cholesky": (lx.Cholesky(), dense),
    "lineax CG": (lx.CG(rtol=1e-12, atol=0.0), sparse),
    "lineax GMRES": (lx.GMRES(rtol=1e-12, atol=0.0, restart=40), sparse),
    "lineax BiCGStab": (lx.BiCGStab(rtol=1e-12, atol=0.0), sparse),
    "lineax Normal CG": (lx.Normal(lx.CG(rtol=1e-13, atol=0.0)), sparse),
    "MINRES": (ie.MINRES(), sparse),
    "SparseDirect": (ie.SparseDirect(), sparse),
    "SparseDirect of the user": (ie.SparseDirect(lambda A: spla.splu(A).solve), sparse),
    "jax.scipy cg": (ie.linear_solver(JSP.cg, tol=1e-12), as_function),
    "jax.scipy gmres": (ie.linear_solver(JSP.gmres, tol=1e-12, restart=40), sparse),
    "jax.scipy bicgstab": (ie.linear_solver(JSP.bicgstab, tol=1e-12), dense),
    "bare function": (own_function, sparse),
    "host minres": (ie.host_linear_solver(host_minres), sparse),
    "host gmres": (ie.host_linear_solver(host_gmres), as_function),
    "host dense": (ie.host_linear_solver(np.linalg.solve), dense),
}


@pytest.fixture(scope="module")
def expected_both():
    """The gradient and a Hessian product, by LAPACK and LU; checked against finite differences."""
    pencil, p = grid_pencil(5)
    loss = invariant_loss(K, 25)
    solve = ie.eigensolver(eigh, ie.Hermitian(K), linear_solver=lx.LU())
    f = lambda p: loss(*solve(*map(dense, pencil(p))))
    derivatives = jitted(f, lambda p: jax.jvp(jax.grad(f), (p,), (p,)))
    _, (gradient, product) = derivatives(p)
    of_f, (of_gradient, _) = ie.testing.finite_difference(
        derivatives, (p,), (p,), step=1e-3, order=4
    )
    assert abs(jnp.vdot(gradient, p) - of_f) < 1e-8 * abs(of_f)
    assert jnp.max(jnp.abs(product - of_gradient)) < 1e-7 * jnp.max(jnp.abs(product))
    return gradient, product


@pytest.fixture
def expected(expected_both):
    return expected_both[0]


def check(solver, make, expected, tol=1e-8, **options):
    pencil, p = grid_pencil(5)
    loss = invariant_loss(K, 25)
    solve = ie.eigensolver(eigh, ie.Hermitian(K), linear_solver=solver, **options)
    f = lambda p: loss(*solve(*map(make, pencil(p))))
    derivatives = lambda p: (*jax.jvp(jax.grad(f), (p,), (p,)), jax.jvp(f, (p,), (p,))[1])
    gradient, product, pushed = jax.jit(derivatives)(p)
    size = float(jnp.max(jnp.abs(expected[0])))
    assert jnp.max(jnp.abs(gradient - expected[0])) < tol * size
    assert abs(pushed - jnp.vdot(expected[0], p)) < tol * size * p.size
    assert jnp.max(jnp.abs(product - expected[1])) < 1e2 * tol * jnp.max(jnp.abs(expected[1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SOLVERS))
def test_both_modes_and_orders(name, expected_both):
    check(*SOLVERS[name], expected_both)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "solve_" + name
        for name in ["cg", "gmres", "bicgstab", "normal_cg", "lu", "qr", "cholesky", "inv"]
    ],
)
def test_jaxopt(name, expected_both):
    jaxopt = pytest.importorskip("jaxopt")
    solver = getattr(jaxopt.linear_solve, name)
    iterative = name in ("solve_cg", "solve_gmres", "solve_bicgstab", "solve_normal_cg")
    options = {"tol": 1e-13} if iterative else {}
    check(ie.linear_solver(solver, **options), sparse, expected_both)


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [ie.MINRES(), lx.LU(), lx.GMRES(rtol=1e-12, atol=1e-12, restart=60), Counting().solver()],
)
@pytest.mark.parametrize("system", [ie.Deflated(), ie.Bordered()])
def test_interior_pairs_are_indefinite_systems(solver, system):
    n, pick, dtype = 20, np.array([9, 4]), np.complex128
    A = random_hermitian(n, dtype, 0)
    solver_of_pairs = lambda A: tuple(part[..., pick] for part in np.linalg.eigh(A))
    loss = invariant_loss(2, n)
    solve = ie.eigensolver(solver_of_pairs, ie.Hermitian(2), linear_solver=solver, system=system)
    oracle = lambda A: tuple(part[..., pick] for part in jnp.linalg.eigh(A))
    D = random_hermitian(n, dtype, 3)

    def derivatives(pairs):
        f = lambda A: loss(*pairs(A))
        return lambda A: (jax.grad(f)(A), jax.jvp(f, (A,), (D,))[1])

    (found, pushed), (expected, exact) = jitted(derivatives(solve), derivatives(oracle))(A)
    assert jnp.max(jnp.abs(found - expected)) < 1e-8 * jnp.max(jnp.abs(expected))
    assert abs(pushed - exact) < 1e-8 * jnp.max(jnp.abs(expected)) * n


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "transform"),
    [
        ("default dense", "jit vmap"),
        ("default sparse", "jit vmap"),
        ("MINRES", "jit vmap"),
        ("host gmres", "jit vmap"),
        ("host gmres", "vmap"),
    ],
)
def test_vmap(name, transform, expected):
    solver, make = SOLVERS[name]
    pencil, p = grid_pencil(5)
    loss = invariant_loss(K, 25)
    solve = ie.eigensolver(eigh, ie.Hermitian(K), linear_solver=solver)
    gradient = jax.vmap(jax.grad(lambda p: loss(*solve(*map(make, pencil(p))))))
    gradient = jax.jit(gradient) if transform == "jit vmap" else gradient
    found = gradient(jnp.stack([p, 1.1 * p]))[0]
    assert jnp.max(jnp.abs(found - expected)) < 1e-8 * jnp.max(jnp.abs(expected))


class TestCounts:
    """How many systems a derivative solves."""

    @pytest.fixture
    def setup(self):
        counting = Counting()
        A = random_hermitian(12, seed=0)
        solve = ie.eigensolver(eigh, ie.Hermitian(4), linear_solver=counting.solver())
        return counting, solve, A

    def run(self, f, A, transform):
        jax.block_until_ready(transform(f)(A))

    @pytest.mark.parametrize("wrap", [lambda g: g, jax.jit])
    def test_values_need_none(self, setup, wrap):
        counting, solve, A = setup
        f = lambda A: jnp.sum(solve(A).values ** 2)
        self.run(f, A, lambda f: wrap(jax.grad(f)))
        self.run(lambda A: solve(A).values, A, lambda f: wrap(jax.jacrev(f)))
        push = lambda A: jax.jvp(lambda A: solve.values(A), (A,), (A,))[1]
        jax.block_until_ready(wrap(push)(A))
        self.run(lambda A: jnp.sum(solve.values(A)), A, lambda f: wrap(jax.grad(f)))
        assert counting.calls == 0

    def test_values_in_forward_mode_need_none_under_jit(self, setup):
        counting, solve, A = setup
        push = jax.jit(lambda A: jax.jvp(lambda A: solve(A).values, (A,), (A,))[1])
        jax.block_until_ready(push(A))
        assert counting.calls == 0

    @pytest.mark.parametrize("wrap", [lambda g: g, jax.jit])
    @pytest.mark.parametrize("used", [[0], [1, 3], [0, 1, 2, 3]])
    def test_one_for_each_vector_used(self, setup, wrap, used):
        counting, solve, A = setup
        S = random_hermitian(12, seed=5)
        f = lambda A: jnp.sum(solve(A).vectors[:, jnp.array(used)] ** 2 * S[:, : len(used)])
        self.run(f, A, lambda f: wrap(jax.grad(f)))
        assert counting.calls == len(used)

    def test_values_of_the_second_derivative(self, setup):
        """The Hessian of a value needs the vectors' derivative: one solve a direction and pair."""
        counting, solve, A = setup
        f = lambda A: solve(A).values[0]
        jax.block_until_ready(jax.jit(lambda A: jax.jvp(jax.grad(f), (A,), (A,))[1])(A))
        assert counting.calls <= 4

    def test_skipping_in_traced_solvers(self):
        """A lineax solver skips zero columns too."""
        calls = []

        class Spy(lx.LU):
            def compute(self, state, vector, options):
                jax.debug.callback(lambda: calls.append(1))
                return super().compute(state, vector, options)

        A = random_hermitian(12, seed=0)
        solve = ie.eigensolver(eigh, ie.Hermitian(4), linear_solver=Spy())
        jax.block_until_ready(jax.jit(jax.grad(lambda A: solve(A).vectors[0, 1] ** 2))(A))
        jax.effects_barrier()
        assert len(calls) == 1


class TestMonitor:
    """What `Policy(monitor=...)` is told."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("solver", "make", "name", "least"),
        [
            (None, dense, "LU", 0),
            (None, sparse, "ShiftInvert", 2),
            (None, as_function, "MINRES", 5),
            (lx.GMRES(rtol=1e-10, atol=0.0, restart=40), sparse, "GMRES", 2),
            (ie.SparseDirect(), sparse, "SparseDirect", 0),
            (ie.host_linear_solver(host_minres), sparse, "HostLinearSolver", 5),
            (ie.linear_solver(JSP.cg, tol=1e-12), sparse, "FunctionLinearSolver", -1),
        ],
        ids=lambda case: case if isinstance(case, str) else None,
    )
    def test_reports(self, solver, make, name, least):
        reports = []
        policy = ie.Policy(monitor=reports.append)
        pencil, p = grid_pencil(5)
        solve = ie.eigensolver(eigh, ie.Hermitian(K), linear_solver=solver, policy=policy)
        # of the second vector alone
        gradient = jax.jit(jax.grad(lambda p: solve(*map(make, pencil(p))).vectors[0, 1] ** 2))
        jax.block_until_ready(gradient(p))
        jax.effects_barrier()
        (report,) = reports
        assert report.solver == name
        assert report.steps.shape == report.residuals.shape == (K,)
        assert np.all(report.residuals < 1e-8)
        assert report.residuals[0] == 0
        assert report.steps[1] >= least
        assert least > 0 or report.steps[1] == least

    def test_the_error_says_how_many_steps(self):
        pencil, p = grid_pencil(5)
        solve = ie.eigensolver(eigh, ie.Hermitian(K), linear_solver=ie.MINRES(max_steps=3))
        with pytest.raises(jax.errors.JaxRuntimeError, match="systems failed after 3 steps"):
            jax.jit(jax.grad(lambda p: solve(*pencil(p)).vectors[0, 1] ** 2))(p)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default dense", "default sparse", "default matrix-free"])
def test_nan_that_is_handed_in_is_no_failed_solve(name):
    make = SOLVERS[name][1]
    pencil, p = grid_pencil(4)
    spoilt = lambda A, B: tuple(part * np.nan for part in eigh(A, B))
    policy = ie.Policy(forward=ie.Action.NAN)
    loss = lambda solver: (
        lambda p: jnp.sum(
            ie.eigensolver(solver, ie.Hermitian(K), policy=policy)(*map(make, pencil(p))).vectors[0]
        )
    )
    assert jnp.all(jnp.isnan(jax.jit(jax.grad(loss(spoilt)))(p)))
    lenient = lambda A, B: np.linalg.eigh(np.eye(16))
    assert jnp.all(jnp.isnan(jax.jit(jax.grad(loss(lenient)))(p.at[0, 0].set(jnp.nan))[0]))
    _, vjp = jax.vjp(jax.jit(loss(eigh)), p)
    assert jnp.all(jnp.isnan(vjp(jnp.nan)[0]))


STALLED = [
    ie.linear_solver(JSP.gmres, tol=1e-10, restart=2, maxiter=2),
    lx.GMRES(rtol=1e-10, atol=0.0, restart=2, max_steps=6),
    ie.linear_solver(JSP.cg, tol=1e-10, maxiter=3),
    ie.MINRES(max_steps=3),
    ie.host_linear_solver(lambda A, b: spla.gmres(A, b, restart=2, maxiter=2)),
    ie.host_linear_solver(lambda A, b: spla.gmres(A, b, restart=2, maxiter=2)[0]),
]


class TestFailures:
    """A failed solve is never a number."""

    def gradient(self, solver, policy=ie.Policy(), jit=True, make=sparse):  # noqa: B008
        pencil, p = grid_pencil(8)
        solve = ie.eigensolver(eigh, ie.Hermitian(K), linear_solver=solver, policy=policy)
        loss = invariant_loss(K, 64)
        gradient = jax.grad(lambda p: loss(*solve(*map(make, pencil(p)))))
        return jax.block_until_ready((jax.jit(gradient) if jit else gradient)(p))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("solver", "jit"), [(solver, True) for solver in STALLED] + [(STALLED[3], False)]
    )
    def test_raises(self, solver, jit):
        with pytest.raises(
            jax.errors.JaxRuntimeError, match="must be solved to a relative residual"
        ):
            self.gradient(solver, jit=jit)

    @pytest.mark.parametrize("solver", STALLED[:3])
    def test_gives_nan(self, solver):
        policy = ie.Policy(linear_solve=ie.Action.NAN)
        assert bool(jnp.all(jnp.isnan(self.gradient(solver, policy))))

    def test_warns(self):
        policy = ie.Policy(linear_solve=ie.Action.WARN)
        with pytest.warns(ie.LinearSolveWarning, match="3 of 3 systems failed"):
            found = self.gradient(STALLED[0], policy)
        assert bool(jnp.all(jnp.isfinite(found)))

    def test_ignores_when_told(self):
        policy = ie.Policy(linear_solve=ie.Action.IGNORE)
        assert bool(jnp.all(jnp.isfinite(self.gradient(STALLED[0], policy))))

    def test_tolerance_is_the_users(self):
        policy = ie.Policy(linear_solve_rtol=0.9)
        loose = ie.linear_solver(JSP.cg, tol=1e-10, maxiter=12)
        assert bool(jnp.all(jnp.isfinite(self.gradient(loose, policy))))

    def test_a_solver_of_default_tolerance_is_held_to_it(self):
        """`jax.scipy` solves to 1e-5 by default, and says so in its signature."""
        exact = self.gradient(None)
        found = self.gradient(JSP.cg)
        assert jnp.max(jnp.abs(found - exact)) < 1e-3 * jnp.max(jnp.abs(exact))

    def test_a_solver_of_unknown_tolerance_is_held_to_1e_5(self):
        loose = lambda matvec, b: JSP.cg(matvec, b, tol=5e-5)[0]
        with pytest.raises(jax.errors.JaxRuntimeError, match=r"relative residual of 1\.0e-05; got"):
            self.gradient(loose)
        self.gradient(loose, ie.Policy(linear_solve_rtol=1e-4))

    def test_exception_of_a_host_solver_arrives(self):
        def broken(A, b):
            raise RuntimeError("licence of the solver expired")

        with pytest.raises(jax.errors.JaxRuntimeError, match="licence of the solver expired"):
            self.gradient(ie.host_linear_solver(broken))

    def test_wrong_shape_of_a_host_solution(self):
        with pytest.raises(
            jax.errors.JaxRuntimeError, match=r"a solution of shape \(64,\); got \(63,\)"
        ):
            self.gradient(ie.host_linear_solver(lambda A, b: b[1:]))

    def test_wrong_shape_of_a_traced_solution(self):
        with pytest.raises(ie.InputError, match=r"a solution of shape \(64,\); got \(63,\)"):
            self.gradient(ie.linear_solver(lambda matvec, b: b[1:]))

    def test_cut_cluster_is_noticed(self):
        """k = 1 of a double value: the system is singular, whatever solves it."""
        A = jnp.diag(jnp.array([1.0, 1.0, 2.0, 3.0]))
        S = random_hermitian(4, seed=1)
        first = lambda A: tuple(part[..., :1] for part in np.linalg.eigh(A))
        for solver in (None, ie.MINRES()):
            solve = ie.eigensolver(first, ie.Hermitian(1), linear_solver=solver)
            loss = lambda A, s=solve: jnp.sum((S @ s(A).vectors) ** 2)
            reported = "system is singular.*" if solver is None else ""
            with pytest.raises(jax.errors.JaxRuntimeError, match=f"{reported}cluster that k cuts"):
                jax.block_until_ready(jax.jit(jax.grad(loss))(A))


class TestRefusals:
    """What does not go together says so."""

    def gradient(self, make=sparse, **options):
        pencil, p = grid_pencil(3)
        solve = ie.eigensolver(eigh, ie.Hermitian(1), **options)
        return jax.jit(jax.grad(lambda p: solve(*map(make, pencil(p))).vectors[0, 0] ** 2))(p)

    @pytest.mark.parametrize("solver", [lx.LU(), lx.QR(), lx.SVD(), lx.Cholesky()])
    @pytest.mark.parametrize("make", [sparse, as_function])
    def test_dense_solver_of_a_sparse_operator(self, solver, make):
        with pytest.raises(ie.InputError, match="dense operators, since it factorises"):
            self.gradient(make, linear_solver=solver)

    def test_sparse_direct_with_deflation(self):
        with pytest.raises(ie.InputError, match="a system that stays sparse"):
            self.gradient(linear_solver=ie.SparseDirect(), system=ie.Deflated())

    def test_sparse_direct_of_a_dense_operator(self):
        with pytest.raises(jax.errors.JaxRuntimeError, match="a sparse matrix to factorise"):
            jax.block_until_ready(self.gradient(dense, linear_solver=ie.SparseDirect()))

    def test_auto_with_deflation_of_sparse_operators_iterates(self):
        expected = self.gradient()
        found = self.gradient(system=ie.Deflated())
        assert jnp.max(jnp.abs(found - expected)) < 1e-9

    def test_unknown_option(self):
        with pytest.raises(ie.InputError, match="a call that does not bind"):
            ie.linear_solver(JSP.cg, tolerance=1e-8)


class TestAsLineaxSolvers:
    """The package's solvers work in `lineax.linear_solve` too."""

    @pytest.mark.parametrize(
        "solver",
        [
            ie.MINRES(),
            ie.AutoLinearSolver(),
            ie.linear_solver(JSP.cg, tol=1e-13),
            ie.host_linear_solver(lambda A, b: np.linalg.solve(A, b)),
        ],
    )
    def test_dense(self, solver):
        A = random_hermitian(8, seed=0)
        A, b = A @ A + jnp.eye(8), jnp.arange(1.0, 9.0)
        operator = lambda A: lx.MatrixLinearOperator(A, lx.symmetric_tag)
        f = lambda A, b: lx.linear_solve(operator(A), b, solver).value
        exact = lambda A, b: jnp.linalg.solve(A, b)
        values_and_jacobians = jitted(
            *(lambda A, b, g=g: (g(A, b), jax.jacrev(g, argnums=1)(A, b)) for g in (f, exact))
        )
        (value, found), (expected_value, expected) = values_and_jacobians(A, b)
        assert jnp.max(jnp.abs(value - expected_value)) < 1e-9
        assert jnp.max(jnp.abs(found - expected)) < 1e-8
        conj = solver.conj(solver.init(operator(A), {}), {})[0]
        assert jnp.max(jnp.abs(solver.compute(conj, b, {})[0] - exact(A, b))) < 1e-9
        assert solver.assume_full_rank()

    def test_sparse(self):
        pencil, p = grid_pencil(4)
        A, _ = pencil(p)
        b = jnp.arange(1.0, 17.0)
        for solver in (ie.SparseDirect(), ie.AutoLinearSolver()):
            found = lx.linear_solve(A, b, solver).value
            assert jnp.max(jnp.abs(A.mv(found) - b)) < 1e-9

    def test_minres_on_complex_indefinite(self):
        A = random_hermitian(30, np.complex128, 0)
        b = jnp.asarray(np.random.default_rng(0).standard_normal(30) + 0j)
        solver = ie.MINRES(rtol=1e-12)
        x, result, stats = solver.compute(lx.MatrixLinearOperator(A), b, {})
        assert result == lx.RESULTS.successful
        assert jnp.linalg.norm(A @ x - b) <= 1e-12 * jnp.linalg.norm(b)
        assert stats["num_steps"] <= 60

    def test_minres_on_zero(self):
        A = lx.MatrixLinearOperator(random_hermitian(5, seed=0))
        x, result, stats = ie.MINRES().compute(A, jnp.zeros(5), {})
        assert not jnp.any(x)
        assert stats["num_steps"] == 0
        assert result == lx.RESULTS.successful

    @pytest.mark.parametrize(
        ("of_matrix", "of_side"),
        [(1e-170, 1.0), (1.0, 1e-170), (1e-170, 1e-170), (1e160, 1.0), (1.0, 1e160)],
    )
    def test_minres_where_squares_are_no_numbers(self, of_matrix, of_side):
        M = random_hermitian(20, seed=1)
        b = jnp.asarray(np.random.default_rng(2).standard_normal(20))
        A = lx.MatrixLinearOperator(of_matrix * M, lx.symmetric_tag)
        x = lx.linear_solve(A, of_side * b, ie.MINRES()).value
        assert jnp.linalg.norm(A.mv(x) / of_side - b) < 1e-9 * jnp.linalg.norm(b)
