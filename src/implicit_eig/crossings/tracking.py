"""Keep the identity of eigenpairs where sorting would swap them.

Eigenpair i before and eigenpair j now have the overlap |xᵢᴴBx'ⱼ|, both scaled to xᴴBx = 1. Inside a
cluster the basis is arbitrary, and the overlap with the whole eigenspace is used instead,

    ‖P' xᵢ‖_B,   P' the B-orthogonal projector on the cluster of j,

or ‖P x'ⱼ‖_B with the cluster of i, whichever is larger. The matching maximises the total overlap.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Integer, Shaped

from .. import host
from .._errors import ImplicitEigError, InputError, TrackingWarning
from .._optional import progress
from ..checks.clusters import as_one, closeness, clusters_of, cube_root
from ..checks.policy import Action, Check, Objection, enforce
from ..operators import apply_complex, as_operator
from ..solution import Solution

# Below this overlap a mode has less in common with its successor than with all others together.
LOST = 0.5
# Between matchings of equal overlaps with eigenspaces, the eigenvectors decide, with this weight.
TIE_BREAK = 1e-6
# No progress bar is shown for fewer parameters than this.
SHORT = 20


class Tracked(NamedTuple):
    """Describe how the eigenpairs of one solution continue those of another.

    Attributes:
        order: shape (k,); eigenpair `order[i]` of the current solution continues eigenpair i of
            the previous one, so that `current.values[order]` are in the order of `previous`.
        overlap: shape (k,); that of eigenpair i with its successor, from 0 to 1.

    Examples:
        >>> import jax.numpy as jnp
        >>> before = Solution(jnp.array([1.0, 2.0]), jnp.eye(2))
        >>> after = Solution(jnp.array([1.25, 1.5]), jnp.eye(2)[:, ::-1])  # the modes have crossed
        >>> order, overlap = track(before, after)
        >>> after.values[order].tolist(), overlap.tolist()
        ([1.5, 1.25], [1.0, 1.0])
    """

    order: Integer[Array, " k"]
    overlap: Float[Array, " k"]


class Followed(NamedTuple):
    """Hold the branches of a sweep over s parameters.

    Attributes:
        parameters: the s parameters as they were given.
        values: shape (s, k); column i is one branch.
        order: shape (s, k); `order[t, i]` is the index of branch i in the solver's answer.
        overlap: shape (s, k); that with the branch at the parameter before; 1 for the first.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=2))
        >>> solve_at = lambda t: solve(jnp.diag(jnp.array([t, 1 - t])))
        >>> followed = follow(solve_at, jnp.array([0.25, 0.75]))
        >>> followed.values[:, 0].tolist(), followed.order[:, 0].tolist()
        ([0.25, 0.75], [0, 1])
    """

    parameters: Any
    values: Shaped[Array, "s k"]
    order: Integer[Array, "s k"]
    overlap: Float[Array, "s k"]


def track(previous: Solution, current: Solution, B: Any = None) -> Tracked:
    """Match the eigenpairs of two solutions by the overlaps |xᴴBx'| of their eigenvectors.

    Inside a cluster the overlap is that with its space, which no choice of basis changes. A cluster
    consists of eigenvalues that the eigensolver counts as one, or that are closer than eps^(1/3)
    times the larger (6e-6 in float64), because their eigenvectors turn too fast to be told apart.

    Args:
        previous: k eigenpairs.
        current: k eigenpairs or more, of operators nearby.
        B: the metric, in any form that `eigensolver` takes; default the identity.

    Returns:
        `order` (k,) and `overlap` (k,). They carry no derivative; `values` and `vectors`
        reordered by `order` keep theirs.

    Raises:
        InputError: the eigenvectors differ in length, or there are fewer eigenpairs than before.

    Cost: one product with B for each eigenpair, products of n×k arrays, and an assignment of k
        eigenpairs on the host.

    Examples:
        >>> import jax.numpy as jnp
        >>> before = Solution(jnp.array([1.0, 2.0]), jnp.eye(2))
        >>> after = Solution(jnp.array([1.4, 1.6]), jnp.eye(2)[:, ::-1])
        >>> track(before, after).order.tolist()
        [1, 0]
    """
    X, Y = (lax.stop_gradient(jnp.asarray(s.vectors)) for s in (previous, current))
    if X.shape[0] != Y.shape[0] or X.shape[1] > Y.shape[1]:
        raise InputError(
            "`track(previous, current)`: vectors of one length, and at least as many now as "
            f"before; got shapes {X.shape} and {Y.shape}. Track on one mesh, with one k."
        )
    metric = None if B is None else lax.stop_gradient(as_operator("B", B))
    BX, BY = apply_complex(metric, X), apply_complex(metric, Y)
    adjoint = X.conj().T
    grams = (adjoint @ BX, adjoint @ BY, Y.conj().T @ BY)
    real = jnp.finfo(X.dtype).dtype
    shapes: Any = (
        jax.ShapeDtypeStruct(X.shape[1:], dtype)
        for dtype in (jax.dtypes.canonicalize_dtype(int), real)
    )
    like = Tracked(*shapes)
    return host.call(_match, like, *grams, _equal(previous), _equal(current))


def _equal(solution: Solution) -> Bool[Array, "k k"]:
    """Return which eigenvalues are so close that only their common space can be matched."""
    lam = lax.stop_gradient(jnp.asarray(solution.values))
    near = as_one(closeness(lam, jnp.zeros_like(jnp.abs(lam)), cube_root(lam.dtype)))
    if solution._near is None:
        return near
    return near | lax.stop_gradient(as_one(jnp.asarray(solution._near)))


def _match(
    before: np.ndarray,
    between: np.ndarray,
    now: np.ndarray,
    equal_before: np.ndarray,
    equal_now: np.ndarray,
) -> Tracked:
    """Return the matching, from the Gram matrices XᴴBX, XᴴBY and YᴴBY."""
    squares = [np.real(np.diagonal(gram)) for gram in (before, now)]
    if not all((square > 0).all() for square in squares):
        raise InputError(
            "`track(previous, current, B)`: finite vectors with xᴴBx > 0; got others. Check the "
            "solutions, and that B is positive definite."
        )
    norms, norms_now = map(np.sqrt, squares)
    single = np.abs(between) / norms[:, None] / norms_now[None, :]
    with_space = _projections(between, now, equal_now) / norms[:, None]
    of_space = _projections(between.conj().T, before, equal_before).T / norms_now[None, :]
    overlap = np.minimum(np.maximum(with_space, of_space), 1)
    # here, because it takes 0.1 s to import
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415

    rows, order = linear_sum_assignment(overlap + TIE_BREAK * single, maximize=True)
    found: Any = (order, overlap[rows, order].astype(norms.dtype))
    return Tracked(*found)


def _projections(between: np.ndarray, gram: np.ndarray, equal: np.ndarray) -> np.ndarray:
    """Return ‖P xᵢ‖_B for the cluster of each j, P being its B-orthogonal projector."""
    found = np.zeros(between.shape, np.real(gram).dtype)
    for cluster in clusters_of(equal):
        b = between[:, cluster].conj().T
        squares = np.sum(b.conj() * np.linalg.solve(gram[np.ix_(cluster, cluster)], b), axis=0)
        found[:, cluster] = np.sqrt(np.maximum(squares.real, 0))[:, None]
    return found


def follow(
    solve_at: Callable[[Any], Solution],
    parameters: Sequence[Any] | Array | np.ndarray,
    *,
    count: int | None = None,
    B_at: Callable[[Any], Any] | None = None,
) -> Followed:
    """Sweep over parameters and return the eigenvalues in branches that keep their identity.

    Each solution is matched to the one before by `track`. Where eigenvalues meet exactly, the
    eigenvectors of the cluster are turned towards those before, so that a branch leaves the
    crossing as it came. Two eigenvalues that avoid a crossing by less than a step resolves are
    followed across it.

    Args:
        solve_at: parameter -> `Solution`; may be under `jax.jit`.
        parameters: what to sweep over, in order; the first solution numbers the branches.
        count: k, how many of the first solution's eigenpairs to follow; default all. With the
            others, branches are still found when they leave the first k of the solver's order.
        B_at: parameter -> B, the metric of `track`; default the identity.

    Returns:
        `parameters`, `values` (s, k), `order` (s, k) and `overlap` (s, k). `values` keep their
        derivatives. For pictures see `plot.branches`.

    Raises:
        InputError: there is no parameter, `count` does not fit, or the number of unknowns changes.

    Warns:
        TrackingWarning: an overlap is below 1/2, so that a mode is lost; take smaller steps.

    Cost: `solve_at` and `track` once for each parameter. A sweep over more than 20 parameters that
        takes more than two seconds shows a progress bar, in a terminal or a notebook, if tqdm is
        installed.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=2))
        >>> A_at = lambda t: jnp.diag(jnp.array([t, 1.0 - t]))
        >>> followed = follow(lambda t: solve(A_at(t)), jnp.array([0.25, 0.5, 0.75]))
        >>> followed.values.tolist()
        [[0.25, 0.75], [0.5, 0.5], [0.75, 0.25]]
    """
    given = list(parameters)
    if not given:
        raise InputError(
            "`follow(parameters=...)`: at least one parameter; got none. Give them in the order "
            "of the sweep."
        )
    reference, rows, sweep = None, [], given
    if len(given) > SHORT:
        sweep = progress(given, len(given), "following branches")
    for step, parameter in enumerate(sweep):
        solution = solve_at(parameter)
        B = None if B_at is None else B_at(parameter)
        if reference is None:
            known = len(solution.values)
            k = known if count is None else count
            if not 1 <= k <= known:
                raise InputError(
                    f"`follow(count=...)`: from 1 to the number of pairs, {known}; got {count}. "
                    "Follow fewer, or ask the solver for more pairs."
                )
            one = jnp.ones(k, jnp.finfo(solution.values.dtype).dtype)
            tracked = Tracked(jnp.arange(k), one)
        else:
            tracked = track(reference, solution, B)
            figures = (tracked.overlap,)
            check = Check(_LostModes(step), Action.WARN, ImplicitEigError, TrackingWarning)
            overlap = enforce(check, figures, tracked.overlap)
            tracked = Tracked(tracked.order, overlap)
        rows.append((solution.values[tracked.order], *tracked))
        reference = _aligned(reference, solution, tracked.order, B)
    return Followed(parameters, *map(jnp.stack, zip(*rows, strict=True)))


def _aligned(
    reference: Solution | None, solution: Solution, order: Integer[Array, " k"], B: Any
) -> Solution:
    """Return the ordered eigenpairs, the basis of each cluster turned to the reference."""
    Y = lax.stop_gradient(jnp.asarray(solution.vectors))[:, order]
    equal = _equal(solution)[order][:, order]
    if reference is not None:
        metric = None if B is None else lax.stop_gradient(as_operator("B", B))
        overlaps = Y.conj().T @ apply_complex(metric, jnp.asarray(reference.vectors))
        # the nearest unitary matrix, block by block: it solves the Procrustes problem of a cluster
        U, _, Vh = jnp.linalg.svd(jnp.where(equal, overlaps, jnp.zeros_like(overlaps)))
        Y = Y @ (U @ Vh)
    near = equal.astype(jnp.finfo(Y.dtype).dtype)
    return Solution(lax.stop_gradient(solution.values)[order], Y, _near=near)


class _LostModes(eqx.Module):
    """Object to modes that are lost."""

    step: int = eqx.field(static=True)

    def __call__(self, overlap: Any) -> Iterator[Objection]:
        def message(_: np.ndarray) -> str:
            branch = int(np.argmin(overlap))
            return (
                f"`follow(...)`: branches that continue; got an overlap of {overlap[branch]:.2f} "
                f"of branch {branch} at parameter {self.step} with the one before. Its mode may "
                "have left the k pairs, or the step is too long: ask for more pairs, or take "
                "smaller steps."
            )

        yield Objection(overlap < LOST, message)
