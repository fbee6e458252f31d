"""Check whether a function depends on what an eigenproblem leaves undetermined.

The eigenvectors are determined up to x → x c, and within a cluster up to X → XQ. A function of them
has a derivative with respect to the operators only if it does not change under these. In reverse
mode the cotangent shows whether it does, and it is checked there. Forward mode has no cotangent.

Source: Kasim (2020) arXiv:2011.04366 for the condition on the eigenvectors.
"""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from .._errors import InputError
from ..operators import diagonal
from .cotangents import watch
from .policy import Objection, Policy, enforce, gauge_check

# A smooth function has different derivatives by the eigenvalues of a cluster, by its curvature
# times their distance. Up to this much curvature, relative to the eigenvalues and to the gradient,
# is not warned about.
CURVATURE = 100
EXCUSE = "or accept this with `Policy(gauge=Action.IGNORE)`."


def watch_state(
    problem: Any, policy: Policy, rtol: float, z: PyTree, clusters: Any, z_dot: PyTree
) -> PyTree:
    """Return ż, and check its cotangent for a dependence on the gauge of the problem."""
    arrays, static = eqx.partition(problem, eqx.is_array)
    return watch(_State(static, policy, rtol), z_dot, (arrays, z, clusters))


def gauge_defect(f: Callable[[Any], Array], solve: Any, *operators: Any) -> Float[Array, " k"]:
    """Return how much the gradient of f depends on phases and on the bases of clusters.

    Args:
        f: a real function of a `Solution`.
        solve: made by `eigensolver`.
        *operators: as for `solve`.

    Returns:
        For each eigenpair the larger of two figures, shape (k,): the change of f under a turn of
        its phase or of the basis of its cluster, relative to the largest ‖∂f/∂x‖ ‖x‖; and the
        difference of the derivatives of f with respect to the eigenvalues of its cluster,
        relative to the largest. For a function that has a derivative it is of the size of rounding.

    Raises:
        InputError: the problem does not define what is arbitrary in its answer.

    Cost: one solve, and the gradient of f.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=2))
        >>> A = jnp.diag(jnp.array([1.0, 1.0, 2.0]))
        >>> gauge_defect(lambda s: jnp.sum(s.vectors[0] ** 2), solve, A).tolist()
        [0.0, 0.0]
        >>> gauge_defect(lambda s: s.values[0], solve, A).tolist()
        [1.0, 1.0]
    """
    solve, canonical = solve.prepared(*operators)
    problem = solve.problem
    z = solve.state(canonical)
    clusters = problem.clusters(z)
    if clusters is None:
        raise InputError(
            "`gauge_defect(solve=...)`: a problem that says what is arbitrary in its answer; got "
            f"{type(problem).__name__}. Define its `clusters` and `gauge_defect`."
        )

    values = problem.solution(z).values
    apart = values.ndim == 1  # the block of a subspace is judged together with its vectors

    def of(z: PyTree, values: Array) -> Array:
        solution = solve.solution(z, canonical)
        return f(eqx.tree_at(lambda s: s.values, solution, values) if apart else solution)

    z_bar, values_bar = jax.grad(of, (0, 1))(z, values)
    figures = [problem.gauge_defect(z, z_bar, clusters)]
    if apart:
        figures.append(differences(values_bar, clusters, values))
    parts = [jnp.max(defect, axis=0) / jnp.where(size > 0, size, 1) for defect, size in figures]
    return jnp.max(jnp.stack(parts), axis=0)


def differences(
    values_bar: Shaped[Array, " k"], clusters: Bool[Array, "k k"], values: Shaped[Array, " k"]
) -> tuple[Float[Array, "k k"], Float[Array, ""]]:
    """Return how much derivatives differ within clusters, and the size of the gradient.

    For a smooth function they differ by its curvature times the distance of the eigenvalues. For
    one that is stationary at 0, derivatives next to 0 are proportional to the eigenvalues, which
    is recognised where their sizes differ.
    """
    size, largest = jnp.max(jnp.abs(values_bar)), jnp.max(jnp.abs(values))
    bar = values_bar / jnp.where(size > 0, size, 1).astype(values_bar.dtype)
    lam = values / jnp.where(largest > 0, largest, 1).astype(values.dtype)
    sizes = jnp.abs(lam)
    larger = jnp.maximum(sizes[:, None], sizes[None, :])
    smaller = jnp.minimum(sizes[:, None], sizes[None, :])
    distance = jnp.abs(lam[:, None] - lam[None, :])
    allowance = CURVATURE * distance / jnp.where(larger > 0, larger, 1)
    # eigenvalues next to 0 that are equal only to rounding have no meaningful distance
    apart = jnp.abs(bar[:, None] - bar[None, :]) - jnp.where(allowance < 1, allowance, 0)
    for multiple in (lam, lam.conj()) if jnp.iscomplexobj(lam) else (lam,):
        crossed = bar[:, None] * multiple[None, :]
        ratio = jnp.abs(crossed - crossed.T) / jnp.where(smaller > 0, smaller, 1)
        shows = (smaller > 0) & (smaller < 0.9 * larger)
        apart = jnp.minimum(apart, jnp.where(shows, ratio, jnp.inf))
    return jnp.where(clusters, jnp.maximum(apart, 0) * size, 0), size


class _State(eqx.Module):
    """Judge the cotangent of a state."""

    problem: Any = eqx.field(static=True)
    policy: Policy = eqx.field(static=True)
    rtol: float = eqx.field(static=True)

    def __call__(self, z_bar: PyTree, residuals: Any, absent: PyTree) -> PyTree:
        arrays, z, clusters = residuals
        problem = eqx.combine(arrays, self.problem)
        values = problem.solution(z).values
        values = diagonal(values) if values.ndim == 2 else values
        figures = (*problem.gauge_defect(z, z_bar, clusters), values)
        check = gauge_check(self.policy, Dependence(of_vectors, self.rtol))
        return enforce(check, figures, z_bar)


class Dependence(eqx.Module):
    """Object to a dependence on the gauge; nonfinite numbers are reported where they arose."""

    message: Callable[..., str] = eqx.field(static=True)
    rtol: float = eqx.field(static=True)

    def __call__(self, defect: Any, size: Any, values: Any) -> Iterator[Objection]:
        """Object to an entry of `defect` above `rtol` of `size`."""

        def message(*_: np.ndarray) -> str:
            i, j = sorted(map(int, np.unravel_index(np.argmax(defect), defect.shape)))
            return self.message(i, j, float(defect[i, j] / size), self.rtol, values[[i, j]])

        yield Objection(defect > self.rtol * size, message)


def of_vectors(i: int, j: int, share: float, rtol: float, values: np.ndarray) -> str:
    """Describe the dependence of a function on phases or bases of the eigenvectors."""
    amount = f"by {share:.1e} of its cotangent, where {rtol:.1e} is allowed. "
    if i == j:
        return (
            "`jax.grad`, `jax.vjp`: a function of the vectors that has a derivative; got one "
            f"that depends on the phase of pair {i}, {amount}The gradient takes the phase for "
            "constant. Use |x|², which is `(x * x.conj()).real`, products x xᴴ, or overlaps' "
            "moduli; or fix phases with "
            "`eigensolver(normalization=LargestComponent())`; or accept this with "
            "`Policy(gauge=Action.IGNORE)`."
        )
    return (
        "`jax.grad`, `jax.vjp`: a function of the vectors that has a derivative; got one that "
        f"depends on the basis in the cluster of pairs {i} and {j}, {amount}"
        f"{distance(values)} The gradient lacks what the function makes of a turn of "
        "one vector into the other. Use products x xᴴ summed over the cluster, or separate "
        "the values; or accept this with `Policy(gauge=Action.IGNORE)`."
    )


def distance(values: np.ndarray) -> str:
    """Return how much two eigenvalues of a cluster differ, and why they count as one."""
    size, apart = np.max(np.abs(values)), np.abs(values[0] - values[1])
    relative = f", {apart / size:.1e} of their size" if 0 < size < np.inf else ""
    return (
        f"Their values differ by {apart:.1e}{relative}, and count as one: closer than rounding, "
        "or than `Policy(degeneracy_rtol=...)` (by default √eps for `Polynomial`, else 0)."
    )
