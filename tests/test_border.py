"""The border of the linearised systems: its size beside stiff rows, and in single precision."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg as sla

import implicit_eig as ie
from implicit_eig.problems._pairs_solve import bordered

N = 40


def delay(lam, x, A, B):
    return A.astype(x.dtype) @ x + jnp.exp(-lam) * (B.astype(x.dtype) @ x) - lam * x


@pytest.mark.parametrize("problem", [ie.General(1), ie.Nonlinear(delay)], ids=["pencil", "delay"])
def test_a_penalty_does_not_scale_the_border(problem):
    """Next to a border of its size the other rows are rounding, which no iteration resolves."""
    A, B = np.random.default_rng(0).standard_normal((2, N, N))
    lam, x = jnp.ones(1, complex), jnp.ones((N, 1), complex)
    sizes = []
    for penalty in (0.0, 1e12):
        operators = problem.canonical((jnp.asarray(A + penalty * np.diag(np.eye(N)[3])), B))
        system = bordered(problem, operators, problem.state(ie.Solution(lam, x)))
        sizes.append((float(system.systems.alpha[0]), float(system.systems.sizes()[0])))
    assert np.max(np.abs(np.log(sizes[1]) - np.log(sizes[0]))) < np.log(3)


def test_the_default_solves_by_products_in_single_precision():
    """Without a warning, a second solver, or many restarts, which a small border costs."""
    n = 120
    ones = np.ones(n - 1)
    A = np.diag(np.geomspace(1, 3, n)) + 0.3 * np.diag(ones, 1) + 0.1 * np.diag(ones, -1)
    A = jnp.asarray(A, jnp.float32)
    D = jnp.asarray(np.random.default_rng(1).standard_normal((n, n)), jnp.float32)

    def by_products(A):
        like = jax.ShapeDtypeStruct((n,), A.dtype)
        return lx.FunctionLinearOperator(lambda v: A @ v, like)

    def solver(A):
        values, X = np.linalg.eig(np.asarray(A @ np.eye(n, dtype=np.float32), np.float64))
        i = [np.argmin(values.real)]
        return values[i], X[:, i]

    weights = jnp.linspace(0, 1, n, dtype=jnp.float32)
    reports = []
    policy = ie.Policy(monitor=reports.append)
    results = []
    for form in (by_products, lambda A: A):
        solve = ie.eigensolver(solver, ie.General(1), policy=policy)
        loss = lambda A, s=solve, f=form: jnp.abs(s(f(A)).vectors[:, 0]) ** 2 @ weights
        results.append(float(jnp.sum(jax.jit(jax.grad(loss))(A) * D)))
    jax.effects_barrier()
    assert abs(results[0] - results[1]) < 1e-3 * abs(results[1])
    assert [report.solver for report in reports] == ["GMRES", "LU"]
    assert reports[0].steps < 10  # restarts, about 7; 14 with a border of 1e-3


class TestPartsThatDoNotVary:
    """A solve has two unknowns; a derivative of a derivative may vary one of them alone."""

    n, k = 6, 2

    @classmethod
    def solver(cls, kind):
        def pairs(A):
            values, left, vectors = sla.eig(A, left=True)
            order = np.argsort(-values.real)[: cls.k]
            return values[order], vectors[:, order], left[:, order]

        lowest = lambda A: tuple(part[..., : cls.k] for part in np.linalg.eigh(A))
        forward, problem, system = {
            "left": (pairs, ie.General(cls.k, left=True), None),
            "General": (lambda A: pairs(A)[:2], ie.General(cls.k), None),
            "Subspace": (lowest, ie.Subspace(cls.k), None),
            "Bordered": (lowest, ie.Hermitian(cls.k), ie.Bordered()),
        }[kind]
        options = {} if system is None else {"system": system}
        return ie.eigensolver(forward, problem, **options)

    @pytest.mark.parametrize("of", ["values", pytest.param("vectors", marks=pytest.mark.slow)])
    @pytest.mark.parametrize("kind", ["left", "General", "Subspace", "Bordered"])
    def test_derivatives_of_gradients(self, kind, of):
        rng = np.random.default_rng(0)
        A = jnp.asarray(rng.standard_normal((self.n, self.n)))
        A, solve = A + A.T, self.solver(kind)

        def f(A):
            solution = solve(A)
            if of == "values" and kind != "Subspace":
                return jnp.sum(solution.values.real)
            X = solution.vectors
            trace = jnp.trace(solution.values).real if kind == "Subspace" else 0.0
            return trace if of == "values" else jnp.sum(jnp.abs(X[0]) ** 2)

        def g(t):  # A is constant: of the unknowns only what t reaches varies
            return jnp.sum(jax.grad(lambda A: jnp.sin(t * f(A)))(A) ** 2)

        step = 1e-4
        expected = (g(0.7 + step) - g(0.7 - step)) / (2 * step)
        for derivative in (jax.grad(g), lambda t: jax.jvp(g, (t,), (1.0,))[1]):
            assert abs(derivative(0.7) - expected) < 1e-4 * abs(expected)

        D = jnp.asarray(rng.standard_normal((self.n, self.n)))
        h = lambda t: f(A + t * (D + D.T))
        second = (jax.grad(h)(step) - jax.grad(h)(-step)) / (2 * step)
        for derivative in (jax.grad(jax.grad(h)), lambda t: jax.jvp(jax.grad(h), (t,), (1.0,))[1]):
            assert abs(derivative(0.0) - second) < 1e-4 * (1 + abs(second))
