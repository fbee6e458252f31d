"""Solvers of other libraries: their own options reach them, in both modes."""

import contextlib
import importlib

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from problems import eigh, grid_pencil, invariant_loss, jitted, random_hermitian

import implicit_eig as ie

M, K = 8, 3
JSP = jax.scipy.sparse.linalg


def derivatives(solver, **options):
    """The gradient, and a derivative in forward mode."""
    pencil, p = grid_pencil(M)
    loss = invariant_loss(K, M * M)
    solve = ie.eigensolver(eigh, ie.Hermitian(K), linear_solver=solver, **options)
    f = lambda p: loss(*solve(*pencil(p)))
    return jitted(jax.grad(f), lambda p: jax.jvp(f, (p,), (p,))[1])(p)


@pytest.fixture(scope="module")
def expected():
    return derivatives(ie.SparseDirect())


def agrees(found, expected, tol=1e-7):
    size = float(jnp.max(jnp.abs(expected[0])))
    assert jnp.max(jnp.abs(found[0] - expected[0])) < tol * size
    assert abs(found[1] - expected[1]) < tol * size * M * M


def stiffness():
    pencil, p = grid_pencil(M)
    op = pencil(p)[0]
    places = (np.asarray(op.rows), np.asarray(op.cols))
    return sp.csr_matrix((np.asarray(op.data), places), shape=op.shape)


class TestSciPy:
    """Host solvers, with their restarts, starts and preconditioners."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "solve",
        [
            lambda A, b: spla.minres(A, b, rtol=1e-12, maxiter=1000),
            lambda A, b: spla.gmres(A, b, rtol=1e-11, restart=50, maxiter=50),
            lambda A, b: spla.lgmres(A, b, rtol=1e-11, inner_m=40, maxiter=200),
            lambda A, b: spla.gcrotmk(A, b, rtol=1e-11, m=40, maxiter=200),
            lambda A, b: spla.gcrotmk(A, b, x0=np.ones_like(b), rtol=1e-11, m=40, maxiter=200),
        ],
        ids=["minres", "gmres", "lgmres", "gcrotmk", "gcrotmk with a start"],
    )
    @pytest.mark.parametrize("system", [ie.Deflated(), ie.Bordered()])
    def test_krylov(self, solve, system, expected):
        agrees(derivatives(ie.host_linear_solver(solve, rtol=1e-10), system=system), expected)

    def test_pyamg_as_preconditioner_saves_steps(self, expected):
        pyamg = pytest.importorskip("pyamg")
        preconditioner = pyamg.smoothed_aggregation_solver(stiffness()).aspreconditioner()

        def steps_of(**options):
            steps = []

            def solve(A, b):
                count = lambda _: steps.append(1)
                return spla.minres(A, b, rtol=1e-12, maxiter=1000, callback=count, **options)

            agrees(derivatives(ie.host_linear_solver(solve, rtol=1e-10)), expected)
            return len(steps)

        assert steps_of(M=preconditioner) < 0.6 * steps_of()

    def test_petsc(self, expected):
        with contextlib.suppress(ImportError):  # whose MPI a PETSc from wheels finds
            importlib.import_module("mpi4py.MPI")
        petsc = pytest.importorskip("petsc4py.PETSc")

        def solve(A, b):
            csr = sp.csr_matrix(A)
            matrix = petsc.Mat().createAIJ(csr.shape, csr=(csr.indptr, csr.indices, csr.data))
            ksp = petsc.KSP().create()
            ksp.setOperators(matrix)
            ksp.setType("gmres")
            ksp.getPC().setType("none")
            ksp.setTolerances(rtol=1e-12, max_it=5000)
            x, rhs = matrix.createVecs()
            rhs.setArray(b)
            ksp.solve(rhs, x)
            return x.getArray().copy(), 0 if ksp.getConvergedReason() > 0 else 1

        # the bordered matrix is assembled; the deflated one is a product
        agrees(derivatives(ie.host_linear_solver(solve), system=ie.Bordered()), expected)


def smallest_pair(A):
    values, vectors = np.linalg.eig(A)
    first = np.argmin(np.abs(values))
    return values[[first]], vectors[:, [first]]


class TestOptions:
    """Tolerance, preconditioner, start and restart are the user's, in both modes."""

    @pytest.fixture
    def preconditioner(self):
        """The inverse of the stiffness, that counts its applications."""
        inverse = jnp.asarray(np.linalg.inv(stiffness().toarray()))
        calls = []

        def apply(x):
            jax.debug.callback(lambda: calls.append(1))
            return inverse @ x

        like = jax.ShapeDtypeStruct((M * M,), jnp.float64)
        return lx.FunctionLinearOperator(apply, like, lx.positive_semidefinite_tag), calls

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "solver",
        [
            lx.CG(rtol=1e-11, atol=1e-11),
            lx.GMRES(rtol=1e-11, atol=1e-11, restart=40),
            lx.BiCGStab(rtol=1e-11, atol=1e-11),
        ],
        ids=lambda solver: type(solver).__name__,
    )
    def test_of_lineax(self, solver, preconditioner, expected):
        operator, calls = preconditioner
        wrapped = ie.linear_solver(solver, preconditioner=operator, y0=jnp.zeros(M * M))
        agrees(derivatives(wrapped), expected)
        jax.effects_barrier()
        assert calls

    def test_start_of_lineax_is_used(self):
        """A start that is the solution needs no step."""
        A, b = jnp.diag(jnp.arange(1.0, 5)), jnp.ones(4)
        operator = lx.MatrixLinearOperator(A, lx.positive_semidefinite_tag)
        for y0, steps in ((b / jnp.arange(1.0, 5), 1), (jnp.zeros(4), 5)):
            solver = ie.linear_solver(lx.CG(rtol=1e-10, atol=1e-10), y0=y0)
            solution = lx.linear_solve(operator, b, solver)
            assert solution.stats["num_steps"] <= steps
            assert jnp.max(jnp.abs(A @ solution.value - b)) < 1e-9

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["cg", "gmres", "bicgstab"])
    def test_of_jax_scipy(self, name, preconditioner, expected):
        operator, calls = preconditioner
        solver = ie.linear_solver(
            getattr(JSP, name), tol=1e-11, M=operator.mv, x0=jnp.zeros(M * M), maxiter=500
        )
        agrees(derivatives(solver), expected)
        jax.effects_barrier()
        assert calls

    @pytest.mark.parametrize("parts", [False, True], ids=["joined", "in parts"])
    def test_of_lineax_for_a_bordered_system(self, parts):
        """A preconditioner of the border and the rest, that makes GMRES converge in few steps."""
        rng = np.random.default_rng(0)
        size = jnp.asarray(10.0 ** np.linspace(0, 4, 40))
        A = jnp.diag(size) + jnp.asarray(0.02 * rng.standard_normal((40, 40)))

        def product(v):
            x, mu = v if parts else (v[:40], v[40:])
            x = x / size.astype(x.dtype)
            return (x, mu) if parts else jnp.concatenate([x, mu])

        like = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.complex128)
        structure = (like(40), like(1)) if parts else like(41)
        operator = lx.FunctionLinearOperator(product, structure)
        start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), structure)
        gmres = lx.GMRES(rtol=1e-9, atol=1e-9, restart=15, stagnation_iters=15)
        steps = []

        def gradient(linear_solver):
            policy = ie.Policy(monitor=lambda report: steps.append(report.steps.max()))
            solve = ie.eigensolver(
                smallest_pair, ie.General(1), linear_solver=linear_solver, policy=policy
            )
            weights = jnp.arange(40.0)
            loss = lambda A: weights @ jnp.abs(solve(A).vectors[:, 0]) ** 2
            return jax.grad(loss)(A)

        found = gradient(ie.linear_solver(gmres, preconditioner=operator, y0=start))
        assert steps[-1] <= 15
        expected = gradient(lx.LU())
        assert jnp.linalg.norm(found - expected) < 1e-6 * jnp.linalg.norm(expected)

    @pytest.mark.parametrize("bad", [{"precond": None}, {"tol": 1e-3}])
    def test_unknown_option_of_lineax(self, bad):
        with pytest.raises(ie.InputError, match="`preconditioner` or `y0`"):
            ie.linear_solver(lx.CG(rtol=1e-8, atol=1e-8), **bad)

    def test_option_of_a_direct_solver(self):
        with pytest.raises(ie.InputError, match="for LU"):
            ie.linear_solver(lx.LU(), y0=jnp.zeros(3))


class TestMINRES:
    """One loop for all pairs."""

    def test_preconditioner_saves_steps(self, expected):
        inverse = lx.MatrixLinearOperator(jnp.asarray(np.linalg.inv(stiffness().toarray())))
        for dtype in (jnp.float64, jnp.complex128):
            A = lx.MatrixLinearOperator(jnp.asarray(stiffness().toarray(), dtype))
            P = lx.MatrixLinearOperator(inverse.matrix.astype(dtype))
            b = jnp.asarray(np.random.default_rng(0).standard_normal(M * M), dtype)
            plain, good = (ie.MINRES(preconditioner=P).compute(A, b, {}) for P in (None, P))
            assert good[2]["num_steps"] <= 3 < 20 < plain[2]["num_steps"]
            assert jnp.linalg.norm(A.mv(good[0]) - b) <= 1e-10 * jnp.linalg.norm(b)
        agrees(derivatives(ie.MINRES(preconditioner=inverse)), expected)

    def test_preconditioner_made_of_what_is_differentiated(self, expected):
        pencil, p = grid_pencil(M)
        loss = invariant_loss(K, M * M)

        def f(p):
            A, B = pencil(p)
            diagonal = jnp.zeros(M * M).at[A.rows].add(jnp.where(A.rows == A.cols, A.data, 0))
            solver = ie.MINRES(preconditioner=lx.DiagonalLinearOperator(1 / diagonal))
            return loss(*ie.eigensolver(eigh, ie.Hermitian(K), linear_solver=solver)(A, B))

        agrees(jitted(jax.grad(f), lambda p: jax.jvp(f, (p,), (p,))[1])(p), expected)

    def test_pairs_leave_as_they_converge(self):
        """Products made, counted: each column pays for its own steps alone."""
        calls = []
        spectrum = jnp.asarray(np.concatenate([[1.0, 2.0, 2.5], np.linspace(2.6, 40, 60)]))

        def product(x):
            jax.debug.callback(lambda: calls.append(1))
            return spectrum * x

        A = lx.FunctionLinearOperator(product, jax.ShapeDtypeStruct((63,), jnp.float64))
        first = lambda A: (np.array([1.0, 2.0, 2.5]), np.eye(63, 3))
        solve = ie.eigensolver(first, ie.Hermitian(3), linear_solver=ie.MINRES())
        S = jnp.asarray(np.random.default_rng(0).standard_normal((63, 3)))

        def products(columns):
            f = lambda X: jnp.sum(S[:, columns] * X[:, columns])
            # the tangent solve alone: the vectors are not differentiated further
            _, pullback = jax.vjp(lambda d: solve(scaled(d)).vectors, jnp.float64(0.0))
            calls.clear()
            pullback(jax.grad(f)(jnp.eye(63, 3)))
            jax.effects_barrier()
            return len(calls)

        def scaled(d):
            def moved(x):
                jax.debug.callback(lambda: calls.append(1))
                return spectrum * x + d * jnp.roll(x, 1) + d * jnp.roll(x, -1)

            return lx.FunctionLinearOperator(moved, A.in_structure())

        one = [products(np.array([i])) for i in range(3)]
        together = products(np.arange(3))
        longest = max(one)
        # fewer than if all ran as long as the slowest
        assert together < 3 * longest
        assert together <= sum(one)


class TestFullSpectrum:
    """All pairs known: no system, and the same answer."""

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", [np.float64, np.complex128])
    @pytest.mark.parametrize("system", [None, ie.FullSpectrum()])
    def test_derivatives(self, dtype, system):
        n = 7
        A = random_hermitian(n, dtype, 0)
        calls = []
        solve = ie.eigensolver(
            np.linalg.eigh,
            ie.Hermitian(n),
            system=system,
            linear_solver=ie.host_linear_solver(lambda A, b: calls.append(1)),
        )
        loss = invariant_loss(n, n)
        f, oracle = lambda A: loss(*solve(A)), lambda A: loss(*jnp.linalg.eigh(A))
        H = random_hermitian(n, dtype, 1)
        derivatives = lambda f: jitted(
            jax.grad(f),
            lambda A: jax.vmap(jax.grad(f))(jnp.stack([A, H]))[0],
            lambda A: jax.jvp(jax.grad(f), (A,), (H,))[1],
        )(A)
        for found, exact in zip(derivatives(f), derivatives(oracle), strict=True):
            exact = (exact + jnp.conj(exact.T)) / 2
            assert jnp.max(jnp.abs(found - exact)) < 1e-10 * jnp.max(jnp.abs(exact))
        assert not calls

    def test_finite_where_plain_autodiff_is_not(self):
        A = jnp.diag(jnp.array([1.0, 1.0, 2.0]))
        solve = ie.eigensolver(np.linalg.eigh, ie.Hermitian(3))
        S = random_hermitian(3, seed=2)
        projector = lambda X: jnp.sum(S * (X[:, :2] @ X[:, :2].T))
        found, plain = jitted(
            jax.grad(lambda A: projector(solve(A).vectors)),
            jax.grad(lambda A: projector(jnp.linalg.eigh(A)[1])),
        )(A)
        assert not bool(jnp.all(jnp.isfinite(plain)))
        H = random_hermitian(3, seed=3)
        exact = ie.testing.finite_difference(
            lambda A: projector(np.linalg.eigh(A)[1]), (A,), (H,), step=1e-3, order=4
        )
        assert abs(jnp.vdot(found, H) - exact) < 1e-8

    def test_refuses_some_pairs(self):
        solve = ie.eigensolver(np.linalg.eigh, ie.Hermitian(2), system=ie.FullSpectrum())
        with pytest.raises(ie.InputError, match="all n = 4 pairs; got k = 2"):
            jax.eval_shape(jax.grad(lambda A: solve(A).vectors[0, 0] ** 2), random_hermitian(4))
