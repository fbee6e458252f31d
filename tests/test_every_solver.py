"""One problem of each kind, by every ready-made solver that solves it: one gradient."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg as sla
from problems import sparse

import implicit_eig as ie
from implicit_eig import solvers

N, K, P = 30, 3, 4
EPS = np.finfo(float).eps
RNG = np.random.default_rng(11)
NEEDS = {"primme": "primme", "primme_svd": "primme", "slepc": "slepc4py", "lanczos": "matfree"}
# The residuals of solvers that iterate to less than the accuracy of the machine. The gradient has
# an error of a residual times its condition, which is below 100 here.
LOOSE = {"lobpcg": EPS**0.7, "slepc": EPS**0.7}
WEIGHTS = RNG.standard_normal((N, K))


def noise(*shape):
    return RNG.standard_normal(shape) / np.sqrt(N)


def symmetric(G):
    return G + G.T


def loss(values, vectors, xp=jnp):
    """A function of eigenvalues and vectors that no phase or scale of these changes."""
    squares = abs(vectors) ** 2
    weights = WEIGHTS[: len(vectors)]
    return xp.sum(abs(values)) + xp.sum(weights * squares / xp.sum(squares, axis=0, keepdims=True))


@dataclasses.dataclass(frozen=True)
class Family:
    """Operators A + Σ pᵢ Aᵢ of a kind of problem, and a dense solver of NumPy or SciPy."""

    problem: Any
    parts: list  # (A, [A₁, …]) of each operator
    reference: Callable

    def operators(self, p, form=lambda M: M):
        terms = ((A, *(q * M for q, M in zip(p, rest, strict=True))) for A, rest in self.parts)
        return [form(sum(part[1:], part[0])) for part in terms]

    @functools.cached_property
    def point(self):
        rng = np.random.default_rng(3)
        return 0.1 * rng.standard_normal(P), rng.standard_normal(P)

    @functools.cached_property
    def derivative(self):
        """That of the loss along a direction, by differences of fourth order."""
        p, direction = self.point
        f = lambda t: loss(*self.reference(*self.operators(p + t * direction)), np)
        first, second = ((f(h) - f(-h)) / (2 * h) for h in (1e-4, 2e-4))
        return (4 * first - second) / 3

    def __hash__(self):
        return id(self)


def first(k, order, values, vectors):
    chosen = np.argsort(order(values), kind="stable")[:k]
    return values[chosen], vectors[:, chosen]


SHIFT = 1.0 + 1.0j
spectrum = np.diag(np.linspace(0.5, 6.0, N) ** 1.5)
definite = np.eye(N) + 0.05 * symmetric(noise(N, N))
A = spectrum + symmetric(noise(N, N)), [symmetric(noise(N, N)) for _ in range(P)]
B = definite, [0.1 * symmetric(noise(N, N)) for _ in range(P)]
G = 3 * noise(N, N), [noise(N, N) for _ in range(P)]
R = np.eye(N, N - 6) * np.linspace(4, 1, N - 6), [noise(N, N - 6) for _ in range(P)]
C = 0.3 * noise(N, N), [noise(N, N) for _ in range(P)]


def nearest(values, vectors):
    return first(K, lambda lam: abs(lam - SHIFT), values, vectors)


def triplets(A):
    _, values, Vh = np.linalg.svd(A)
    return values[:K], Vh[:K].T


def quadratic(A0, A1, A2):
    zero, one = np.zeros((N, N)), np.eye(N)
    companion = np.block([[zero, one], [-A0, -A1]]), np.block([[one, zero], [zero, A2]])
    values, vectors = sla.eig(*companion)
    return nearest(values, vectors[:N])


def T(lam, x, *matrices):  # noqa: N802
    A0, A1, A2 = (M.astype(x.dtype) for M in matrices)
    return A0 @ x + lam * (A1 @ x) + lam**2 * (A2 @ x)


FAMILIES = {
    "hermitian": Family(ie.Hermitian(K), [A], lambda A: first(K, np.real, *np.linalg.eigh(A))),
    "pencil": Family(ie.Hermitian(K), [A, B], lambda A, B: first(K, np.real, *sla.eigh(A, B))),
    "general": Family(ie.General(K), [G, B], lambda A, B: nearest(*sla.eig(A, B))),
    "singular": Family(ie.Singular(K), [R], triplets),
    "quadratic": Family(ie.Polynomial(K), [A, C, B], quadratic),
    "nonlinear": Family(ie.Nonlinear(T, k=K, n=N), [A, C, B], quadratic),
}
SOLVERS = [
    *[
        (family, name, options)
        for family in ("hermitian", "pencil")
        for name, options in [
            ("lapack", {}),
            ("jax_eigh", {}),
            ("arpack", {}),
            ("arpack", {"sigma": 0.0}),
            ("lobpcg", {}),
            ("primme", {}),
            ("slepc", {}),
        ]
    ],
    ("hermitian", "lanczos", {}),
    ("general", "lapack", {"sigma": SHIFT}),
    ("general", "jax_eig", {"sigma": SHIFT}),
    ("general", "arpack_general", {"sigma": SHIFT}),
    ("general", "arpack_general", {"sigma": SHIFT, "left": True}),
    ("general", "slepc", {"sigma": SHIFT}),
    ("singular", "lapack", {}),
    ("singular", "jax_svd", {}),
    ("singular", "arpack_svd", {}),
    ("singular", "primme_svd", {}),
    ("singular", "slepc", {}),
    ("quadratic", "lapack", {"sigma": SHIFT}),
    ("quadratic", "slepc", {"sigma": SHIFT}),
    ("nonlinear", "newton", {}),
    ("nonlinear", "slepc", {"sigma": SHIFT}),
]
# those that factorise take sparse operators too
SPARSE = ("arpack", "arpack_general", "lobpcg", "primme", "slepc")


def solver_of(family, name, options):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    p, _ = family.point
    if name == "newton":
        values, vectors = family.reference(*family.operators(p))
        return solvers.newton(T, (jnp.asarray(values), jnp.asarray(vectors)))
    if name == "slepc" and isinstance(family.problem, ie.Nonlinear):
        terms = lambda A0, A1, A2: [(A0, [1.0]), (A1, [1.0, 0.0]), (A2, [1.0, 0.0, 0.0])]
        return solvers.slepc(split=terms, **options)
    return getattr(solvers, name)(**options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "options"),
    SOLVERS,
    ids=lambda x: "-".join(map(str, x)) if isinstance(x, dict) else x,
)
def test_one_gradient(kind, name, options):
    family = FAMILIES[kind]
    solver = solver_of(family, name, options)
    solve = ie.eigensolver(solver, family.problem)
    form = sparse if name in SPARSE and kind != "nonlinear" else lambda M: M
    p, direction = family.point

    def value(p):
        solution = solve(*family.operators(p, form))
        return loss(solution.values, solution.vectors)

    gradient = jax.jit(jax.grad(value))(jnp.asarray(p))
    allowed = max(1e-8, 100 * LOOSE.get(name, 0.0)) * (1 + abs(family.derivative))
    assert abs(np.asarray(gradient) @ direction - family.derivative) < allowed


def test_every_solver_is_in_the_table():
    made = {name for _, name, _ in SOLVERS}
    assert made == set(solvers.__all__) - {"AbstractForwardSolver"}
