"""Host code that asks for products: what it receives, who multiplies, and how it ends."""

import concurrent.futures
import threading
import time

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from scipy.sparse.linalg import eigs, gmres, svds

import implicit_eig as ie
from implicit_eig.host import reverse_communication
from implicit_eig.host.reverse_communication import Product, converse, current

pytestmark = pytest.mark.core

N = 12


def function(M):
    """M as an operator of which only products are known."""
    like = jax.ShapeDtypeStruct(M.shape[1:], M.dtype)
    return lx.FunctionLinearOperator(lambda x: M @ x, like)


def matrix(dtype, shape=(N, N), seed=0):
    rng = np.random.default_rng(seed)
    M = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        M = M + 1j * rng.standard_normal(shape)
    return jnp.asarray(M, dtype)


def solver_threads():
    return [thread for thread in threading.enumerate() if thread.name == "implicit_eig solver"]


def arnoldi(A):
    theta, X = eigs(A, k=2, which="LM", v0=np.ones(N, A.dtype), tol=0)
    order = np.argsort(-np.abs(theta))
    return theta[order], X[:, order]


def svd(A):
    U, sigma, Vh = jnp.linalg.svd(A, full_matrices=False)
    return sigma, Vh.conj().T, U


def triplets(A):
    U, sigma, Vh = svds(A, k=2, v0=np.ones(min(A.shape), A.dtype), tol=0)
    return sigma[::-1], Vh[::-1].conj().T, U[:, ::-1]


@pytest.mark.slow
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_products_with_the_adjoint_and_of_rectangles(transform, dtype):
    """SciPy's `svds` asks for both, of vectors of two lengths."""
    M = matrix(dtype, (N, 7))
    solve = ie.eigensolver(triplets, ie.Singular(2))
    loss = lambda solve, M: lambda A: jnp.sum(solve(M(A)).values ** 2)
    value, gradient = transform(jax.value_and_grad(loss(solve, function)))(M)
    full = ie.eigensolver(
        ie.traceable(svd),
        ie.Singular(2),
    )
    expected, exact = jax.value_and_grad(loss(full, lambda A: A))(M)
    tolerance = 1e3 * np.finfo(dtype).eps
    np.testing.assert_allclose(value, expected, rtol=tolerance)
    np.testing.assert_allclose(gradient, exact, atol=tolerance * np.max(np.abs(exact)))


@pytest.mark.slow
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_host_linear_solver_of_systems_that_are_not_hermitian(transform):
    """It is handed Mᵢ and Mᵢᴴ by products, forward and backward."""
    seen = []

    def solver(A, b):
        w, v = np.ones_like(b), np.arange(len(b)) - 2j
        seen.append(abs(np.vdot(v, A @ w) - np.vdot(A.adjoint() @ v, w)))
        return gmres(A, b, rtol=1e-12, restart=len(b))

    inner = ie.host_linear_solver(solver, rtol=1e-10)
    M = matrix(np.float64) + jnp.diag(3.0 * jnp.arange(float(N)))
    loss = lambda solve, form: lambda A: jnp.sum(jnp.abs(solve(form(A)).vectors) ** 4)
    general = ie.eigensolver(arnoldi, ie.General(2), linear_solver=inner)
    exact = ie.eigensolver(arnoldi, ie.General(2))
    A_dot = matrix(np.float64, seed=1)
    for run in (
        lambda f: jax.grad(f)(M),
        lambda f: jax.jvp(f, (M,), (A_dot,))[1],
    ):
        found = transform(lambda _: run(loss(general, function)))(0.0)  # noqa: B023
        expected = run(loss(exact, lambda A: A))
        np.testing.assert_allclose(found, expected, atol=1e-8 * np.max(np.abs(expected)))
    assert seen
    assert max(seen) < 1e-9


def test_errors_of_the_solver():
    class OwnError(Exception):
        pass

    def fails(A):
        A @ np.ones(N)
        raise OwnError("of the solver")

    solve = ie.eigensolver(fails, ie.Hermitian(2))
    M = matrix(np.float64)
    with pytest.raises(OwnError, match="of the solver"):
        solve(function(M + M.T))
    with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match="of the solver"):
        jax.block_until_ready(jax.jit(lambda A: solve(function(A)).values)(M + M.T))
    assert not solver_threads()


def counting(count):
    """Host code that asks for `count` products of a vector and adds them up."""

    def code(x):
        ask = current().ask
        return sum(ask(0, i, x * (i + 1)) for i in range(count))

    return code


def scaled():
    like = jax.ShapeDtypeStruct((3,), jnp.float64)
    return Product(lambda i, x: x * (1 + i).astype(x.dtype), like, like)


def test_products_on_threads_of_the_solver_and_after_it():
    kept = []

    def threaded(A):
        kept.append(A)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            columns = list(pool.map(A.matvec, np.eye(N)))
        return np.linalg.eigh(np.stack(columns, axis=1))

    M = matrix(np.float64)
    solve = ie.eigensolver(threaded, ie.Hermitian(2))
    values = jax.jit(lambda A: solve(function(A)).values)(M + M.T)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(M + M.T)[:2], rtol=1e-12)
    with pytest.raises(ie.InputError, match="while it runs; got one after it has returned"):
        kept[0] @ np.ones(N)


def test_a_batch_takes_turns():
    most = []

    def code(x):
        most.append(len(solver_threads()))
        time.sleep(0.01)
        return counting(3)(x)

    like = jax.ShapeDtypeStruct((3,), jnp.float64)
    run = lambda x: converse(code, like, (scaled(),), x)
    X = jnp.arange(12.0).reshape(4, 3)
    for batched in (jax.vmap(run), jax.jit(jax.vmap(run))):
        np.testing.assert_allclose(batched(X), 14 * X)
    nested = jax.jit(jax.vmap(jax.vmap(run)))(jnp.stack([X, -X]))
    np.testing.assert_allclose(nested, jnp.stack([14 * X, -14 * X]))
    assert max(most) == 1


def test_many_products_in_loops_and_branches():
    like = jax.ShapeDtypeStruct((3,), jnp.float64)
    run = lambda x: converse(counting(300), like, (scaled(),), x)
    total = sum((i + 1) ** 2 for i in range(300))

    @jax.jit
    def program(x):
        looped = jax.lax.scan(lambda c, _: (run(c) / total, None), x, length=3)[0]
        chosen = jax.lax.cond(x[0] > 0, run, lambda x: x, x)
        return looped, chosen, run(x) - run(x)

    looped, chosen, none = program(jnp.arange(1.0, 4.0))
    np.testing.assert_allclose(looped, jnp.arange(1.0, 4.0), rtol=1e-12)
    np.testing.assert_allclose(chosen, total * jnp.arange(1.0, 4.0), rtol=1e-12)
    np.testing.assert_array_equal(none, 0)


def test_a_program_that_is_abandoned_ends_its_thread(monkeypatch):
    monkeypatch.setattr(reverse_communication, "PATIENCE", 0.2)
    like = jax.ShapeDtypeStruct((3,), jnp.float64)
    exchange = reverse_communication.Exchange(counting(2), (np.ones(3),), (like,))
    assert exchange.next()[0] == 0
    for _ in range(50):
        if not solver_threads():
            break
        time.sleep(0.1)
    assert not solver_threads()
    with pytest.raises(ie.ImplicitEigError, match="an answer within 0 s; got none"):
        exchange.next()


def test_a_product_that_fails_ends_the_thread():
    def fails(i, x):
        raise RuntimeError("no product")

    like = jax.ShapeDtypeStruct((3,), jnp.float64)
    with pytest.raises(RuntimeError, match="no product"):
        converse(counting(2), like, (Product(fails, like, like),), jnp.ones(3))
    for _ in range(50):
        if not solver_threads():
            break
        time.sleep(0.1)
    assert not solver_threads()


def test_an_adjoint_that_jax_cannot_derive_is_refused_where_it_is_asked_for():
    def product(x):
        return jax.lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, M @ c[1]), (0, x))[1]

    M = matrix(np.float64, (7, 7))
    operator = lx.FunctionLinearOperator(product, jax.ShapeDtypeStruct((7,), jnp.float64))
    solve = ie.eigensolver(lambda A: (np.ones(1), A.adjoint() @ np.ones((7, 1))), ie.General(1))
    with pytest.raises(ie.InputError, match="a function that JAX can transpose; got one that it"):
        solve(operator)


def test_as_on_an_accelerator(monkeypatch):
    """There callbacks are JAX's own, on arrays; the same numbers come back."""
    M = matrix(np.float64)
    S = M + M.T + jnp.diag(3.0 * jnp.arange(float(N)))
    eigh = ie.eigensolver(lambda A: np.linalg.eigh(A @ np.eye(N)), ie.Hermitian(2))
    schur = ie.eigensolver(np.linalg.eig, ie.Subspace(2))

    def loss(A):
        return jnp.sum(eigh(function(A)).vectors ** 4) + jnp.abs(jnp.trace(schur(A).values)) ** 2

    values = []
    for backend in ("cpu", "gpu"):
        with monkeypatch.context() as context:
            context.setattr(jax, "default_backend", lambda backend=backend: backend)
            program = jax.jit(lambda A: jax.value_and_grad(loss)(A))
            assert ("xla_ffi_python" in program.lower(S).as_text()) is (backend == "gpu")
            values.append(jax.block_until_ready(program(S)))
    for one, other in zip(*map(jax.tree.leaves, values), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)
