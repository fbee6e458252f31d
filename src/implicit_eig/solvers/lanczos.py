"""Lanczos' method on the device, by matfree's decompositions: Hermitian problems by products.

A run of m steps gives an orthonormal basis Q of a Krylov space of an operator M, and with a
remainder in the last column alone M Q = Q H + r eᵀ. Without a shift M is A. With one it is

    M = (A − σB)⁻¹ B,    M x = θ x,    λ = σ + 1/θ,

which is Hermitian in the inner product of B. In whatever inner product Q is orthonormal, the
condition of Rayleigh and Ritz on its space, in that of B, is

    QᴴBMQ z = θ QᴴBQ z,    QᴴBMQ = (QᴴBQ) H + (QᴴBr) eᵀ.

From a single vector one eigenvector of each repeated eigenvalue is found, and further ones by
rounding alone, if the run is long. So it is repeated outside of the space of the eigenvectors X
found, where P = I − X XᴴB and M is replaced by

    P M P + τ X XᴴB,

which has the eigenvalue τ on X, at the end of the spectrum that is not wanted; until a run adds
nothing to the k eigenpairs. After k runs nothing is left to add.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array

from .._compiled import compiled
from .._errors import InputError
from .._optional import extra, optional
from ..host import Traceable
from ..linear_solvers.auto import AutoLinearSolver
from ..linear_solvers.factorizations import Shift, shift
from ..linear_solvers.functions import linear_solver
from ..solution import Solution
from ._abstract import AbstractForwardSolver

# Without a shift the steps that are needed depend on the gaps in the spectrum; these suffice where
# the gaps are some thousandth of its width. With a shift few are needed.
STEPS = 20, 100
STEPS_OF_INVERSE = 2, 20
# The relative size of what is random in a start: the Krylov space of an eigenvector is a line.
RANDOM = 1e-3
# A vector of a Krylov space below this many eps of the operator before it is scaled is rounding.
ROUNDING = 100


class Lanczos(Traceable, AbstractForwardSolver):
    """Find the lowest eigenpairs, or those nearest to a shift; made by `lanczos`."""

    kinds = ("Hermitian",)
    name = "lanczos"

    def __init__(
        self,
        k: int | None,
        steps: int | None,
        inverse: lx.AbstractLinearSolver | None,
        sigma: Shift,
    ):
        self.k = k
        self.steps = steps
        self.inverse = inverse
        self.sigma = sigma

    @property
    def fn(self) -> Callable[..., tuple[Array, ...]]:
        """Return the function that JAX traces."""
        return self.pairs

    def linear_solver(self) -> AutoLinearSolver:
        """Return the default."""
        return AutoLinearSolver()

    def pairs(
        self, A: Any, B: Any = None, *, start: Any = None, sigma: Any = None
    ) -> tuple[Array, Array]:
        """Return eigenvalues (k,), the most wanted first, and eigenvectors (n, k)."""
        if self.inverse is None and not (B is None and sigma is None):
            raise InputError(
                f"`solvers.lanczos(inverse=...)`: a linear solver, where there is a "
                f"{'shift' if B is None else 'B'}; got none. Give one, such as `MINRES()`, for "
                "(A − σB)⁻¹, or use `solvers.lobpcg`."
            )
        like = jax.eval_shape(_times(A), _like(A))
        n, k = like.shape[0], self.k or 1
        offset = STEPS if self.inverse is None else STEPS_OF_INVERSE
        steps = min(n, offset[0] * k + offset[1]) if self.steps is None else self.steps
        if not k <= steps <= n:
            raise InputError(
                f"`solvers.lanczos(k={k}, steps={steps})`: at least k steps, and at most n = {n}; "
                f"got {steps}. Choose others, or leave `steps` out."
            )
        number = jnp.asarray(self.sigma if sigma is None else sigma)
        v = _first(start, like)
        counts = _Counts(k, steps)
        return _find(A, B, v, number.real.astype(like.dtype), self.inverse, counts)


class _Counts(NamedTuple):
    k: int
    steps: int


class _Ritz(NamedTuple):
    """Ritz values and the rows of Ritz vectors, the most wanted first."""

    theta: Array
    X: Array

    def first(self, k: int, by: Callable[[Array], Array]) -> tuple["_Ritz", Array]:
        """Return the k most wanted, and their places; NaN, of a breakdown, is wanted least."""
        order = jnp.argsort(by(self.theta))[:k]
        return _Ritz(self.theta[order], self.X[order]), order


@compiled
def _find(
    A: Any, B: Any, v: Array, sigma: Array, inverse: Any, counts: _Counts
) -> tuple[Array, Array]:
    k, steps = counts
    times, metric = _times(A), None if B is None else _times(B)

    def wanted(theta: Array) -> Array:
        return theta if inverse is None else -jnp.abs(theta)

    if inverse is not None:
        times = _inverse(A, B, sigma, inverse)
    found = _ritz(times, metric, v, steps)
    # beyond the largest eigenvalue; of those of an inverse, 0 is the end that is not wanted
    least, most = jnp.nanmin(found.theta), jnp.nanmax(found.theta)
    tau = 2 * most - least + jnp.abs(most) if inverse is None else jnp.zeros_like(most)
    found, _ = found.first(k, wanted)

    def more(state: tuple[Array, _Ritz, Array]) -> tuple[Array, _Ritz, Array]:
        runs, found, _ = state
        outside, start = _deflated(times, metric, found.X, tau, _random(v, runs))
        others = _ritz(outside, metric, start, min(steps, max(1, len(v) - 1)))
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), found, others)
        found, order = both.first(k, wanted)
        return runs + 1, found, jnp.any(order >= k)

    def incomplete(state: tuple[Array, _Ritz, Array]) -> Array:
        runs, _, grown = state
        return (runs < k) & grown

    begun = (jnp.asarray(1), found, jnp.asarray(True))
    _, (theta, X), _ = jax.lax.while_loop(incomplete, more, begun)
    if inverse is not None:
        # a linear solve is inexact; the error of Rayleigh quotients is the square of that of x
        lam = jnp.sum(X.conj() * jax.lax.map(_times(A), X), axis=1).real
        lam = jnp.where(jnp.isnan(theta), jnp.nan, lam)
        (theta, X), _ = _Ritz(lam, X).first(k, lambda lam: jnp.abs(lam - sigma.real))
    return theta, X.T


def _ritz(times: Callable[[Array], Array], metric: Any, v: Array, steps: int) -> _Ritz:
    """Return all Ritz pairs on the Krylov space of v; vectors are orthonormal in the metric.

    Where the space is invariant after fewer steps, there are fewer, and NaN in place of the others.
    """
    decomposition = library().hessenberg(steps, reortho="full", custom_vjp=False)
    Q, H, r, _ = decomposition(times, v)  # the rows of Q are the basis
    kept = _until_invariant(H)
    Q = jnp.where(kept[:, None], Q, jnp.zeros_like(Q))
    H = jnp.where(kept[:, None] & kept[None, :], H, jnp.zeros_like(H))
    L = None
    if metric is not None:
        BQ = jax.lax.map(metric, Q)
        G = Q.conj() @ BQ.T + jnp.diag((~kept).astype(Q.dtype))
        H = G @ H
        last = jnp.where(kept[-1], Q.conj() @ metric(r), jnp.zeros_like(H[:, -1]))
        H = H.at[:, -1].add(last)
        L = jnp.linalg.cholesky((G + G.conj().T) / 2)
        H = _solve(L, _solve(L, (H + H.conj().T) / 2).conj().T)
    theta, Z = jnp.linalg.eigh((H + H.conj().T) / 2 + jnp.diag(_apart(H, kept)))
    outside = jnp.sum(jnp.where(kept[:, None], 0.0, jnp.abs(Z) ** 2), axis=0) > 0.5
    theta = jnp.where(outside, jnp.nan, theta)
    return _Ritz(theta, (Z if L is None else _solve(L, Z, 2)).T @ Q)


def _until_invariant(H: Array) -> Array:
    """Return which vectors of a basis precede the first that is nothing but rounding."""
    sizes = jnp.abs(jnp.diagonal(H, -1))
    # NaN, of a vector divided by its norm 0, is not the largest
    scale = jnp.max(jnp.where(jnp.isfinite(H), jnp.abs(H), 0.0))
    follows = sizes > ROUNDING * float(jnp.finfo(H.dtype).eps) * scale
    return jnp.concatenate([jnp.array([True]), jnp.cumprod(follows).astype(bool)])


def _apart(H: Array, kept: Array) -> Array:
    """Return a diagonal that puts the vectors that are not kept beyond the spectrum of H."""
    return jnp.where(kept, 0.0, 1.0 + 2.0 * jnp.max(jnp.sum(jnp.abs(H), axis=1))).astype(H.dtype)


def _solve(L: Array, M: Array, trans: int = 0) -> Array:
    return jax.scipy.linalg.solve_triangular(L, M, trans=trans, lower=True)


def _deflated(
    times: Callable[[Array], Array], metric: Any, X: Array, tau: Array, v: Array
) -> tuple[Callable[[Array], Array], Array]:
    """Return the products with P M P + τ X XᴴB, where the rows of X are eigenvectors, and P v."""
    BX = X if metric is None else jax.lax.map(metric, X)

    def inside(v: Array) -> Array:
        return (BX.conj() @ v) @ X

    def product(v: Array) -> Array:
        part = inside(v)
        w = times(v - part)
        return w - inside(w) + tau.astype(v.dtype) * part

    return product, v - inside(v)


def _times(A: Any) -> Callable[[Array], Array]:
    return (lambda v: A @ v) if isinstance(A, jax.Array) else A.mv


def _inverse(
    A: Any, B: Any, sigma: Array, inverse: lx.AbstractLinearSolver
) -> Callable[[Array], Array]:
    """Return the products with (A − σB)⁻¹ B."""
    like = _like(A)
    if isinstance(A, jax.Array) and (B is None or isinstance(B, jax.Array)):
        metric = jnp.eye(len(A), dtype=A.dtype) if B is None else B
        M: Any = lx.MatrixLinearOperator(A - sigma * metric)
    else:
        identity: Any = lx.IdentityLinearOperator(like)
        M = _operator(A) - sigma * (identity if B is None else _operator(B))
    tags: tuple[Any, ...] = ()
    if not jnp.issubdtype(like.dtype, jnp.complexfloating):
        tags = (lx.symmetric_tag,)
    if isinstance(inverse, (lx.CG, lx.Cholesky)):
        tags = (lx.positive_semidefinite_tag,)  # who chooses them says so
    M = lx.TaggedLinearOperator(M, tags)
    state = inverse.init(M, {})

    def product(v: Array) -> Array:
        b = v if B is None else _times(B)(v)
        return lx.linear_solve(M, b, inverse, state=state, throw=False).value

    return product


def _operator(M: Any) -> Any:
    return lx.MatrixLinearOperator(M) if isinstance(M, jax.Array) else M


def _like(A: Any) -> Any:
    return _operator(A).in_structure()


def _random(like: Any, i: int | Array) -> Array:
    return jax.random.normal(jax.random.key(i), like.shape, like.dtype)


def _first(start: Any, like: Any) -> Array:
    """Return the vector that a run starts from: random, or nearly a sum of given ones."""
    noise = _random(like, 0)
    if start is None:
        return noise
    X = jnp.asarray(start.vectors if isinstance(start, Solution) else start)
    X = X[:, None] if X.ndim == 1 else X
    if X.ndim != 2 or len(X) != like.shape[0]:
        raise InputError(
            f"`solvers.lanczos(...)`, `solve(start=...)`: a solution, or vectors of shape "
            f"({like.shape[0]},) or ({like.shape[0]}, m); got an array of shape {X.shape}. Give "
            "one column for each vector."
        )
    if jnp.iscomplexobj(X) and not jnp.issubdtype(like.dtype, jnp.complexfloating):
        X = jnp.concatenate([X.real, X.imag], axis=1)  # of a vector times i there is no real part
    X = X.astype(like.dtype)
    sizes = jnp.linalg.norm(X, axis=0, keepdims=True)
    v = jnp.sum(X / jnp.where(sizes > 0, sizes, 1), axis=1)
    return v + noise * (RANDOM / len(v) ** 0.5)


def library() -> Any:
    """Return matfree's decompositions, or raise an error that names the command to install it."""
    return optional("matfree.decomp", "solvers.lanczos(...)", extra("matfree"))


def lanczos(
    k: int | None = None,
    *,
    steps: int | None = None,
    inverse: lx.AbstractLinearSolver | Callable[..., Any] | None = None,
    sigma: Shift | None = None,
) -> Lanczos:
    """Make a solver for k eigenpairs of a Hermitian problem by Lanczos' method, on the device.

    JAX traces it: there is no callback to the host, vectors stay on their devices, and under
    `jax.vmap` a batch runs together. A is an array, sparse, or known by its products alone.

    Args:
        k: the number of eigenpairs; `None` for that of the problem.
        steps: of each run, at least k and at most n; as many vectors are kept. There are no
            restarts: where they are too few, the check of the solver's answer reports the
            residuals. `None` takes 20 k + 100, with `inverse` 2 k + 20.
        inverse: a linear solver for (A − σB)⁻¹: any of lineax, such as `lineax.LU()` or, for σ
            below all eigenvalues, `lineax.CG(...)`; `MINRES()`; or a function f(matvec, b). A
            problem with a B needs one.
        sigma: with `inverse`, the shift, by default 0; the eigenvalues nearest to it are found.
            Unit: that of the eigenvalues. `None` without `inverse` finds the lowest.
            `solve(A, sigma=...)` gives one that JAX may trace.

    Returns:
        A solver for `eigensolver(..., Hermitian(k))`, with the eigenvalues ascending, or with
        `inverse` in the order of their distance to `sigma`. The start is the same at every call,
        or near that of `solve(A, start=previous)`, which lets fewer `steps` suffice.

    Raises:
        InputError: matfree is not installed; `inverse` is missing; or `steps` does not fit (when
            traced).

    Cost: in each run `steps` products, or linear solves, and `steps` vectors of memory, which are
        orthogonalised twice: 8 n `steps`² operations. Two runs find simple eigenvalues, one where k
        is 1; there are as many as an eigenvalue has independent eigenvectors, and one more, which
        shows that none is missing.
    Source: Lanczos (1950) J. Res. Nat. Bur. Standards 45, 255, doi:10.6028/jres.045.026; Ericsson &
        Ruhe (1980) Math. Comp. 35, 1251, doi:10.2307/2006390, for the inverse.

    Examples:
        >>> import jax.numpy as jnp, lineax as lx
        >>> from implicit_eig import Hermitian, eigensolver
        >>> A = jnp.diag(jnp.arange(1.0, 31.0))
        >>> eigensolver(lanczos(), Hermitian(k=2))(A).values.round(2).tolist()
        [1.0, 2.0]
        >>> solve = eigensolver(lanczos(inverse=lx.LU(), sigma=7.2), Hermitian(k=2))
        >>> solve(A).values.round(2).tolist()
        [7.0, 8.0]
    """
    library()
    if inverse is None and sigma is not None:
        raise InputError(
            f"`solvers.lanczos(sigma={sigma})`: a linear solver `inverse=...` for A − σB; got "
            "none. Give one, such as `MINRES()`."
        )
    number = shift(sigma)
    if isinstance(number, complex):
        raise InputError(
            "`solvers.lanczos(sigma=...)`: a real shift, because eigenvalues are real; got "
            f"{sigma}. Give its real part."
        )
    for name, count in (("k", k), ("steps", steps)):
        if count is not None and (not isinstance(count, (int, np.integer)) or count < 1):
            raise InputError(
                f"`solvers.lanczos({name}=...)`: a positive integer; got {count!r}. Leave it out "
                "for the default."
            )
    if inverse is not None and not isinstance(inverse, lx.AbstractLinearSolver):
        inverse = linear_solver(inverse)
    return Lanczos(k, steps, inverse, 0.0 if number is None else number)
