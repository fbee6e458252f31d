"""One-sided derivatives of eigenvalues, the only ones that a repeated eigenvalue has.

On the line A + tȦ, B + tḂ with t ≥ 0 the eigenvalues of a cluster are those of its block S(t), with
A X = B X S and XᴴBX = I. S is Hermitian, S(0) = λ I, and S(t) = λ I + t Ṡ + ½t² S̈ + …, so

    first order:   the eigenvalues of Ṡ = Xᴴ(Ȧ − λḂ)X,
    second order:  Ṡ = Q diag(g) Qᴴ; of each group of equal g those of Qᴴ S̈ Q,

because the entries of S̈ between two different g have an effect only at t³. S̈ is the derivative
of Ṡ along the line. With Ẋ = −½XXᴴḂX + Ẋ', Ẋ' outside the cluster, two differentiations of the
conditions give

    S̈ = 2Xᴴ(Ȧ − λḂ)Ẋ' − NṠ − ṠN,    N = XᴴḂX,

and differentiating the rule Ṡ = G of `problems.hermitian` gives S̈ + ½(ṠN − NṠ), because for t ≠ 0
the basis of that rule turns; the additional term is skew-Hermitian. So S̈ is the Hermitian part of
what JAX returns, and needs only the solve for Ẋ.

A semisimple eigenvalue of a pencil, or of T(λ), that is not Hermitian has the eigenvalues of its Ṡ
as first derivatives. Its block is not Hermitian, and needs the solve of `problems._pairs`.

Source: Lancaster (1964) Numer. Math. 6, 377, doi:10.1007/BF01386087; Kato, Perturbation Theory
for Linear Operators, II.5.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Inexact, PyTree

from .. import host
from .._compiled import compiled
from .._eigensolver import Eigensolver, check_eigensolver
from .._errors import InputError
from .._tangents import jvp_at
from ..checks.clusters import clusters_of
from ..checks.policy import tolerance
from ..implicit.theorem import find_root
from ..operators import apply, column_norms
from ..operators.sparse import simplify
from ..problems._abstract import Operators


def directional_derivatives(
    solve: Eigensolver, operators: tuple[Any, ...], tangents: tuple[Any, ...], *, order: int = 1
) -> Inexact[Array, " k"]:
    """Return the one-sided derivatives of the eigenvalues along operators + t · tangents, t ≥ 0.

    A repeated eigenvalue splits along the line into branches, each with derivatives at t = 0 from
    above. Those of first order are the eigenvalues of Xᴴ(Ȧ − λḂ)X, X being a basis of the cluster.
    A plain JVP is linear in the tangents and cannot give them; for simple eigenvalues the two
    agree. The derivatives from below are those along −tangents, times −1. For a cluster that k cuts
    the result belongs to no branch; `guard` shows that.

    Args:
        solve: made by `eigensolver`.
        operators: (A,) or (A, B), as `solve(*operators)` takes them.
        tangents: (Ȧ,) or (Ȧ, Ḃ), each of the form and pattern of its operator; `None` for
            one that does not move.
        order: 1, or 2 for the second derivatives of the branches of `Hermitian` and `Singular`.

    Returns:
        Shape (k,). Inside a cluster they ascend by the first derivative and, where first
        derivatives agree, by the second. First derivatives agree where they differ by less than
        `Policy(degeneracy_rtol)`, by default √eps, relative to the size of Ȧ − λḂ. Complex ones
        ascend by the real part. The result carries no derivative.

    Raises:
        InputError: `solve` was not made by `eigensolver`; the tangents do not fit the operators;
            the order is unknown, or is 2 for a problem other than `Hermitian` and `Singular`; the
            problem is of another kind.

    Cost: the forward solve, and a product with each tangent for each eigenpair; for the second
        order, and where the problem is not Hermitian, one more linear solve for each eigenpair.
    Source: see the module.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> A, A_dot = jnp.eye(3), jnp.diag(jnp.array([3.0, 1.0, 2.0]))
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=3))
        >>> directional_derivatives(solve, (A,), (A_dot,)).round(4).tolist()
        [1.0, 2.0, 3.0]

        Along a direction of parameters:

        >>> matrix = lambda p: jnp.array([[p[0], p[1]], [p[1], -p[0]]])
        >>> A, A_dot = jax.jvp(matrix, (jnp.zeros(2),), (jnp.array([3.0, 4.0]),))
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=2))
        >>> directional_derivatives(solve, (A,), (A_dot,)).round(4).tolist()
        [-5.0, 5.0]
    """
    check_eigensolver(solve, "directional_derivatives(solve, (A, B), (A_dot, B_dot))")
    if order not in (1, 2):
        raise InputError(
            f"`directional_derivatives(order=...)`: 1 or 2; got {order!r}. Higher ones follow from "
            "the branches' values at several t."
        )
    solve, _ = solve.prepared(*operators)
    if solve.operators is not None:  # tangents of parameters
        operators, tangents = eqx.filter_jvp(
            lambda *args: solve.assembled(args), operators, tangents
        )
    given = solve.problem.canonical(operators)
    if len(tangents) == len(operators):
        tangents = tuple(map(_of_entries, operators, tangents))
    dots = _tangents(solve, given, tangents)
    theta, theta_dot = eqx.filter_jvp(lambda *ops: solve.canonical(ops), given, dots)
    z, _ = find_root(solve, theta)
    equal: Any = solve.problem.clusters(z)
    if not solve.problem.block_is_hermitian:
        return _of_pairs(solve, z, theta, theta_dot, equal, order)
    expansion = _expand(solve, z, theta, theta_dot, order)
    like = jax.ShapeDtypeStruct(equal.shape[:1], expansion[-1].dtype)
    rtol = tolerance(solve.policy.degeneracy_rtol, like.dtype)
    return host.call(_SplitBlock(order, rtol), like, equal, *expansion)


def _of_entries(operator: Any, tangent: Any) -> Any:
    """Return the tangent of a lineax expression as the tangent of its entries."""
    expressions = (
        lx.AddLinearOperator,
        lx.NegLinearOperator,
        lx.MulLinearOperator,
        lx.DivLinearOperator,
        lx.TaggedLinearOperator,
    )
    dots = eqx.filter(tangent, eqx.is_inexact_array)
    like = jax.tree.structure(eqx.filter(operator, eqx.is_inexact_array))
    if isinstance(operator, expressions) and jax.tree.structure(dots) == like:
        return eqx.combine(*eqx.filter_jvp(simplify, (operator,), (dots,))[::-1])
    return tangent


def _tangents(solve: Eigensolver, given: Operators, tangents: tuple[Any, ...]) -> PyTree:
    """Return the tangents of the arrays of `given`, and `None` for its other leaves."""
    moving = eqx.filter(given, eqx.is_inexact_array)
    if len(tangents) == len(given):
        known = iter(solve.problem.canonical(tuple(t for t in tangents if t is not None)))
        dots = tuple(
            jax.tree.map(jnp.zeros_like, moving[i])
            if tangent is None
            else eqx.filter(next(known), eqx.is_inexact_array)
            for i, tangent in enumerate(tangents)
        )
        shapes = [[(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(t)] for t in (moving, dots)]
        if jax.tree.structure(moving) == jax.tree.structure(dots) and shapes[0] == shapes[1]:
            return dots
    raise InputError(
        "`directional_derivatives(tangents=...)`: one tangent for each operator, of its form, "
        f"shape, dtype and sparsity pattern; got {len(tangents)} for {len(given)}, of types "
        f"{', '.join(type(t).__name__ for t in tangents)}. Take both from `jax.jvp(assemble, "
        "...)`, or give zeros of the pattern explicitly."
    )


def _block_dot(
    solve: Eigensolver, z: PyTree, theta: Operators, theta_dot: PyTree
) -> tuple[Inexact[Array, "k k"], PyTree]:
    """Return Ṡ and the tangent of the state."""
    residual_dot = jvp_at(lambda t: solve.residual(z, t), theta, theta_dot)
    z_dot = solve.solve_linearised(z, theta, residual_dot)
    return jvp_at(lambda z: solve.problem.block(solve.problem.separate(z)), z, z_dot), z_dot


@compiled
def _expand(
    solve: Eigensolver, z: PyTree, theta: Operators, theta_dot: PyTree, order: int
) -> tuple[Array, Array, Array]:
    """Return Ṡ, S̈ (Ṡ again where `order` is 1) and the size of Ṫ x for each eigenpair."""
    first, z_dot = _block_dot(solve, z, theta, theta_dot)
    second = first
    if order == 2:
        again = lambda both: _block_dot(solve, both[0], both[1], theta_dot)  # noqa: E731
        second, _ = jvp_at(again, (z, theta), (z_dot, theta_dot))
    solution = solve.problem.solution(z)
    # the tangents become operators by the other parts of theta, such as the sparsity pattern
    dots = eqx.combine(theta_dot, eqx.filter(theta, eqx.is_inexact_array, inverse=True))
    products = [column_norms(apply(dot, jnp.asarray(solution.vectors))) for dot in dots]
    powers = [jnp.abs(jnp.asarray(solution.values)) ** j for j in range(len(dots))]
    size = sum(p * q for p, q in zip(powers, products, strict=True))
    return first, second, size * column_norms(jnp.asarray(solution.vectors))


class _SplitBlock(eqx.Module):
    """Return the eigenvalues of Ṡ, or those of S̈ where these agree, cluster by cluster."""

    order: int = eqx.field(static=True)
    rtol: float = eqx.field(static=True)

    def __call__(
        self, equal: np.ndarray, first: np.ndarray, second: np.ndarray, size: np.ndarray
    ) -> np.ndarray:
        found = np.zeros(len(equal), size.dtype)
        for cluster in clusters_of(equal):
            inside = np.ix_(cluster, cluster)
            _check_cluster(equal, cluster)
            g, Q = np.linalg.eigh(_hermitian(first[inside]))
            if self.order == 1:
                found[cluster] = g
                continue
            T = Q.conj().T @ _hermitian(second[inside]) @ Q
            apart = np.flatnonzero(np.diff(g) > self.rtol * size[cluster].max()) + 1
            for group in np.split(np.arange(len(g)), apart):
                found[cluster[group]] = np.linalg.eigvalsh(T[np.ix_(group, group)])
        return found


def _hermitian(S: np.ndarray) -> np.ndarray:
    return (S + S.conj().T) / 2


def _check_cluster(equal: np.ndarray, cluster: np.ndarray) -> None:
    """Raise unless all eigenvalues of a cluster are near each other, not only in a chain."""
    apart = np.argwhere(~equal[np.ix_(cluster, cluster)])
    if apart.size:
        i, j = cluster[apart[0]]
        raise InputError(
            "`directional_derivatives(...)`: values that are equal or apart; got a chain of "
            f"{len(cluster)} values, each near the next, from pair {i} to pair {j}, which are not "
            "near. Change the threshold, `Policy(degeneracy_rtol=...)` of the eigensolver."
        )


def _of_pairs(
    solve: Eigensolver, z: PyTree, theta: Operators, theta_dot: PyTree, equal: Any, order: int
) -> Inexact[Array, " k"]:
    """Return the first derivatives of a problem that is not Hermitian."""
    problem = solve.problem
    if order == 2:
        raise InputError(
            "`directional_derivatives(order=2)`: a Hermitian problem; got "
            f"{type(problem).__name__}. For simple values nest `jax.jvp`."
        )
    if problem.block(z) is None:
        raise InputError(
            "`directional_derivatives(solve=...)`: a problem of the package with single values; "
            f"got {type(problem).__name__}. Use `Hermitian`, `Singular`, `General`, `Polynomial` "
            "or `Nonlinear`."
        )
    S_dot, _ = _block_dot(solve, z, theta, theta_dot)
    like = jax.ShapeDtypeStruct(S_dot.shape[:1], S_dot.dtype)
    return host.call(_split_pairs, like, equal, S_dot)


def _split_pairs(equal: np.ndarray, S_dot: np.ndarray) -> np.ndarray:
    """Return the eigenvalues of Ṡ, cluster by cluster."""
    found = np.zeros(len(S_dot), S_dot.dtype)
    for cluster in clusters_of(equal):
        _check_cluster(equal, cluster)
        found[cluster] = np.sort_complex(np.linalg.eigvals(S_dot[np.ix_(cluster, cluster)]))
    return found
