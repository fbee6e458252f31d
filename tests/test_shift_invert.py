"""Shift and invert: right against dense autodiff, counted, and loud where it fails."""

import gc
import threading
import weakref

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from problems import (
    EPS,
    CountingLU,
    Exchanged,
    eigh,
    grid_pencil,
    invariant_loss,
    jax_eigh,
    jitted,
    random_definite,
    sparse,
    with_spectrum,
)

import implicit_eig as ie
from implicit_eig.linear_solvers._shift_invert_host import solve_on_host
from implicit_eig.linear_solvers._systems import ShiftedPencil

N, K = 40, 3


@pytest.fixture(autouse=True)
def _fresh_cache():
    ie.factorization_cache.clear()


def pencil_of(dtype, seed=0):
    spectrum = np.concatenate([np.arange(1.0, 7.0), np.linspace(7.5, 30, N - 6)])
    return with_spectrum(spectrum, dtype, seed), random_definite(N, dtype, seed + 1)


def gradient_by(solver, **options):
    """The gradient of a loss of the pairs of a grid of 36 points."""
    pencil, p = grid_pencil(6)
    loss = invariant_loss(K, 36)
    solve = ie.eigensolver(solver, ie.Hermitian(K), **options)
    return jax.block_until_ready(jax.jit(jax.grad(lambda p: loss(*solve(*pencil(p)))))(p))


# factorisations that are exchanged on the host, below one compiled program
EXCHANGED = Exchanged()
FACTORIZATIONS = (ie.SuperLU(), lambda M: spla.splu(M).solve, ie.SuperLU(pivot_threshold=1.0))
SHIFTS = {
    "own": ie.ShiftInvert(),
    "below": ie.ShiftInvert(0.0, EXCHANGED),
    "between": ie.ShiftInvert(2.4),
    "loose": ie.ShiftInvert(0.0, ie.SuperLU(pivot_threshold=1.0), rtol=1e-8),
}


class TestDerivatives:
    """Against autodiff through dense `eigh`, in both modes, to second order."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "dtype", "generalised", "interior"),
        [
            ("own", np.float64, False, False),
            ("own", np.complex128, True, True),
            ("own", np.float32, False, True),
            ("own", np.complex64, True, False),
            ("below", np.float64, False, False),
            ("below", np.complex128, True, True),
            ("between", np.float64, True, True),
            ("between", np.complex128, False, False),
            ("loose", np.float64, True, False),
            ("loose", np.complex128, False, True),
        ],
    )
    def test_gradient(self, name, dtype, generalised, interior):
        A, B = pencil_of(dtype)
        operators = (A, B) if generalised else (A,)
        pick = np.array([4, 3, 9] if interior else [0, 1, 2])
        some = lambda *ops: tuple(part[..., pick] for part in eigh(*ops))
        solve = ie.eigensolver(some, ie.Hermitian(K), linear_solver=SHIFTS[name])
        oracle = lambda *ops: tuple(part[..., pick] for part in jax_eigh(*ops))
        loss = invariant_loss(K, N)
        gradients = jitted(
            jax.grad(lambda ops: loss(*solve(*map(sparse, ops)))),
            jax.grad(lambda ops: loss(*oracle(*ops))),
        )
        # residual of the solve, over the smallest gap in units of the spectrum
        tol = 1e4 * max(EPS[np.dtype(dtype)], 1e-11 if name != "loose" else 1e-10)
        for EXCHANGED.now in FACTORIZATIONS if name == "below" else (None,):
            ie.factorization_cache.clear()
            found, expected = jax.device_get(gradients(operators))
            size = max(np.max(np.abs(part)) for part in expected)
            for f, e in zip(found, expected, strict=True):
                # entries of a sparse operator are independent
                f, e = f + f.conj().T, e + e.conj().T
                assert np.max(np.abs(f - e)) < tol * size

    @pytest.mark.slow
    def test_second_order_and_forward(self):
        """The right sides of second derivatives have parts along the known vectors."""
        pencil, p = grid_pencil(5)
        loss = invariant_loss(K, 25)
        by = lambda solver: (
            lambda p: loss(*ie.eigensolver(eigh, ie.Hermitian(K), linear_solver=solver)(*pencil(p)))
        )
        derivatives = lambda f: jitted(
            lambda p: jax.jvp(f, (p,), (p,))[1],
            lambda p: jax.jvp(jax.grad(f), (p,), (p,))[1],
            jax.grad(lambda p: jnp.sum(jax.grad(f)(p) ** 2)),
        )(p)
        by_both = [derivatives(by(solver)) for solver in (ie.ShiftInvert(), ie.SparseDirect())]
        for found, expected in zip(*jax.device_get(by_both), strict=True):
            assert np.max(np.abs(found - expected)) < 1e-8 * np.max(np.abs(expected))

    @pytest.mark.parametrize(
        "method", [ie.Cholmod(), ie.Cholmod(mode="simplicial"), ie.Pardiso()], ids=str
    )
    def test_optional_factorisations(self, method):
        if isinstance(method, ie.Pardiso):
            pytest.importorskip("pypardiso")
        by = lambda m: gradient_by(ie.solvers.arpack(K, 0.0, factorize=m))
        gradients = [by(m) for m in (ie.SuperLU(), method)]
        assert jnp.max(jnp.abs(gradients[1] - gradients[0])) < 1e-8 * jnp.max(jnp.abs(gradients[0]))

    def test_clusters(self):
        """A double value: exact for the projector onto both."""
        A = with_spectrum([1.0, 2.0, 2.0, *np.linspace(3, 9, 17)])
        S = np.random.default_rng(0).standard_normal((20, 20))

        def loss(X):
            return jnp.sum(jnp.asarray(S) * (X @ X.T))

        solve = ie.eigensolver(eigh, ie.Hermitian(3), linear_solver=ie.ShiftInvert())
        dense = ie.eigensolver(eigh, ie.Hermitian(3), linear_solver=lx.LU())
        found, expected = jitted(
            jax.grad(lambda A: loss(solve(sparse(A)).vectors[:, 1:])),
            jax.grad(lambda A: loss(dense(A).vectors[:, 1:])),
        )(A)
        assert jnp.max(jnp.abs(found + found.T - 2 * expected)) < 1e-8 * jnp.max(jnp.abs(expected))

    @pytest.mark.slow
    @pytest.mark.parametrize(("dtype", "sigma"), [(np.float64, 2.4), (np.complex128, None)])
    def test_dense_operators(self, dtype, sigma):
        """In JAX: one LU for all pairs, also under `vmap`."""
        A, B = pencil_of(dtype)
        loss = invariant_loss(K, N)
        solve = ie.eigensolver(eigh, ie.Hermitian(K), linear_solver=ie.ShiftInvert(sigma))
        stack = jnp.stack([A, 1.1 * A])
        found, expected, batched = jax.device_get(
            jitted(
                jax.grad(lambda ops: loss(*solve(*ops))),
                jax.grad(lambda ops: loss(*jax_eigh(*ops))),
                lambda ops: jax.vmap(jax.grad(lambda A: loss(*solve(A, ops[1]))))(stack),
            )((A, B))
        )
        for f, e in zip(found, expected, strict=True):
            assert np.max(np.abs(f - (e + e.conj().T) / 2)) < 1e-8 * np.max(np.abs(e))
        assert np.max(np.abs(batched[0] - found[0])) < 1e-8 * np.max(np.abs(found[0]))


class TestAsLineaxSolver:
    """Systems of a single matrix, Hermitian or not."""

    @pytest.mark.parametrize("dtype", [np.float64, np.complex128])
    def test_one_factorisation_for_both_sides_of_a_matrix(self, dtype):
        rng = np.random.default_rng(1)
        dense = np.diag(np.arange(1.0, 21)) + 0.1 * rng.standard_normal((20, 20))
        if dtype == np.complex128:
            dense = dense + 0.1j * rng.standard_normal((20, 20))
        A = ie.SparseOperator.from_scipy(sp.csr_matrix(dense))
        b = jnp.asarray(rng.standard_normal(20).astype(dtype))
        solver = ie.ShiftInvert(0.0)
        f = lambda b: lx.linear_solve(A, b, solver).value
        found, pullback = jax.vjp(f, b)
        assert jnp.max(jnp.abs(found - np.linalg.solve(dense, b))) < 1e-9
        (back,) = pullback(b)
        assert jnp.max(jnp.abs(back - np.linalg.solve(dense.T, b))) < 1e-9
        assert ie.factorization_cache.misses == 1
        state, options = solver.conj(solver.init(A, {}), {})
        found = solver.compute(state, b, options)[0]
        assert jnp.max(jnp.abs(found - np.linalg.solve(dense.conj(), b))) < 1e-9


class TestCounts:
    """What is made once, and for how many columns."""

    def gradient(self, method, used=slice(None), k=6, m=12, jit=True):
        pencil, p = grid_pencil(m)
        solve = ie.eigensolver(ie.solvers.arpack(k, 0.0, factorize=method), ie.Hermitian(k))
        S = np.random.default_rng(2).standard_normal((m * m, 1))
        f = lambda p: jnp.sum(jnp.asarray(S) * solve(*pencil(p)).vectors[:, used] ** 2)
        return jax.block_until_ready((jax.jit(jax.grad(f)) if jit else jax.grad(f))(p))

    @pytest.mark.parametrize("jit", [False, True])
    def test_forward_and_adjoint_share_one_factorisation(self, jit):
        counting = CountingLU()
        self.gradient(counting, jit=jit)
        assert counting.factorisations == 1
        assert ie.factorization_cache.hits >= 1

    def test_values_alone_solve_nothing_more(self):
        forward, counting = CountingLU(), CountingLU()
        pencil, p = grid_pencil(12)
        for method, transform in ((forward, lambda f: f), (counting, jax.grad)):
            ie.factorization_cache.clear()
            solve = ie.eigensolver(ie.solvers.arpack(3, 0.0, factorize=method), ie.Hermitian(3))
            values = transform(lambda p, s=solve: jnp.sum(s(*pencil(p)).values))
            jax.block_until_ready(jax.jit(values)(p))
        assert sum(counting.widths) == sum(forward.widths)

    def test_zero_cotangents_stay_out_and_converged_pairs_leave(self):
        counting = CountingLU()
        pencil, p = grid_pencil(12)
        solver = ie.ShiftInvert(0.0, counting)
        solve = ie.eigensolver(eigh, ie.Hermitian(6), linear_solver=solver)
        S = np.random.default_rng(2).standard_normal((144, 6))

        f = lambda p, weights: jnp.sum(weights * solve(*pencil(p)).vectors ** 2)
        gradient = jax.jit(jax.grad(f))

        def widths(used):
            counting.widths.clear()
            weights = np.zeros_like(S)
            weights[:, used] = S[:, used]
            jax.block_until_ready(gradient(p, jnp.asarray(weights)))
            return counting.widths.copy()

        one, all_six = widths(np.array([3])), widths(np.arange(6))
        assert set(one) == {1}
        assert max(all_six) == 6
        assert min(all_six) < 6
        # one space for all: fewer columns than the pairs need alone
        alone = sum(sum(widths(np.array([i]))) for i in range(6))
        assert sum(all_six) < alone

    def test_dependent_right_sides_cost_one(self):
        """Two right sides that are equal span one direction."""
        rng = np.random.default_rng(0)
        A = sp.csr_matrix(np.asarray(with_spectrum(np.arange(1.0, 31))))
        lam, X = np.linalg.eigh(A.toarray())
        counting = CountingLU()
        pencil = ShiftedPencil(A, None, lam[:2], X[:, :2], np.ones(2), True)
        r = rng.standard_normal(30)
        r = r - X[:, :2] @ (X[:, :2].T @ r)
        b = np.stack([r, 2 * r], axis=1)
        U, outcome = solve_on_host(pencil, 0.5, b, counting, 1e-10, 50)
        assert not outcome.verdicts.any()
        assert counting.widths[0] == 2
        assert set(counting.widths[1:]) == {1}
        for i in range(2):
            assert np.linalg.norm(A @ U[:, i] - lam[i] * U[:, i] - b[:, i]) < 1e-9


class TestCache:
    """Bounded, keyed by content, safe between threads."""

    @pytest.fixture
    def matrix(self):
        return sp.random_array((50, 50), density=0.1, rng=0).tocsr() + 10 * sp.eye_array(50).tocsr()

    def test_key_is_the_content(self, matrix):
        first = ie.factorize(matrix, sigma=0.5)
        assert ie.factorize(matrix.copy().tocsc(), sigma=0.5) is first
        assert ie.factorize(matrix, sigma=0.6) is not first
        assert ie.factorize(matrix, sp.eye_array(50).tocsr(), 0.5) is not first
        assert ie.factorize(matrix, sigma=0.5, method=ie.SuperLU(0.5)) is not first
        assert ie.factorize(matrix.astype(np.complex128), sigma=0.5) is not first
        matrix.data[0] += 1e-15
        changed = ie.factorize(matrix, sigma=0.5)
        assert changed is not first
        b = np.arange(50.0)
        assert np.allclose((matrix - 0.5 * sp.eye_array(50)) @ changed(b), b)
        adjoint = changed.solve_adjoint(b)
        assert np.allclose((matrix - 0.5 * sp.eye_array(50)).T @ adjoint, b)

    def test_memory_is_freed_when_it_turns_over(self, matrix, monkeypatch):
        monkeypatch.setattr(ie.factorization_cache, "max_bytes", 1)
        first = weakref.ref(ie.factorize(matrix, sigma=0.5))
        assert first() is not None  # the latest stays
        ie.factorize(matrix, sigma=0.6)
        gc.collect()
        assert first() is None
        second = weakref.ref(ie.factorize(matrix, sigma=0.6))
        ie.factorization_cache.clear()
        gc.collect()
        assert second() is None

    def test_factors_of_the_steps_before_are_freed(self):
        """Without the garbage collector's help: nothing of a gradient holds on to them."""
        alive = weakref.WeakSet()

        class Factors:
            def __init__(self, matrix):
                self.solve = spla.splu(matrix).solve
                alive.add(self)

            def __call__(self, b):
                return self.solve(b)

        pencil, p = grid_pencil(6)
        solve = ie.eigensolver(ie.solvers.arpack(K, 0.0, factorize=Factors), ie.Hermitian(K))
        gradient = jax.jit(jax.grad(lambda p: jnp.sum(p[0] * solve(*pencil(p)).vectors[:, 0] ** 2)))
        gc.disable()
        try:
            for step in range(12):
                jax.block_until_ready(gradient(p * (1 + 0.1 * step)))
        finally:
            gc.enable()
        ie.factorize(sp.eye_array(2).tocsr(), method=lambda M: lambda b: b)  # after what is dropped
        assert len(alive) <= 8
        assert ie.factorization_cache.misses == 13

    @pytest.mark.slow
    @pytest.mark.parametrize("shape", [(8,), (2, 4)])
    def test_a_batch_shares_its_factorisations(self, shape):
        """Its forward solves all come before its adjoint ones."""
        pencil, p = grid_pencil(4)
        solve = ie.eigensolver(ie.solvers.arpack(K, 0.0), ie.Hermitian(K))
        gradient = jax.grad(lambda p: jnp.sum(p[0] * solve(*pencil(p)).vectors[:, 0] ** 2))
        for _ in shape:
            gradient = jax.vmap(gradient)
        gradient = jax.jit(gradient)
        scales = jnp.linspace(1.0, 2.0, 8).reshape(*shape, 1, 1)
        jax.block_until_ready(gradient(scales * p.reshape((1,) * len(shape) + p.shape)))
        assert (ie.factorization_cache.misses, ie.factorization_cache.hits) == (8, 8)

    @pytest.mark.slow
    def test_a_shift_for_each_pair_is_factorised_once_in_second_derivatives(self):
        pencil, p = grid_pencil(6)
        poor = ie.ShiftInvert(-1e6, max_steps=4)
        solve = ie.eigensolver(eigh, ie.Hermitian(6), linear_solver=poor)
        S = np.random.default_rng(2).standard_normal((36, 1))
        f = lambda p: jnp.sum(jnp.asarray(S) * solve(*pencil(p)).vectors ** 2)
        with pytest.warns(ie.LinearSolveWarning, match="does not converge"):
            jax.block_until_ready(jax.jit(lambda p: jax.jvp(jax.grad(f), (p,), (p,)))(p))
        assert ie.factorization_cache.misses == 7

    def test_factors_are_dropped_on_the_thread_that_made_them(self, matrix):
        """SciPy's SuperLU frees its memory on no other."""
        made, dropped = [], threading.Event()

        class Factors:
            def __init__(self):
                self.thread = threading.get_ident()

            def __call__(self, b):
                return b

            def __del__(self):
                made.append(threading.get_ident() == self.thread)
                dropped.set()

        worker = threading.Thread(target=lambda: ie.factorize(matrix, method=lambda M: Factors()))
        worker.start()
        worker.join()
        ie.factorization_cache.clear()
        gc.collect()
        assert dropped.wait(5)
        assert made == [True]

    def test_complex_right_sides_of_a_real_matrix(self, matrix):
        b = np.arange(50.0) + 1j * np.ones(50)
        for method in (ie.SuperLU(), lambda M: spla.splu(M).solve):
            assert np.allclose(matrix @ ie.factorize(matrix, method=method)(b), b)
            assert np.allclose(matrix.T @ ie.factorize(matrix, method=method).solve_adjoint(b), b)

    def test_user_code_that_uses_its_arrays_again(self):
        """Its answer is copied before the next."""

        def method(matrix):
            solve, kept = spla.splu(matrix).solve, {}

            def again(b):
                buffer = kept.setdefault(b.shape, np.empty_like(b))
                buffer[...] = solve(b)
                return buffer

            return again

        pencil, p = grid_pencil(6)
        loss, linear_solver = invariant_loss(K, 36), ie.ShiftInvert(0.0, EXCHANGED)
        solve = ie.eigensolver(eigh, ie.Hermitian(K), linear_solver=linear_solver)
        gradient = jax.jit(jax.grad(lambda p: loss(*solve(*pencil(p)))))
        gradients = []
        for EXCHANGED.now in (ie.SuperLU(), method):
            ie.factorization_cache.clear()
            gradients.append(np.asarray(gradient(p)))
        assert np.max(np.abs(gradients[1] - gradients[0])) < 1e-9 * np.max(np.abs(gradients[0]))

    def test_a_factorisation_within_a_factorisation(self, matrix):
        inner = lambda M: ie.factorize(M).solve
        b = np.arange(50.0)
        assert np.allclose(matrix @ ie.factorize(matrix, method=inner)(b), b)

    def test_the_last_few_stay(self, matrix):
        for sigma in range(8):
            ie.factorize(matrix, sigma=0.1 * sigma)
        for sigma in range(8):
            ie.factorize(matrix, sigma=0.1 * sigma)
        assert (ie.factorization_cache.misses, ie.factorization_cache.hits) == (8, 8)
        ie.factorize(matrix, sigma=0.8)  # the oldest goes
        ie.factorize(matrix, sigma=0.1)
        assert (ie.factorization_cache.misses, ie.factorization_cache.hits) == (9, 9)
        ie.factorize(matrix, sigma=0.0)
        assert ie.factorization_cache.misses == 10

    def test_threads_factorise_once(self, matrix):
        made, barrier = [], threading.Barrier(8)

        def slow(matrix):
            made.append(1)
            threading.Event().wait(0.1)
            return spla.splu(matrix).solve

        def work():
            barrier.wait()
            ie.factorize(matrix, method=slow)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 1

    def test_a_failure_is_not_kept(self, matrix):
        calls = []

        def flaky(matrix):
            calls.append(1)
            if len(calls) == 1:
                raise RuntimeError("out of licences")
            return spla.splu(matrix).solve

        with pytest.raises(RuntimeError, match="licences"):
            ie.factorize(matrix, method=flaky)
        ie.factorize(matrix, method=flaky)
        assert len(calls) == 2

    def test_same_answer_from_every_layout(self, matrix):
        solve = ie.factorize(matrix)
        b = np.random.default_rng(0).standard_normal((50, 11))
        expected = sla.solve(matrix.toarray(), b)
        for given in (b, np.asfortranarray(b), b.astype(np.float32)):
            assert np.allclose(solve(given), expected, atol=1e-5)
        assert np.allclose(solve(b[:, 0]), expected[:, 0])


class TestFallback:
    """What does not converge is tried again, aloud; then it is an error."""

    def test_own_shift_for_each_pair(self):
        expected = gradient_by(eigh, linear_solver=ie.SparseDirect())
        # so far away that every pair looks the same
        far = ie.ShiftInvert(-1e6, max_steps=5)
        with pytest.warns(ie.LinearSolveWarning, match="converge for 3 of 3 pairs, the first"):
            found = gradient_by(eigh, linear_solver=far)
        assert jnp.max(jnp.abs(found - expected)) < 1e-8 * jnp.max(jnp.abs(expected))

    def test_shift_that_is_an_eigenvalue(self):
        A = sp.diags_array(np.arange(1.0, 21)).tocsr()
        S = jnp.asarray(np.random.default_rng(0).standard_normal((20, 20)))
        solve = ie.eigensolver(eigh, ie.Hermitian(2), linear_solver=ie.ShiftInvert(5.0))
        op = ie.SparseOperator.from_scipy(A)

        exact = ie.eigensolver(eigh, ie.Hermitian(2), linear_solver=ie.SparseDirect())

        def loss(data, solve):
            X = solve(ie.SparseOperator(data, op.rows, op.cols, op.shape)).vectors
            return jnp.sum((S @ X) ** 2)

        gradients = jitted(*(lambda data, s=s: jax.grad(loss)(data, s) for s in (solve, exact)))
        with pytest.warns(ie.LinearSolveWarning, match="5 is an eigenvalue for 4 of 4 pairs"):
            found, expected = jax.device_get(gradients(op.data))
        assert np.max(np.abs(found - expected)) < 1e-8

    @pytest.fixture
    def _compiled_apart(self):
        """Programs are kept by what they are made of, which a patched module is no part of."""
        jax.clear_caches()
        yield
        jax.clear_caches()

    @pytest.mark.slow
    @pytest.mark.parametrize(("make", "jit"), [("dense", True), ("matrix-free", False)])
    @pytest.mark.usefixtures("_compiled_apart")
    def test_of_the_default(self, make, jit, monkeypatch):
        auto = ie.AutoLinearSolver.__module__
        monkeypatch.setattr(f"{auto}.SMALL", 1)
        monkeypatch.setattr(f"{auto}.iterative", lambda *_: ie.MINRES(max_steps=2))
        monkeypatch.setattr(f"{auto}.ShiftInvert", lambda *_: ie.ShiftInvert(-1e6, max_steps=2))
        pencil, p = grid_pencil(5)
        loss = invariant_loss(K, 25)
        form = {
            "dense": lambda op: op.as_matrix(),
            "matrix-free": lambda op: lx.FunctionLinearOperator(op.mv, op.in_structure()),
        }[make]
        f = lambda p, solver=None: loss(
            *ie.eigensolver(eigh, ie.Hermitian(K), linear_solver=solver)(*map(form, pencil(p)))
        )
        gradient = jax.jit(jax.grad(f)) if jit else jax.grad(f)
        reference = jax.jit(jax.grad(lambda p: f(p, ie.MINRES())))
        second = {"dense": "LAPACK", "matrix-free": "gcrotmk"}[make]
        with pytest.warns(ie.LinearSolveWarning, match=f"did not converge; trying .*{second}"):
            found = jax.block_until_ready(gradient(p))
        expected = reference(p)
        assert jnp.max(jnp.abs(found - expected)) < 1e-7 * jnp.max(jnp.abs(expected))

    def test_cut_cluster_is_an_error(self):
        A = ie.SparseOperator.from_scipy(sp.diags_array([1.0, 1.0, 2.0, 3.0]).tocsr())
        S = jnp.asarray(np.random.default_rng(0).standard_normal((4, 4)))
        first = lambda A: tuple(part[..., :1] for part in eigh(A))
        solve = ie.eigensolver(first, ie.Hermitian(1))
        f = lambda d: jnp.sum(
            (S @ solve(ie.SparseOperator(d, A.rows, A.cols, A.shape)).vectors) ** 2
        )
        with (
            pytest.raises(jax.errors.JaxRuntimeError, match="cluster that k cuts"),
            pytest.warns(ie.LinearSolveWarning, match="does not converge"),
        ):
            jax.block_until_ready(jax.jit(jax.grad(f))(A.data))


class TestRefusals:
    """What does not go together says so."""

    def gradient(self, form, **options):
        pencil, p = grid_pencil(4)
        solve = ie.eigensolver(eigh, ie.Hermitian(1), **options)
        return jax.grad(lambda p: solve(*map(form, pencil(p))).vectors[0, 0] ** 2)(p)

    def test_matrix_free(self):
        form = lambda op: lx.FunctionLinearOperator(op.mv, op.in_structure())
        with pytest.raises(ie.InputError, match="operators of known entries, to factorise"):
            self.gradient(form, linear_solver=ie.ShiftInvert())

    def test_bordered(self):
        with pytest.raises(ie.InputError, match="the systems of a pencil"):
            self.gradient(lambda op: op, linear_solver=ie.ShiftInvert(), system=ie.Bordered())

    def test_implicit_function(self):
        with pytest.raises(ie.InputError, match=r"linear_solver=ShiftInvert\(\)"):
            ie.implicit_function(lambda a: a, lambda z, a: z - a, linear_solver=ie.ShiftInvert())

    def test_single_operator_that_is_not_sparse(self):
        operator = lx.MatrixLinearOperator(jnp.eye(3))
        with pytest.raises(Exception, match="a sparse operator to factorise"):
            ie.ShiftInvert(0.0).compute(ie.ShiftInvert(0.0).init(operator, {}), jnp.ones(3), {})

    def test_traced_shift(self):
        with pytest.raises(ie.InputError, match="known when the solver is made"):
            jax.jit(lambda s: ie.ShiftInvert(s).rtol or s)(1.0)
        assert ie.ShiftInvert(jnp.float64(1.5)) == ie.ShiftInvert(1.5)

    def test_factorize_of_an_array(self):
        with pytest.raises(ie.InputError, match=r"`scipy.sparse` matrices; got ndarray"):
            ie.factorize(np.eye(3))

    def test_singular(self):
        with pytest.raises(ie.LinearSolveError, match="a nonsingular matrix"):
            ie.factorize(sp.diags_array([1.0, 2.0]).tocsr(), sigma=2.0)

    def test_user_function_that_returns_no_solve(self):
        with pytest.raises(ie.LinearSolveError, match="a function matrix -> solve"):
            ie.factorize(sp.eye_array(3).tocsr(), method=lambda M: M.toarray())

    def test_user_function_of_single_columns(self):
        method = lambda M: lambda b: spla.spsolve(M, b[:, 0])
        with pytest.raises(ie.LinearSolveError, match="returns the shape of its right sides"):
            ie.factorize(sp.eye_array(3).tocsr(), method=method)(np.ones((3, 2)))

    def test_pardiso_of_a_complex_matrix(self):
        pytest.importorskip("pypardiso")
        with pytest.raises(ie.InputError, match="a real matrix; got complex128"):
            ie.factorize(sp.eye_array(3, dtype=complex).tocsr(), method=ie.Pardiso())

    def test_missing_package(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "pypardiso", None)
        with pytest.raises(ie.InputError, match="pip install pypardiso"):
            ie.factorize(sp.eye_array(3).tocsr(), method=ie.Pardiso())


def test_pardiso_on_both_sides():
    pytest.importorskip("pypardiso")
    matrix = sp.random_array((30, 30), density=0.2, rng=0).tocsr() + 10 * sp.eye_array(30).tocsr()
    factors = ie.factorize(matrix, method=ie.Pardiso())
    b = np.arange(60.0).reshape(30, 2)
    assert np.allclose(matrix @ factors(b), b)
    assert np.allclose(matrix.T @ factors.solve_adjoint(b), b)
