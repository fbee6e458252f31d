"""`host_operator`: the operator, what crosses to the host, what is refused."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp
from families import DTYPES, P, hermitian, parameters, rectangular, tolerance
from problems import EPS, dense, eigh, jitted

import implicit_eig as ie
from implicit_eig.operators import _assembly

N = 8


def svd(A):
    U, sigma, Vh = np.linalg.svd(dense(A), full_matrices=False)
    return sigma, Vh.conj().T, U


class TestOperator:
    """It is a lineax operator."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("sparse", [True, False])
    def test_products(self, dtype, sparse):
        F = rectangular(4, 6, dtype, sparse)
        p = parameters(dtype)
        A, S = F.as_array(p), F(p)
        tol = tolerance(dtype, A, 100)
        assert (S.out_size(), S.in_size()) == (4, 6)
        for operator, matrix in (
            (S, A),
            (S.T, A.T),
            (lx.conj(S), A.conj()),
            (lx.conj(S).T, A.conj().T),
        ):
            assert jnp.max(jnp.abs(operator.as_matrix() - matrix)) < tol
            assert jnp.max(jnp.abs(operator.host_matrix().toarray() - matrix)) < tol
            assert sp.issparse(operator.assembled()) == sparse
            x = jnp.asarray(np.arange(matrix.shape[1]) + 1, dtype)
            assert jnp.max(jnp.abs(operator.mv(x) - matrix @ x)) < 100 * tol
            y = jnp.asarray(np.arange(matrix.shape[0]) + 1, dtype)
            (transposed,) = jax.linear_transpose(operator.mv, x)(y)
            assert jnp.max(jnp.abs(transposed - matrix.T @ y)) < 100 * tol
            z = jax.lax.complex(x.real, x.real[::-1])
            assert (
                jnp.max(jnp.abs(operator.mm(z[:, None])[:, 0] - matrix.astype(z.dtype) @ z))
                < 100 * tol
            )

    @pytest.mark.parametrize("conjugated", [False, True])
    @pytest.mark.parametrize("transposed", [False, True])
    @pytest.mark.parametrize("numbers", ["real", "real of complex", "complex"])
    def test_dot_test(self, numbers, transposed, conjugated):
        """Re Σ ȳ ẏ of the product's tangent, in p and in X, and against arrays of JAX."""
        dtype = np.float64 if numbers == "real" else np.complex128
        F = rectangular(4, 6, dtype)
        p = parameters(dtype)
        if numbers == "complex":
            p = jnp.asarray(np.asarray(p) * np.exp(1j * np.arange(P)))
        view = lambda S: lx.conj(S) if conjugated else S
        turn = lambda S: view(S.T if transposed else S)
        array = lambda A: A.conj() if conjugated else A
        m, n = (6, 4) if transposed else (4, 6)
        rng = np.random.default_rng(0)
        random = lambda *shape: jnp.asarray(
            rng.standard_normal(shape)
            + (0 if dtype == np.float64 else 1j * rng.standard_normal(shape))
        )
        X, X_dot, Y_bar = random(n, 2), random(n, 2), random(m, 2)
        p_dot = jnp.asarray(rng.standard_normal(P), p.dtype)
        f = lambda p, X: turn(F(p)).mm(X)
        g = lambda p, X: array(F.as_array(p).T if transposed else F.as_array(p)) @ X
        derivatives = lambda f: (
            lambda p, X: (
                jax.jvp(f, (p, X), (p_dot, X_dot))[1],
                jax.vjp(f, p, X)[1](Y_bar),
            )
        )
        (Y_dot, bars), (expected, expected_bars) = jitted(derivatives(f), derivatives(g))(p, X)
        tol = 1e3 * EPS[np.dtype(dtype)]
        assert jnp.max(jnp.abs(Y_dot - expected)) < tol
        for found, bar in zip(bars, expected_bars, strict=True):
            assert found.dtype == bar.dtype
            assert jnp.max(jnp.abs(found - bar)) < tol

    def test_nan_stays_in_its_column(self):
        F = rectangular(4, 6, np.float64)
        X = jnp.ones((6, 2)).at[0, 0].set(jnp.nan)
        nan = jnp.isnan(F(parameters(np.float64)).mm(X))
        assert jnp.array_equal(nan, jnp.array([[True, False]] * 4))

    def test_a_pytree_of_parameters(self):
        """Numbers of Python are parameters, what is no number is passed on, order is kept."""
        C = np.diag([1.0, 2.0])

        def assemble(p):
            assert p["name"] == "rod"
            assert p["count"] == 3
            return p["a"] * p["b"][1] * C

        def contract(p, y, x):
            q = y @ C @ x
            return {"a": p["b"][1] * q, "b": np.array([0, p["a"] * q]), "name": None, "count": None}

        def product(p, p_dot, x):
            assert p_dot["name"] is p_dot["count"] is None
            return (p_dot["a"] * p["b"][1] + p["a"] * p_dot["b"][1]) * (C @ x)

        def f(a, b):
            p = {"a": a, "b": b, "name": "rod", "count": 3}
            A = ie.host_operator(
                assemble, p, contract=contract, product=product, shape=(2, 2), dtype=float
            )
            return jnp.sum(A.mm(jnp.eye(2)))

        b = jnp.array([5.0, 7.0])
        assert f(2.0, np.array([5.0, 7.0])) == 42
        assert jax.grad(f)(2.0, b) == 21
        assert jax.grad(f, 1)(2.0, b).tolist() == [0, 6]
        assert jax.jvp(lambda a: f(a, b), (2.0,), (1.0,))[1] == 21

    def test_second_derivatives_by_other_parameters(self):
        """The vectors may move twice where the matrix does not."""
        F, p = hermitian(N, np.float64), parameters(np.float64)
        f = lambda t, A: ie.eigensolver(eigh, ie.Hermitian(2))(
            A, ie.SparseOperator(1 + t * jnp.arange(1.0, N + 1), *[np.arange(N)] * 2, (N, N))
        ).values[0]
        found, expected = jitted(
            lambda t: jax.hessian(f)(t, F(p)), lambda t: jax.hessian(f)(t, F.as_array(p))
        )(0.1)
        assert abs(found - expected) < tolerance(np.float64, expected, 1e6)

    @pytest.mark.parametrize("inner", [jax.jacfwd, jax.jacrev])
    @pytest.mark.parametrize("outer", [jax.jacfwd, jax.jacrev])
    def test_second_derivatives_by_what_is_multiplied(self, outer, inner):
        F, p = rectangular(4, 6, np.float64), parameters(np.float64)
        f = lambda x, A: jnp.sum(A.mv(x) ** 3)
        x, A = jnp.arange(1.0, 7), F.as_array(p)
        expected = 6 * A.T @ ((A @ x)[:, None] * A)
        found = outer(inner(f))(x, F(p))
        assert jnp.max(jnp.abs(found - expected)) < tolerance(np.float64, expected, 1e2)

    def test_one_program_for_equal_functions(self):
        F, traces = hermitian(N, np.float64), []

        @jax.jit
        def lowest(p, A):
            traces.append(1)
            return ie.eigensolver(eigh, ie.Hermitian(1))(A).values[0]

        for seed in range(2):
            p = parameters(np.float64, seed)
            lowest(p, F(p))
        assert len(traces) == 1


class TestHostObjects:
    """What solvers receive, and what is kept."""

    @pytest.mark.parametrize("sparse", [True, False])
    def test_solvers_receive_what_was_assembled(self, sparse):
        F, p = hermitian(N, np.float64, sparse), parameters(np.float64)
        seen = []

        def spy(A):
            seen.append(A)
            answer = eigh(A)
            if sparse:
                A.data[:] = 0
            else:
                A[:] = 0
            return answer

        solve = ie.eigensolver(spy, ie.Hermitian(2))
        values = [solve(F(p)).values for _ in range(2)]
        assert jnp.array_equal(*values)
        assert F.calls["assemble"] == 1
        for A in seen:
            assert A.format == "csr" if sparse else type(A) is np.ndarray

    def test_a_reused_buffer_of_the_assembly(self):
        buffer = np.zeros((2, 2))

        def assemble(p):
            np.fill_diagonal(buffer, p)
            return buffer

        make = lambda p: ie.host_operator(assemble, p, shape=(2, 2), dtype=float)
        first, second = make(jnp.array(1.0)), make(jnp.array(2.0))
        for operator, expected in ((first, 1), (second, 2), (first, 1)):
            assert operator.as_matrix()[0, 0] == expected

    def test_the_latest_are_kept(self, monkeypatch):
        F = rectangular(3, 3, np.float64)
        operators = [F(parameters(np.float64, seed)) for seed in range(3)]
        monkeypatch.setattr(_assembly, "KEPT", 2)
        for i in (0, 1, 1, 0, 2, 0, 1):
            operators[i].assembled()
        assert F.calls["assemble"] == 4
        monkeypatch.setattr(_assembly, "MAX_BYTES", 1)
        for i in (0, 0, 1, 0):
            operators[i].assembled()
        assert F.calls["assemble"] == 6

    def test_traceable_solvers_receive_the_operator(self):
        F, p = hermitian(N, np.float64), parameters(np.float64)
        solver = ie.traceable(lambda A: jnp.linalg.eigh(A.as_matrix()))
        found = ie.eigensolver(solver, ie.Hermitian(2))(F(p)).values
        expected = np.linalg.eigvalsh(F.as_array(p))[:2]
        assert jnp.max(jnp.abs(found - expected)) < tolerance(np.float64, expected, 100)


class TestRefusals:
    RUN = jax.errors.JaxRuntimeError

    @pytest.mark.parametrize(
        ("missing", "mode", "match"),
        [
            ("contract", jax.grad, r"host_operator\(contract=...\)`: the function .* reverse mode"),
            ("product", jax.jacfwd, r"host_operator\(product=...\)`: the function .* forward mode"),
        ],
    )
    def test_one_product_refuses_the_other_mode(self, missing, mode, match):
        F, p = hermitian(N, np.float64), parameters(np.float64)
        f = lambda p, *without: ie.eigensolver(eigh, ie.Hermitian(1))(F(p, without)).values[0]
        other = jax.jacfwd if mode is jax.grad else jax.grad
        found, expected = jitted(other(lambda p: f(p, missing)), other(lambda p: f(p)))(p)
        assert jnp.array_equal(found, expected)
        with pytest.raises(self.RUN, match=match):
            jax.block_until_ready(jax.jit(mode(lambda p: f(p, missing)))(p))

    def test_forward_mode_of_the_adjoint(self):
        F, p = rectangular(N, N, np.float64), parameters(np.float64)
        solve = ie.eigensolver(svd, ie.Singular(1))
        f = lambda p: solve(F(p, ["adjoint_product"])).values[0]
        jax.block_until_ready(jax.jit(jax.grad(f))(p))
        with pytest.raises(
            self.RUN, match=r"adjoint_product=...\)`: the function .*forward mode wh"
        ):
            jax.block_until_ready(jax.jit(lambda p: jax.jvp(f, (p,), (p,)))(p))

    @pytest.mark.parametrize("problem", [ie.Hermitian(2), ie.Singular(2)])
    @pytest.mark.parametrize("second", [jax.hessian, lambda f: jax.jacrev(jax.jacrev(f))])
    def test_second_derivatives(self, problem, second):
        F = hermitian(N, np.float64)
        solve = ie.eigensolver(eigh if isinstance(problem, ie.Hermitian) else svd, problem)
        by_host = lambda p: jnp.sum(solve(F(p)).vectors[0] ** 2)
        with pytest.raises(
            Exception,
            match=r"`host_operator\(...\)`: a first .* got a second one, for which `contr",
        ):
            jax.block_until_ready(jax.jit(second(by_host))(parameters(np.float64)))

    @pytest.mark.parametrize(
        ("matrix", "match"),
        [
            ([[1.0]], r"a SciPy sparse matrix or a NumPy array of shape \(1, 1\); got list"),
            (np.ones((2, 1)), r"got ndarray of shape \(2, 1\)"),
            (np.ones((1, 1)) + 1j, r"a dtype that holds what `assemble` returns; got float64"),
        ],
    )
    def test_what_is_assembled(self, matrix, match):
        A = ie.host_operator(lambda p: matrix, jnp.ones(1), shape=(1, 1), dtype=float)
        with pytest.raises(ie.InputError, match=match):
            A.assembled()
        with pytest.raises(self.RUN, match=match):
            jax.block_until_ready(A.mv(jnp.ones(1)))

    @pytest.mark.parametrize(
        ("functions", "match"),
        [
            (
                {"contract": lambda p, y, x: np.ones(2)},
                r"float64 numbers of shape \(1,\); got float",
            ),
            ({"contract": lambda p, y, x: (1.0, 2.0)}, r"a pytree shaped like p; got"),
            (
                {"product": lambda p, p_dot, x: np.ones(2)},
                r"product=...\)`: float64 numbers of sha",
            ),
            ({"product": lambda p, p_dot, x: 1j * x}, r"got complex128 of shape \(1,\)"),
        ],
    )
    def test_what_products_return(self, functions, match):
        p = {"p": jnp.ones(1)} if "pytree" in match else jnp.ones(1)
        f = lambda p: ie.host_operator(
            lambda p: np.eye(1), p, **functions, shape=(1, 1), dtype=float
        ).mv(jnp.ones(1))[0]
        mode = jax.grad(f) if "contract" in functions else lambda p: jax.jvp(f, (p,), (p,))
        with pytest.raises(self.RUN, match=match):
            jax.block_until_ready(mode(p))

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"dtype": int}, r"dtype=...\)`: a real or complex floating-point dtype"),
            (
                {"p": jnp.ones(1, complex)},
                r"p=...\)`: real parameters of a real matrix; got complex",
            ),
        ],
    )
    def test_arguments(self, options, match):
        given = {"assemble": np.diag, "p": jnp.ones(2), "shape": (2, 2), "dtype": float} | options
        with pytest.raises(ie.InputError, match=match):
            ie.host_operator(given.pop("assemble"), given.pop("p"), **given)

    def test_a_dense_linear_solver(self):
        F = hermitian(N, np.float64)
        solve = ie.eigensolver(eigh, ie.Hermitian(2), linear_solver=lx.LU())
        by_host = lambda p: solve(F(p)).vectors[0, 0] ** 2
        with pytest.raises(ie.InputError, match=r"linear_solver=LU\(\)\)`: dense operators"):
            jax.eval_shape(jax.grad(by_host), parameters(np.float64))
