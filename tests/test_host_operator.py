"""Matrices that host code assembles, in every kind of problem."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
from families import P, hermitian, parameters, rectangular, tolerance
from problems import dense, eigh, jitted, random_definite
from test_pairs import polyeig

import implicit_eig as ie
from implicit_eig.operators import as_operator


def eig(A, B=None):
    """Complex pairs first, also of real matrices."""
    values, vectors = sla.eig(dense(A), None if B is None else dense(B))
    order = np.argsort(-values.imag)
    return values[order], vectors[:, order]


def eig_left(A):
    values, left, vectors = sla.eig(dense(A), left=True)
    order = np.argsort(-values.imag)
    return values[order], vectors[:, order], left[:, order]


def svd(A):
    U, sigma, Vh = np.linalg.svd(dense(A), full_matrices=False)
    return sigma, Vh.conj().T, U


N = 8


def left_loss(solution):
    return loss(solution) + jnp.sum(jnp.abs(solution.left_vectors[:3]) ** 2)


def loss(solution):
    """A function of values and of moduli of vectors, which no phase changes."""
    X = jnp.abs(solution.vectors)
    w = jnp.asarray(np.cos(np.arange(X.size)).reshape(X.shape), X.dtype)
    return jnp.sum(jnp.abs(solution.values - 0.3) ** 2) + jnp.sum(w * X**2)


def trace(solution):
    S, X = solution
    w = jnp.arange(1, len(X) + 1, dtype=jnp.abs(X).dtype)[:, None]
    return jnp.trace(S @ S).real + jnp.sum(w * jnp.abs(X) ** 2)


def schur(A):
    T, Z = sla.schur(dense(A), "complex")
    return np.diag(T)[:2], Z[:, :2]


KINDS = {
    "hermitian": (eigh, ie.Hermitian(3), loss),
    "pencil": (eigh, ie.Hermitian(3), loss),
    "general": (eig, ie.General(2), loss),
    "general pencil": (eig, ie.General(2), loss),
    "left": (eig_left, ie.General(2, left=True), left_loss),
    "singular": (svd, ie.Singular(2), left_loss),
    "subspace": (eigh, ie.Subspace(2), trace),
    "polynomial": (polyeig, ie.Polynomial(2), loss),
}


def families(kind, dtype, sparse=True):
    square = lambda seed: rectangular(N, N, dtype, sparse, seed)
    return {
        "hermitian": lambda: (hermitian(N, dtype, sparse),),
        "pencil": lambda: (hermitian(N, dtype, sparse), hermitian(N, dtype, sparse, True)),
        "general": lambda: (square(0),),
        "general pencil": lambda: (square(0), hermitian(N, dtype, sparse, True)),
        "left": lambda: (square(0),),
        "singular": lambda: (rectangular(N + 2, N, dtype, sparse),),
        "subspace": lambda: (hermitian(N, dtype, sparse),),
        "polynomial": lambda: (square(0), square(1), hermitian(N, dtype, sparse, True)),
    }[kind]()


def both(kind, dtype, sparse=True, **options):
    """The loss as a function of p, by host operators and by arrays of JAX."""
    solver, problem, of_solution = KINDS[kind]
    found = families(kind, dtype, sparse)
    solve = ie.eigensolver(solver, problem, **options)
    by_host = lambda p: of_solution(solve(*(F(p) for F in found)))
    by_jax = lambda p: of_solution(solve(*(F.as_array(p) for F in found)))
    return found, by_host, by_jax


MODES = [
    *((kind, np.float64) for kind in KINDS),
    *((kind, np.complex128) for kind in ("pencil", "left", "singular")),
    *((kind, np.float32) for kind in ("pencil", "general")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "dtype"), MODES)
def test_both_modes_and_one_call_for_each_pair(kind, dtype):
    """However many parameters, and for real matrices of complex vectors too."""
    found, by_host, by_jax = both(kind, dtype)
    p = parameters(dtype)
    v = jnp.cos(jnp.arange(P, dtype=p.dtype))
    value, expected = jax.jit(jax.value_and_grad(by_jax))(p)
    again, gradient = jax.jit(jax.value_and_grad(by_host))(p)
    tol = tolerance(dtype, expected, 1e6)
    assert gradient.dtype == p.dtype
    assert abs(again - value) < tolerance(dtype, value)
    assert jnp.max(jnp.abs(gradient - expected)) < tol
    k, adjoints = KINDS[kind][1].k, 1 if kind in ("left", "singular") else 0
    assert [F.calls["contract"] for F in found] == [(1 + adjoints) * k] * len(found)
    assert all(F.calls["product"] + F.calls["adjoint_product"] == 0 for F in found)
    _, slope = jax.jit(lambda p, v: jax.jvp(by_host, (p,), (v,)))(p, v)
    assert abs(slope - jnp.vdot(gradient, v)) < P * tol
    for F in found:
        assert F.calls["product"] == k
        assert F.calls["adjoint_product"] == adjoints * k
        assert F.calls["contract"] == (1 + adjoints) * k
        assert F.calls["assemble"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pencil", "general", "singular"])
def test_arrays_of_numpy(kind):
    _, by_host, by_jax = both(kind, np.float64, sparse=False)
    p = parameters(np.float64)
    found, expected = jitted(jax.grad(by_host), jax.grad(by_jax))(p)
    assert jnp.max(jnp.abs(found - expected)) < tolerance(np.float64, expected, 1e6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hermitian", "general"])
def test_batches(kind):
    found, by_host, by_jax = both(kind, np.float64)
    p = jnp.stack([parameters(np.float64, seed) for seed in range(3)])
    expected = jax.jit(jax.vmap(jax.grad(by_jax)))(p)
    gradient = jax.jit(jax.vmap(jax.grad(by_host)))(p)
    assert jnp.max(jnp.abs(gradient - expected)) < tolerance(np.float64, expected, 1e6)
    assert all(F.calls["assemble"] == 3 for F in found)
    solve = ie.eigensolver(*KINDS[kind][:2])
    values = lambda p: jnp.abs(solve(*(F(p) for F in found)).values)
    forward, reverse = jitted(jax.jacfwd(values), jax.jacrev(values))(p[0])
    assert jnp.max(jnp.abs(forward - reverse)) < tolerance(np.float64, forward)


@pytest.mark.slow
@pytest.mark.parametrize("of_solution", [loss, lambda solution: jnp.abs(solution.values[0])])
def test_nonlinear_takes_it_as_an_argument(of_solution):
    """T(λ) = A − λI is the general problem."""
    F = rectangular(N, N, np.float64)
    solve = ie.eigensolver(eig, ie.Nonlinear(lambda lam, x, A: A.mv(x) - lam * x, 2))
    oracle = ie.eigensolver(eig, ie.General(2))
    p = parameters(np.float64)
    by_host = lambda p: of_solution(solve(F(p)))
    found, expected = jitted(
        jax.grad(by_host), jax.grad(lambda p: of_solution(oracle(F.as_array(p))))
    )(p)
    tol = tolerance(np.float64, expected, 1e7)
    assert jnp.max(jnp.abs(found - expected)) < tol
    assert F.calls["contract"] == (2 if of_solution is loss else 1)
    push = jax.jit(lambda p: jax.jvp(by_host, (p,), (p,))[1])
    assert abs(push(p) - expected @ p) < P * tol
    assert F.calls["assemble"] == 1


class Chain:
    """A chain of n masses: 2n springs, each of 25 parts, as a pencil; p = (stiffness, masses)."""

    n, parts = 100, 25

    def __init__(self):
        self.calls = {"K": 0, "M": 0}
        self.B = sp.diags_array([np.ones(self.n), -np.ones(self.n - 1)], offsets=[0, -1]).tocsr()

    def stiffness(self, p):
        return self.B @ sp.diags_array(p["k"].sum(axis=1)) @ self.B.T

    def stiffness_contract(self, p, y, x):
        self.calls["K"] += 1
        stretch = (self.B.T @ y).conj() * (self.B.T @ x)
        p_bar = np.broadcast_to(stretch[:, None], p["k"].shape)
        return {"k": p_bar, "m": np.zeros_like(p["m"])}

    def mass(self, p):
        return sp.diags_array(p["m"].sum(axis=1))

    def mass_contract(self, p, y, x):
        self.calls["M"] += 1
        p_bar = np.broadcast_to((y.conj() * x)[:, None], p["m"].shape)
        return {"k": np.zeros_like(p["k"]), "m": p_bar}

    def __call__(self, p):
        of = {"shape": (self.n, self.n), "dtype": float}
        K = ie.host_operator(self.stiffness, p, contract=self.stiffness_contract, **of)
        return K, ie.host_operator(self.mass, p, contract=self.mass_contract, **of)


def test_five_thousand_parameters():
    """Values and vectors of four modes, by ARPACK's factorisation: four contractions."""
    chain = Chain()
    rng = np.random.default_rng(0)
    p = {name: jnp.asarray(1 + rng.random((chain.n, chain.parts))) for name in "km"}
    assert sum(leaf.size for leaf in p.values()) == 5000
    solve = ie.eigensolver(ie.solvers.arpack(4, sigma=0.0), ie.Hermitian(4))
    f = lambda p: loss(solve(*chain(p)))
    ie.factorization_cache.clear()
    value_and_gradient = jax.jit(jax.value_and_grad(f))
    _, gradient = value_and_gradient(p)
    jax.block_until_ready(gradient)
    assert chain.calls == {"K": 4, "M": 4}
    assert ie.factorization_cache.misses == 1
    assert ie.factorization_cache.hits >= 1
    v = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), p)
    h = 1e-5
    step = lambda s: value_and_gradient(jax.tree.map(lambda a, b: a + s * h * b, p, v))[0]
    differences = (step(1) - step(-1)) / (2 * h)
    slope = sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (gradient, v)), strict=True))
    assert abs(slope - differences) < 1e-6 * abs(differences)
    chain.calls.update(K=0, M=0)
    jax.block_until_ready(jax.jit(jax.grad(lambda p: solve(*chain(p)).values[2]))(p))
    assert chain.calls == {"K": 1, "M": 1}


LINEAR_SOLVERS = {
    "ShiftInvert": (ie.ShiftInvert(-9.0), None),
    "SparseDirect": (ie.SparseDirect(), None),
    "MINRES": (ie.MINRES(), None),
    "CG": (lx.CG(rtol=1e-11, atol=1e-11), None),
    "host": (ie.host_linear_solver(lambda A, b: np.linalg.solve(dense(A), b)), None),
    "Bordered host": (
        ie.host_linear_solver(lambda A, b: np.linalg.solve(dense(A), b)),
        ie.Bordered(),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("pencil", name) for name in LINEAR_SOLVERS),
        *(("singular", name) for name in ("ShiftInvert", "SparseDirect", "MINRES")),
    ],
)
def test_linear_solvers(kind, name):
    linear_solver, system = LINEAR_SOLVERS[name]
    _, by_host, _ = both(kind, np.float64, linear_solver=linear_solver, system=system)
    p = parameters(np.float64)
    _, _, by_jax = both(kind, np.float64)
    found, expected = jitted(jax.grad(by_host), jax.grad(by_jax))(p)
    assert jnp.max(jnp.abs(found - expected)) < 1e-7 * jnp.max(jnp.abs(expected))


def test_beside_a_dense_array():
    """Dense as soon as one is: LU."""
    F, B, p = hermitian(N, np.float64), random_definite(N), parameters(np.float64)
    solve = ie.eigensolver(eigh, ie.Hermitian(2), linear_solver=lx.LU())
    found, expected = jitted(
        jax.grad(lambda p: loss(solve(F(p), B))), jax.grad(lambda p: loss(solve(F.as_array(p), B)))
    )(p)
    assert jnp.max(jnp.abs(found - expected)) < tolerance(np.float64, expected, 1e6)


class TestHostFunctionAsMatvec:
    """`host_function` as the matvec of an operator: transposed by its `vjp`."""

    @staticmethod
    def operator(F, p, structure):
        matrix = lambda p: np.tensordot(p**2, F.C[1:], 1) + F.C[0]
        matvec = ie.host_function(
            lambda p, x: matrix(p) @ x,
            like=lambda p, x: x,
            jvp=lambda primals, tangents: (
                F.product(primals[0], tangents[0], primals[1]) + matrix(primals[0]) @ tangents[1]
            ),
            vjp=lambda primals, bar: (
                F.contract(primals[0], bar, primals[1]),
                matrix(primals[0]).T @ bar,
            ),
        )
        return lx.FunctionLinearOperator(lambda x: matvec(p, x), structure)

    @pytest.mark.slow
    def test_gradient_of_a_general_problem(self):
        F, p = rectangular(N, N, np.float64), parameters(np.float64)
        like = jax.ShapeDtypeStruct((N,), np.float64)
        solver = ie.traceable(lambda A: jnp.linalg.eig(jax.vmap(A.mv, 1, 1)(jnp.eye(N))))
        solve = ie.eigensolver(solver, ie.General(2))
        oracle = ie.eigensolver(ie.traceable(jnp.linalg.eig), ie.General(2))
        expected = jax.jit(jax.grad(lambda p: loss(oracle(F.as_array(p)))))(p)
        f = lambda p: loss(solve(self.operator(F, p, like)))
        found = jax.jit(jax.grad(f))(p)
        assert jnp.max(jnp.abs(found - expected)) < 1e-6 * jnp.max(jnp.abs(expected))
        _, slope = jax.jit(lambda p: jax.jvp(f, (p,), (p,)))(p)
        assert abs(slope - expected @ p) < 1e-6 * jnp.max(jnp.abs(expected))

    def test_transposes(self):
        F, p = rectangular(N, N, np.float64), parameters(np.float64)
        A = as_operator("A", self.operator(F, p, jax.ShapeDtypeStruct((N,), np.float64)))
        x, matrix = jnp.arange(1.0, N + 1), F.as_array(p)
        tol = tolerance(np.float64, matrix, 1e3)
        assert jnp.max(jnp.abs(A.T.mv(x) - matrix.T @ x)) < tol
        assert jnp.max(jnp.abs(A.T.as_matrix() - matrix.T)) < tol
        (again,) = jax.vjp(A.T.mv, x)[1](x)
        assert jnp.max(jnp.abs(again - matrix @ x)) < tol
        assert jnp.max(jnp.abs(lx.conj(A).T.mv(x) - matrix.T @ x)) < tol

    def test_symmetric_ones_are_their_transpose(self):
        f = lx.FunctionLinearOperator(
            lambda x: 2 * x, jax.ShapeDtypeStruct((3,), np.float64), lx.symmetric_tag
        )
        A = as_operator("A", f)
        assert A.T is A
