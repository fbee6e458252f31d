"""The derivatives by the package, one compiled program for all cases of one `cases.Program`."""

import functools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp

import implicit_eig as ie

from .cases import FEATURES, order


class Solver:
    """LAPACK, which returns the k pairs that the case in hand wants, or all."""

    case = None

    def __init__(self, kind):
        self.kind = kind

    def __call__(self, *operators):
        operators = [dense(A) for A in operators]
        values, X, Y = FORWARD[self.kind](*operators)
        chosen = np.argsort([order(self.kind, complex(v)) for v in values], kind="stable")
        finite = [
            i for i in chosen if np.isfinite(values[i]) and abs(values[i]) < 1e12 * self.case.scale
        ]
        count = len(finite) if self.case.rest else self.case.program.k
        pick = finite[:count]
        if Y is None or self.kind == "Polynomial" or self.kind == "Nonlinear":
            return values[pick], X[:, pick]
        return values[pick], X[:, pick], Y[:, pick]


def dense(A):
    if sp.issparse(A):
        return A.toarray()
    return A if isinstance(A, np.ndarray) else A @ np.eye(A.shape[1], dtype=A.dtype)


def eigh(A, B=None):
    return (*sla.eigh(A, B), None)


def svd(A):
    U, sigma, Vh = sla.svd(A, full_matrices=False)
    return sigma, Vh.conj().T, U


def eig(A, B=None):
    values, left, right = sla.eig(A, B, left=True)
    return values, right, left


def quadratic(K, C, M):
    n = len(K)
    zero, one = np.zeros_like(K), np.eye(n, dtype=K.dtype)
    lower = np.concatenate([-np.linalg.solve(M, K), -np.linalg.solve(M, C)], axis=1)
    values, Z = sla.eig(np.concatenate([np.concatenate([zero, one], axis=1), lower]))
    return values, Z[:n], None


FORWARD = {
    "Hermitian": eigh,
    "Subspace": eigh,
    "Singular": svd,
    "General": eig,
    "Polynomial": quadratic,
    "Nonlinear": quadratic,
}


def conditions(lam, x, K, C, M):
    c = lambda A: A.astype(x.dtype)
    return c(K) @ x + lam * (c(C) @ x) + lam**2 * (c(M) @ x)


def problem_of(program):
    k, kind = program.k, program.kind
    if kind == "Nonlinear":
        return ie.Nonlinear(conditions, k=k)
    options = {"left": True} if program.left else {}
    return getattr(ie, kind)(k, **options)


def as_given(program, A):
    """The operator in the form of the program, from a dense array."""
    if program.form == "dense":
        return A
    if program.form == "sparse":
        rows, cols = np.indices(A.shape).reshape(2, -1)
        return ie.SparseOperator(A.reshape(-1), rows, cols, A.shape)
    hermitian = program.kind == "Hermitian"
    tags = (lx.symmetric_tag,) if hermitian else ()
    return lx.FunctionLinearOperator(
        lambda x: A @ x, jax.ShapeDtypeStruct((A.shape[1],), A.dtype), tags, closure_convert=False
    )


def features(program, solution, c, w, P, Q, scale):
    """The sum of c times each feature."""
    values, X = solution.values, solution.vectors
    if program.kind == "Subspace":
        density = jnp.einsum("ai,ab,bi->", X.conj(), P.astype(X.dtype), X).real
        return c["sum"] * jnp.trace(values).real / scale + c["density"] * density
    Y = solution.left_vectors if (program.left or program.kind == "Singular") else None
    # a product, because XLA divides complex numbers by squares, which overflow
    lam = values * (1 / scale).astype(values.dtype)
    plain = lam.real + lam.imag / 2 if jnp.iscomplexobj(lam) else lam
    decay = jnp.exp(-lam)
    form = lambda Y, M, X: jnp.sum(Y.conj() * (M.astype(X.dtype) @ X), axis=0)
    density = form(X, P, X).real
    out = (
        c["values"] * jnp.sum(w * plain)
        + c["sum"] * jnp.sum(plain)
        + c["densities"] * jnp.sum(w * density)
        + c["density"] * jnp.sum(density)
        + c["mixed"] * jnp.sum((decay * density.astype(decay.dtype)).real)
    )
    if Y is not None:
        out = out + c["left"] * jnp.sum(w * form(Y, Q, Y).real)
    if Y is not None and program.kind != "Singular":
        out = out + c["cross"] * jnp.sum(form(Y, P, X)).real
    if program.kind == "Hermitian" or (program.kind == "General" and program.left):
        F = ie.matrix_function(solution, lambda x: jnp.exp(-x * (1 / scale).astype(x.dtype)))
        # tr(P F), of which the vectors and the values are parts
        dtype = F.block.dtype
        left, right = F.left.astype(dtype), F.right.astype(dtype)
        inner = right.T @ (P.astype(dtype) @ left)
        out = out + c["function"] * jnp.trace(F.block @ inner).real
    return out


@functools.cache
def eigensolver(program):
    return ie.eigensolver(Solver(program.kind), problem_of(program))


@functools.cache
def compiled(program):
    """(the solver, the jitted derivative) of a program."""
    solve = eigensolver(program)

    def f(operators, rest):
        given = [as_given(program, A) for A in operators]
        return features(program, solve(*given), *rest)

    def along(gradient, directions):
        parts = [jnp.sum(g * d) for g, d in zip(gradient, directions, strict=True)]
        sizes = [
            jnp.sum(jnp.abs(g) * jnp.abs(d)) for g, d in zip(gradient, directions, strict=True)
        ]
        return sum(p.real for p in parts), sum(sizes)

    def grad(operators, directions, rest):
        return along(jax.grad(f)(operators, rest), directions)

    def jvp(operators, directions, rest):
        _, out = jax.jvp(lambda A: f(A, rest), (operators,), (directions,))
        return out, jnp.zeros_like(out)

    def second(operators, directions, rest):
        _, out = jax.jvp(lambda A: jax.grad(f)(A, rest), (operators,), (directions,))
        return along(out, directions)

    def twice(operators, directions, rest):
        first = lambda A: along(jax.grad(f)(A, rest), directions)[0]
        return along(jax.grad(first)(operators), directions)

    orders = {"grad": grad, "jvp": jvp, "second": second, "twice": twice}
    return solve.solver, jax.jit(orders[program.order])


def arguments(case):
    """What `features` takes beside the program and the solution."""
    real = np.finfo(case.operators[0].dtype).dtype
    c = {name: jnp.asarray(case.c[name], real) for name in FEATURES}
    return c, *map(jnp.asarray, (case.w, case.P, case.Q)), jnp.asarray(case.scale, real)


def derivative(case):
    """The derivative along the case's direction, and the size of its terms, 0 if not known."""
    host, function = compiled(case.program)
    host.case = case
    operators, directions = (list(map(jnp.asarray, A)) for A in (case.operators, case.directions))
    rest = arguments(case)
    out, size = jax.block_until_ready(function(operators, directions, rest))
    return float(out), float(size)
