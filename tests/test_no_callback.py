"""Where the solver is JAX code and no policy asks for the host, no program calls it."""

import dataclasses
import warnings

import jax
import jax.extend
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import implicit_eig as ie
from implicit_eig.checks.policy import Check

pytestmark = pytest.mark.core

QUIET = {ie.Action.NAN: ie.Policy.nan(), ie.Action.IGNORE: ie.Policy.unchecked()}
N = 6
rng = np.random.default_rng(7)
M = rng.standard_normal((N, N))
A = jnp.asarray(M)
S = jnp.asarray(M + M.T + np.diag(np.arange(N) * 4.0))
B = jnp.asarray(np.eye(N) + 0.01 * (M @ M.T))
GENERAL = jnp.asarray(M + 5j * np.diag(np.arange(N)))


def eigh(k=N):
    return ie.traceable(lambda A: tuple(part[..., :k] for part in jnp.linalg.eigh(A)))


def pencil(A, B):
    L = jnp.linalg.cholesky(B)
    C = jnp.linalg.solve(L, jnp.linalg.solve(L, A).T)
    lam, Y = jnp.linalg.eigh((C + C.T) / 2)
    return lam, jnp.linalg.solve(L.T, Y)


def svd(A):
    U, sigma, Vh = jnp.linalg.svd(A, full_matrices=False)
    return sigma, Vh.conj().T, U


def companion(A0, A1):
    return jnp.linalg.eig(jnp.linalg.solve(A1, -A0))


def by_products(A):
    return jnp.linalg.eigh(A.as_matrix())


def T(lam, x, A):  # noqa: N802
    return A @ x - lam * x


def matrix_free(A):
    return lx.FunctionLinearOperator(lambda x: A @ x, jax.ShapeDtypeStruct((N,), A.dtype))


START = np.linalg.eig(GENERAL)[0][0], np.linalg.eig(GENERAL)[1][:, 0]
ONE = lambda x: (x,)
CASES = {
    "Hermitian, all": (eigh(), ie.Hermitian(N), ONE, S),
    "Hermitian, some": (eigh(), ie.Hermitian(2, guard=1), ONE, S),
    "Hermitian, pencil": (ie.traceable(pencil), ie.Hermitian(3), lambda x: (S, x), B),
    "Hermitian, matrix-free": (
        ie.traceable(by_products),
        ie.Hermitian(2),
        lambda x: (matrix_free(x),),
        S,
    ),
    "General": (ie.traceable(jnp.linalg.eig), ie.General(2), ONE, GENERAL),
    "General, all, left": (ie.traceable(jnp.linalg.eig), ie.General(N, left=True), ONE, GENERAL),
    "Singular": (ie.traceable(svd), ie.Singular(2), ONE, A),
    "Singular, all": (ie.traceable(svd), ie.Singular(N), ONE, A),
    "Subspace": (ie.traceable(jnp.linalg.eig), ie.Subspace(2), ONE, GENERAL),
    "Polynomial": (
        ie.traceable(companion),
        ie.Polynomial(2),
        lambda x: (x, -B.astype(complex)),
        GENERAL,
    ),
    "Nonlinear": (ie.solvers.newton(T, START), ie.Nonlinear(T), ONE, GENERAL),
}


def callbacks(jaxpr):
    names = [eqn.primitive.name for eqn in jaxpr.eqns]
    found = [name for name in names if "callback" in name or name == "debug_print"]
    for eqn in jaxpr.eqns:
        for part in jax.tree.leaves(
            list(eqn.params.values()),
            is_leaf=lambda x: isinstance(x, (jax.extend.core.Jaxpr, jax.extend.core.ClosedJaxpr)),
        ):
            if isinstance(part, jax.extend.core.ClosedJaxpr):
                found += callbacks(part.jaxpr)
            elif isinstance(part, jax.extend.core.Jaxpr):
                found += callbacks(part)
    return found


def programs(solver, problem, operators, policy):
    """The programs by name, of one argument."""
    solve = ie.eigensolver(solver, problem, policy=policy)

    def forward(x):
        solution = solve(*operators(x))
        return jnp.sum(solution.values.real) + jnp.sum(jnp.abs(solution.vectors) ** 4)

    gradient = jax.grad(forward)
    return {
        "forward": forward,
        "gradient": gradient,
        "tangent": lambda x: jax.jvp(forward, (x,), (x,))[1],
        "second order": lambda x: jax.jvp(gradient, (x,), (x,))[1],
    }


@pytest.mark.slow
@pytest.mark.parametrize("action", QUIET)
@pytest.mark.parametrize("name", CASES)
def test_no_callback_in_the_program(name, action):
    *parts, x = CASES[name]
    found = programs(*parts, QUIET[action])
    for program in found.values():
        assert callbacks(jax.make_jaxpr(program)(x).jaxpr) == []


@pytest.mark.parametrize("size", [300])
def test_nor_in_the_second_choice_of_a_linear_solver(size):
    M = jnp.asarray(np.random.default_rng(0).standard_normal((size, size)))
    found = programs(eigh(), ie.Hermitian(2), ONE, QUIET[ie.Action.NAN])
    for program in found.values():
        assert callbacks(jax.make_jaxpr(program)(M + M.T).jaxpr) == []


@pytest.mark.parametrize("name", CASES)
def test_the_default_has_some(name):
    """The search finds them."""
    *parts, x = CASES[name]
    found = programs(*parts, ie.Policy())
    assert callbacks(jax.make_jaxpr(found["gradient"])(x).jaxpr)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("action", [ie.Action.RAISE, ie.Action.WARN])
def test_the_host_is_called_where_a_check_fails_and_only_there(action, batched, monkeypatch):
    calls = []
    judge = Check.__call__
    monkeypatch.setattr(Check, "__call__", lambda *args: calls.append(args[1]) or judge(*args))
    policy = ie.Policy(forward=action, residual_rtol=1e-6)
    off = ie.traceable(
        lambda A: (jnp.linalg.eigh(A)[0] + jnp.where(A[0, 0] > 50, 1.0, 0.0), jnp.eye(2))
    )
    solve = ie.eigensolver(off, ie.Hermitian(2), policy=policy)
    f = lambda a: jnp.sum(solve(jnp.diag(jnp.stack([a, 2 * a]))).values)
    f = jax.jit(jax.vmap(jax.value_and_grad(f)) if batched else jax.value_and_grad(f))
    good, bad = (
        (jnp.array([1.0, 2.0]), jnp.array([1.0, 60.0]))
        if batched
        else (jnp.array(1.0), jnp.array(60.0))
    )
    jax.block_until_ready(f(good))
    assert calls == []
    if action is ie.Action.RAISE:
        with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match="A x = λ B x"):
            jax.block_until_ready(f(bad))
    else:
        with pytest.warns(ie.ForwardWarning, match="A x = λ B x"):
            jax.block_until_ready(f(bad))
    assert len(calls) == 1
    assert np.sum(calls[0]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_failed_check_is_nan_without_the_host(name):
    """What the host would object to, and that alone, is NaN under `NAN`."""
    solver, problem, operators, x = CASES[name]
    found = programs(solver, problem, operators, QUIET[ie.Action.NAN])["forward"]
    rough = dataclasses.replace(QUIET[ie.Action.NAN], residual_rtol=0.0)
    spoilt = lambda *ops: tuple(
        part * (1 + 1e-3 * (i == 0)) for i, part in enumerate(solver.fn(*ops))
    )
    bad = programs(ie.traceable(spoilt), problem, operators, rough)
    # of a subspace the values are not used
    failing = [] if name == "Subspace" else [bad["forward"], bad["gradient"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, *spoilt_ones = jax.jit(lambda x: [f(x) for f in (found, *failing)])(x)
    assert np.isfinite(value)
    assert all(np.isnan(part).all() for part in spoilt_ones)


def test_a_member_whose_solver_raises_is_nan_alone():
    """Under `NAN`, of a sweep with a solver on the host; without `jit` too."""

    def fails(A):
        if A[0, 0] > 50:
            raise np.linalg.LinAlgError("did not converge")
        return np.linalg.eigh(A)

    def f(solve, a):
        solution = solve(jnp.diag(jnp.stack([a, 2 * a, 4 * a])))
        return jnp.sum(solution.values) + jnp.sum(solution.vectors**4)

    solve = ie.eigensolver(fails, ie.Hermitian(2), policy=ie.Policy(forward=ie.Action.NAN))
    swept = jax.vmap(jax.value_and_grad(lambda a: f(solve, a)))
    for run in (swept, jax.jit(swept)):
        values, slopes = run(jnp.array([1.0, 60.0, 2.0]))
        np.testing.assert_array_equal(np.isnan(values), [False, True, False])
        np.testing.assert_array_equal(np.isnan(slopes), [False, True, False])
    strict = ie.eigensolver(fails, ie.Hermitian(2))
    with pytest.raises(np.linalg.LinAlgError):
        f(strict, jnp.array(60.0))
    wrong = ie.eigensolver(lambda A: A.no_such_name, ie.Hermitian(2), policy=solve.policy)
    with pytest.raises(AttributeError):
        f(wrong, jnp.array(1.0))


def test_a_failing_linear_solver_is_nan_under_nan():
    def fails(A, b):
        raise RuntimeError("Factor is exactly singular")

    loss = lambda solve: lambda A: jnp.sum(solve(A).vectors ** 4)
    failing = ie.host_linear_solver(fails)
    policy = ie.Policy(linear_solve=ie.Action.NAN)
    solve = ie.eigensolver(np.linalg.eigh, ie.Hermitian(2), linear_solver=failing, policy=policy)
    assert np.isnan(jax.jit(jax.grad(loss(solve)))(S)).all()
    solve = ie.eigensolver(np.linalg.eigh, ie.Hermitian(2), linear_solver=failing)
    with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match="exactly singular"):
        jax.block_until_ready(jax.jit(jax.grad(loss(solve)))(S))
