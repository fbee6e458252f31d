"""The least-norm element of the generalised gradient of an extreme, possibly repeated, eigenvalue.

Where the eigenspace of the largest eigenvalue λ of a Hermitian pencil has the basis X, its
generalised gradient is

    ∂λ = { G(V) : V Hermitian, V ⪰ 0, tr V = 1 },    ⟨G(V), ṗ⟩ = Re tr(V Xᴴ(Ȧ − λḂ)X),

and its element of least norm is zero at a minimiser; elsewhere its negative is a direction of
descent. G is linear in V: with G₁ … G_d for an orthonormal basis of the Hermitian matrices, one
pullback each, ‖G(V)‖² = vᵀHv, where H is the Gram matrix of the Gⱼ. There remains a problem of the
size of the cluster,

    minimise ½ vᵀHv   over V(v) ⪰ 0, tr V = 1.

V is optimal where ⟨G(V), G(V')⟩ ≥ ‖G(V)‖² for all V', that is where λ_min(K) = ‖G(V)‖² for the
matrix K with coordinates Hv. For any V the difference ‖G(V)‖² − λ_min(K) bounds its error, so it
is used as the certificate.

Source: Overton (1992) SIAM J. Optim. 2, 88, doi:10.1137/0802007; Clarke, Optimization and
Nonsmooth Analysis, 2.8; the barrier method: Boyd & Vandenberghe, Convex Optimization, 11.3.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .. import host
from .._errors import ImplicitEigError, InputError
from ..checks.clusters import as_one
from ..solution import Solution

# relative to ‖G‖², and to the largest ‖Gⱼ‖²: the bound that the certificate must reach
CERTIFIED = 1e-9
ROUNDING = 1e-13
# each step of the barrier method divides the duality gap by this
REDUCTION = 0.2
STEPS = 200


def minimum_norm_subgradient(
    f: Callable[[PyTree], Solution], params: PyTree, index: int = -1
) -> PyTree:
    """Return the least-norm element of the generalised gradient of an extreme eigenvalue.

    For a simple eigenvalue it is the gradient. A repeated one has no gradient; the result is then
    zero at a minimiser of a largest eigenvalue (a maximiser of a smallest one). Elsewhere a small
    step along its negative lowers the largest eigenvalue, and a small step along it raises the
    smallest. A looser `Policy(degeneracy_rtol=...)` of the eigensolver in `f` bundles eigenvalues
    that are nearly equal, which a line search needs near a crossing. Projected onto a constraint,
    the result is in general no such direction: let the parametrisation fulfil the constraint.

    Args:
        f: params -> `Solution` of a `Hermitian` or `Singular` problem; may be under `jax.jit`.
        params: a pytree of arrays.
        index: 0 or −1: the eigenvalue is `values[index]`, in the solver's order.

    Returns:
        Shaped like `params`, in JAX's convention of gradients.

    Raises:
        InputError: the eigenvalue is not an extreme one of those returned, its cluster may be cut
            by k, `f` returns no solution of such a problem, or the derivatives are not finite.
        ImplicitEigError: the least norm was not found to 1e-9.

    Cost: `f` once, and c² pullbacks (c(c+1)/2 if real) for a cluster of c; no linear solve.
    Source: see the module.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=2))
        >>> f = lambda p: solve(jnp.diag(jnp.array([1.0, -1.0]) * p))
        >>> abs(float(minimum_norm_subgradient(f, jnp.array(0.0)))) < 1e-6
        True
        >>> round(float(minimum_norm_subgradient(f, jnp.array(0.5))), 6)
        1.0
    """

    def block(params: PyTree) -> tuple[Any, Any]:
        solution = f(params)
        joint = solution._joint if isinstance(solution, Solution) else None
        if joint is None or jnp.iscomplexobj(solution.values):
            other = "that of another problem" if isinstance(solution, Solution) else "no `Solution`"
            raise InputError(
                "`minimum_norm_subgradient(f, ...)`: f(params) -> the `Solution` of a Hermitian or "
                f"singular value problem, as `eigensolver` returns it; got {other}. Return "
                "`solve(A)` itself, of `Hermitian(k)` or `Singular(k)`."
            )
        equal = None if solution._near is None else as_one(solution._near)
        return joint.S, (solution.values, equal, solution.vectors)

    S, pull, (values, equal, vectors) = jax.vjp(block, params, has_aux=True)
    if host.is_traced((values, equal)):
        raise InputError(
            "`minimum_norm_subgradient(...)`: concrete params, for the size of the cluster decides "
            "what is computed; got traced ones. Call it outside `jit`, and put `jax.jit` on `f`."
        )
    cluster = _extreme_cluster(np.asarray(values), np.asarray(equal), index, len(vectors))
    basis = hermitian_basis(len(cluster), S.dtype)

    def embed(V: Any) -> Any:
        """Return the cotangent of S whose pairing with Ṡ, without a conjugate, is Re tr(VṠ)."""
        full = jnp.zeros((*V.shape[:-2], *S.shape), S.dtype)
        i, j = np.ix_(cluster, cluster)
        return full.at[..., i, j].set(jnp.asarray(V, S.dtype).conj())

    if len(cluster) == 1:
        return pull(embed(basis[0]))[0]
    pieces = jax.vmap(lambda S_bar: pull(S_bar)[0])(embed(basis))
    v = least_norm(_real_columns(pieces), basis)
    return pull(embed(np.tensordot(v, basis, 1)))[0]


def _extreme_cluster(values: np.ndarray, equal: np.ndarray, index: int, n: int) -> list[int]:
    requirement = "`minimum_norm_subgradient(index=...)`: "
    if index not in (0, -1):
        raise InputError(f"{requirement}0 or −1; got {index!r}. Other values are not extreme.")
    k = len(values)
    index = index % k
    # nearest first, as long as all are near each other: between others S has no tangent
    cluster: list[int] = []
    for i in np.argsort(np.abs(values - values[index]), kind="stable"):
        if equal[i, [index, *cluster]].all():
            cluster.append(int(i))
    others = np.delete(values, cluster)
    if not ((others < values[index]).all() or (others > values[index]).all()):
        raise InputError(
            f"{requirement}the largest or smallest of the values returned; got value {index}, "
            f"{values[index]:.6g}, among {np.sort(values)[0]:.6g} to {np.sort(values)[-1]:.6g}. "
            "Sort the pairs in the solver."
        )
    if 1 < len(cluster) == k < n:
        raise InputError(
            f"{requirement}a cluster that is known to be complete; got all k = {k} values in one. "
            "Declare the problem with a larger k, so that the last value returned lies outside."
        )
    return cluster


def hermitian_basis(c: int, dtype: Any) -> np.ndarray:
    """Return an orthonormal basis of the Hermitian c×c matrices, shape (d, c, c)."""
    basis = []
    for i in range(c):
        for j in range(i + 1):
            E = np.zeros((c, c), dtype)
            E[i, j] = 1
            if i == j:
                basis.append(E)
                continue
            basis.append((E + E.T) / np.sqrt(2).astype(E.real.dtype))
            if np.iscomplexobj(E):
                basis.append((1j * E - 1j * E.T) / np.sqrt(2).astype(E.real.dtype))
    return np.stack(basis)


def _real_columns(pieces: PyTree) -> np.ndarray:
    """Return the arrays as columns of real numbers in double precision, shape (p, d)."""
    columns = []
    for leaf in map(np.asarray, jax.tree.leaves(pieces)):
        rows: Any = leaf.reshape(len(leaf), -1)
        columns += [rows.real, rows.imag] if np.iscomplexobj(rows) else [rows]
    return np.concatenate(columns, axis=1).T.astype(np.float64)


def least_norm(G: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return the coordinates v of V ⪰ 0, tr V = 1, that minimise ‖G v‖.

    Solved by Newton's method on ½‖Gv‖² − μ log det V. With V = F Fᴴ a step is V + F D Fᴴ, and

        (Jᵀ H J + μ I) d + ν Jᵀt = −Jᵀ H v + μ t,    t·Jd = 0,

    where d and t are the coordinates of D and of I, and J is the matrix of D ↦ F D Fᴴ.

    Args:
        G: the columns Gⱼ; shape (p, d).
        basis: of `hermitian_basis`; shape (d, c, c).

    Returns:
        Shape (d,).

    Raises:
        InputError: G is not finite.
        ImplicitEigError: the certificate is not reached.
    """
    if not np.isfinite(G).all():
        raise InputError(
            "`minimum_norm_subgradient(f, params)`: finite derivatives of the values; got NaN or "
            "inf. Check `jax.grad` of their sum."
        )
    d, c, _ = basis.shape
    scale = np.linalg.norm(G, axis=0).max()
    G = G / (scale if scale > 0 else 1)
    coordinates = lambda V: np.einsum("aij,ij->a", basis.conj(), V).real  # noqa: E731
    t = coordinates(np.eye(c))
    v, mu, gap = t / c, 1.0, np.inf
    for _ in range(STEPS):
        V = np.tensordot(v, basis, 1)
        size, F = np.linalg.eigh(V)
        F = F * np.sqrt(size)
        slope = G.T @ (G @ v)
        norm2 = v @ slope
        gap = norm2 - np.linalg.eigvalsh(np.tensordot(slope, basis, 1))[0]
        if gap <= CERTIFIED * norm2 + ROUNDING:
            return v
        mu = min(mu, max(REDUCTION * gap / c, ROUNDING / c))
        J = np.stack([coordinates(F @ E @ F.conj().T) for E in basis], axis=1)
        GJ, a = G @ J, J.T @ t
        kkt = np.block([[GJ.T @ GJ + mu * np.eye(d), a[:, None]], [a[None, :], np.zeros((1, 1))]])
        step = np.linalg.solve(kkt, np.append(mu * t - J.T @ slope, 0))[:d]
        smallest = np.linalg.eigvalsh(np.tensordot(step, basis, 1))[0]
        v = v + min(1.0, 0.9 / max(-smallest, 0.9)) * (J @ step)
        v = v / (t @ v)
    raise ImplicitEigError(
        f"`minimum_norm_subgradient(...)`: the least norm to {CERTIFIED:.0e}; got a duality gap of "
        f"{gap:.1e} of the largest piece after {STEPS} steps, for a cluster of {c}. Scale `params` "
        "so that the pieces of the derivative are of one size."
    )
