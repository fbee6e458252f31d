"""Diagnose how far a gradient can be trusted, and refine a rough solution."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, PyTree

from ._compiled import compiled
from ._eigensolver import Eigensolver, check_eigensolver
from ._polish import SILENT, as_returned, newton
from ._table import Column, Table, as_text, html_or_plain
from .checks.clusters import clusters_of, loose
from .checks.policy import Action, Policy
from .linear_solvers._solve import UNKNOWN_RTOL, chosen, label, solve_once
from .linear_solvers._systems import AbstractSquareSystem, probe
from .linear_solvers.auto import AutoLinearSolver
from .problems._abstract import AbstractProblem, Operators
from .solution import Solution


class Diagnosis(eqx.Module):
    """Hold the figures of `diagnose`, as NumPy arrays; it prints as a table.

    Attributes:
        problem: the declared kind.
        linear_solver: the name of the one that was chosen.
        values: the eigenvalues; shape (k,).
        residuals: relative, as in `Solution.stats`; shape (k,).
        gaps: distance to the nearest eigenvalue of another cluster, relative to the larger of the
            two; inf where none is known; shape (k,).
        clusters: the eigenpairs that count as one, a list of index arrays.
        complete: for each cluster whether the eigenpairs beyond k show that k does not cut it;
            `None` where there are none, because no `guard` asked for them.
        condition_numbers: 1/|yᴴBx| of unit vectors, 1 for Hermitian problems; shape (k,).
        solve_residuals: ‖b − M u‖ / ‖b‖ of the linearised system of each eigenpair, for a random
            right side, by the linear solver that derivatives use; shape (k,).
        solve_steps: the steps of these solves, as in `SolveReport`; shape (k,).
        solve_growth: ‖M‖ ‖u‖ / ‖b‖ there, a lower bound of the condition number of M; shape (k,).
        vector_errors: an estimate of the error of each eigenvector, residual over gap; shape (k,).
        gradient_errors: an estimate, from all of these, of the relative error of a gradient of
            each eigenvalue and eigenvector, in the worst case; shape (k,).
        gradient_error: an estimate of that of the gradient of `of`; NaN without `of`.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=2))
        >>> diagnosis = diagnose(solve, jnp.diag(jnp.array([1.0, 2.0, 4.0])))
        >>> diagnosis.gaps.tolist(), diagnosis.condition_numbers.tolist()
        ([0.5, 0.5], [1.0, 1.0])
        >>> bool(np.all(diagnosis.gradient_errors < 1e-4))
        True
    """

    problem: str
    linear_solver: str
    values: np.ndarray
    residuals: np.ndarray
    gaps: np.ndarray
    clusters: list[np.ndarray]
    complete: list[bool] | None
    condition_numbers: np.ndarray
    solve_residuals: np.ndarray
    solve_steps: np.ndarray
    solve_growth: np.ndarray
    vector_errors: np.ndarray
    gradient_errors: np.ndarray
    gradient_error: float = np.nan

    def __repr__(self) -> str:
        try:
            return as_text(_table(self))
        except Exception:  # the leaves are shapes or tracers
            return eqx.tree_pformat(self)

    def _repr_html_(self) -> str:
        return html_or_plain(lambda: _table(self), lambda: repr(self))


def doubtful(diagnosis: Diagnosis) -> np.ndarray:
    """Return which gradients may have too few correct digits, three in double precision."""
    return ~(diagnosis.gradient_errors <= loose(diagnosis.gradient_errors.dtype))


def _table(diagnosis: Diagnosis) -> Table:
    half = float(np.sqrt(np.finfo(diagnosis.residuals.dtype).eps))
    above = lambda figures, limit: Column(figures, attention=~(figures <= limit))  # noqa: E731
    columns = {
        "value": Column(diagnosis.values, "{:.6g}".format),
        "residual": above(diagnosis.residuals, half),
        "gap": Column(diagnosis.gaps),
        "condition": above(diagnosis.condition_numbers, 1 / half),
        "solve residual": above(diagnosis.solve_residuals, max(half, 10 * UNKNOWN_RTOL)),
        "steps": Column(diagnosis.solve_steps, lambda steps: str(steps) if steps >= 0 else "?"),
        "solve growth": Column(diagnosis.solve_growth),
        "gradient error": Column(diagnosis.gradient_errors, attention=doubtful(diagnosis)),
    }
    k = len(diagnosis.values)
    caption = f"{diagnosis.problem}, k = {k}, derivatives by {diagnosis.linear_solver}"
    meaning = "figures that may leave a gradient too few correct digits"
    return Table(caption, (k,), columns, _notes(diagnosis), meaning)


def _notes(diagnosis: Diagnosis) -> list[str]:
    several = [c for c in diagnosis.clusters if len(c) > 1]
    names = "; ".join(", ".join(map(str, cluster)) for cluster in several)
    lines = [f"clusters: {names or 'none among these pairs'}"]
    if diagnosis.complete is None:
        lines.append("whether k cuts a cluster: not known; ask for pairs beyond k by `guard=1`")
    elif not all(diagnosis.complete):
        lines.append("k cuts a cluster: ask for more pairs, or fewer")
    if not np.isnan(diagnosis.gradient_error):
        lines.append(f"relative error of the gradient: about {diagnosis.gradient_error:.1e}")
    return lines


def diagnose(
    solve: Eigensolver, *operators: Any, of: Callable[[Solution], Any] | None = None
) -> Diagnosis:
    """Return residuals, gaps, clusters, condition numbers and an estimate of a gradient's error.

    Args:
        solve: made by `eigensolver`.
        *operators: as for `solve`; concrete arrays.
        of: a real function of the `Solution`. The error of its gradient with respect to the
            operators is estimated by the change of the gradient where every entry of them changes
            by a rounding error, with random signs, and where eigenpairs and linear solutions are
            refined by a step each. Entries that a matrix-free operator closes over are not
            changed. A function without a gradient is warned about, as it is by `jax.grad`.

    Returns:
        Diagnosis: print it, or let a notebook show it. `plot.spectrum` draws it.

    Raises:
        InputError: `solve` was not made by `eigensolver`.

    Cost: one solve; one linear solve for each eigenpair, and another for its left eigenvector in
        problems that are not Hermitian. With `of`, four gradients and three refinements.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=2, guard=1))
        >>> diagnosis = diagnose(solve, jnp.diag(jnp.array([1.0, 1.0, 3.0, 4.0])))
        >>> [cluster.tolist() for cluster in diagnosis.clusters], diagnosis.complete
        ([[0, 1]], [True])
    """
    check_eigensolver(solve, "diagnose(solve, A, B)")
    problem = solve.problem.with_left_vectors()
    k, asked = problem.k, problem.with_guard()
    quiet = dataclasses.replace(SILENT, degeneracy_rtol=solve.policy.degeneracy_rtol)
    wide = dataclasses.replace(solve, problem=asked, policy=quiet, normalization=None)
    wide, theta = wide.prepared(*operators)
    solution = wide.at(theta)
    state = asked.state(solution)
    equal = asked.clusters(state)
    equal = np.eye(asked.k, dtype=bool) if equal is None else np.asarray(equal)
    values = np.asarray(solution.values)
    values = np.diagonal(values) if values.ndim == 2 else values
    residuals = np.asarray(solution.stats.get("residuals", np.full(asked.k, np.nan)))
    distance = np.abs(values[:, None] - values[None, :])
    size = np.maximum(np.abs(values)[:, None], np.abs(values)[None, :])
    far = np.where(equal, np.inf, distance / np.where(size > 0, size, 1))
    gaps = far.min(axis=1)
    condition = np.asarray(asked.condition_numbers(state, theta))
    solved, growth, steps, name = _try_solve(wide, state, theta)
    vector_errors = residuals / np.where(np.isfinite(gaps), np.minimum(gaps, 1), 1)
    eps = float(np.finfo(residuals.dtype).eps)
    errors = condition * (2 * vector_errors + solved * growth + eps * growth)
    gradient_error = np.nan
    if of is not None:
        told = _warning(solve.policy)
        gradient_error = eps + _gradient_error(solve, told, quiet, theta, of)
    clusters = [c[c < k] for c in clusters_of(equal) if (c < k).any()]
    complete = None
    if asked.k > k:
        complete = [not equal[c[0], k:].any() for c in clusters]
    return Diagnosis(
        type(problem).__name__,
        name,
        values[:k],
        residuals[:k],
        gaps[:k],
        clusters,
        complete,
        condition[:k],
        solved[:k],
        steps[:k],
        growth[:k],
        vector_errors[:k],
        errors[:k],
        gradient_error,
    )


# How many random changes show the error of a gradient.
CHANGES = 3


class _Refined(Eigensolver):
    """The same eigensolver, whose linear solutions are refined once."""

    def linear_solve(self, system: AbstractSquareSystem, b: PyTree) -> PyTree:
        """Return u + M⁻¹(b − M u), with the solution u of the linear solver, and M⁻¹ by it."""
        U = super().linear_solve(system, b)
        left = jax.tree.map(jnp.subtract, b, system.mv(U))
        return jax.tree.map(jnp.add, U, super().linear_solve(system, left))


def _warning(policy: Policy) -> Policy:
    """Return the policy that says of a gradient what `policy` does, but as warnings."""
    actions = {name: getattr(policy, name) for name in ("gauge", "exceptional")}
    told = {
        name: action if action is Action.IGNORE else Action.WARN for name, action in actions.items()
    }
    return dataclasses.replace(
        SILENT, degeneracy_rtol=policy.degeneracy_rtol, gauge_rtol=policy.gauge_rtol, **told
    )


def _gradient_error(
    solve: Eigensolver,
    told: Policy,
    quiet: Policy,
    theta: Operators,
    of: Callable[[Solution], Any],
) -> float:
    """Return the relative change of the gradient of f(solve(θ)) by rounding and by refinement."""
    moving, still = eqx.partition(theta, eqx.is_inexact_array)

    def gradient(solve: Eigensolver, arrays: PyTree) -> np.ndarray:
        found = jax.grad(lambda arrays: of(solve.at(eqx.combine(arrays, still))))(arrays)
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found)])

    rng = np.random.default_rng(20101)

    def changed(leaf: Array) -> Array:
        signs = rng.choice([-1.0, 1.0], leaf.shape) * float(jnp.finfo(leaf.dtype).eps)
        return leaf + leaf * jnp.asarray(signs, leaf.dtype)

    first = gradient(dataclasses.replace(solve, policy=told), moving)
    parts = {field.name: getattr(solve, field.name) for field in dataclasses.fields(solve)}
    refined = _Refined(**(parts | {"policy": quiet, "refine": solve.refine + 1}))
    others = [gradient(refined, jax.tree.map(changed, moving)) for _ in range(CHANGES)]
    largest = np.max(np.abs(first), initial=0.0)
    unit = largest if largest > 0 else 1.0  # squares could overflow
    size, change = (float(np.linalg.norm(x / unit)) for x in (first, np.subtract(others, first)))
    return change / size if size > 0 else change


def _try_solve(
    solve: Eigensolver, state: PyTree, theta: Operators
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Return ‖b − M u‖ / ‖b‖, ‖M‖ ‖u‖ / ‖b‖, the steps, and the name of the linear solver.

    There is one random right side b for each eigenpair.
    """
    reports, name = _solve_probe(solve, state, theta)
    k = solve.problem.k
    if not reports:
        return np.zeros(k), np.ones(k), np.zeros(k, int), name
    # one solve, perhaps another for left eigenvectors; steps below 0 are not known
    residuals, errors, steps = (np.stack(parts) for parts in zip(*reports, strict=True))
    eps = float(np.finfo(residuals.dtype).eps)
    growth = errors / (residuals + eps)
    steps = np.where((steps < 0).any(axis=0), -1, steps.sum(axis=0))
    return residuals.max(axis=0), growth.max(axis=0), steps, name


@compiled
def _solve_probe(
    solve: Eigensolver, state: PyTree, theta: Operators
) -> tuple[list[tuple[Array, Array, Array]], str]:
    problem = solve.problem
    first, *others = problem.conditions(state, *theta)
    b = jnp.tile(probe(first[:, :1]), (1, first.shape[1]))
    reports, names = [], ["no linear solver"]

    def noted(system: AbstractSquareSystem, b: PyTree) -> PyTree:
        U, report = solve_once(system, b, solve.linear_solver, solve.policy)
        reports.append((report.residuals, report.errors, report.steps))
        names.append(label(chosen(system, b, solve.linear_solver, solve.policy)))
        return U

    linearised = problem.linearise(state, theta, solve.system)
    linearised.tangent((b, *map(jnp.zeros_like, others)), noted)
    return reports, names[-1]


def refine(
    solution: Solution | tuple[Any, Any],
    *operators: Any,
    problem: AbstractProblem,
    linear_solver: lx.AbstractLinearSolver | None = None,
    steps: int = 2,
) -> Solution:
    """Refine a solution by Newton's method on the problem's conditions.

    Use it for eigenpairs that a solver converged loosely, or in single precision: with operators
    in double precision each step about doubles the number of correct digits. Eigenpairs that are
    equal to within their residuals move as one cluster. Under `jit`, and for derivatives, use
    `eigensolver(..., refine=steps)` instead.

    Args:
        solution: rough eigenpairs; or a tuple (values, vectors).
        *operators: as for the solver made by `eigensolver`; concrete arrays.
        problem: the declared kind.
        linear_solver: as for `eigensolver`.
        steps: of Newton's method.

    Returns:
        The refined eigenpairs, in the order and the precision of the problem; no derivatives.

    Raises:
        EigensolverError: the refined eigenpairs fail the check of the problem.

    Cost: one linear solve for each eigenpair and step.
    Source: Peters & Wilkinson (1979) SIAM Rev. 21, 339.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian
        >>> A = jnp.array([[2.0, 1.0], [1.0, 3.0]])
        >>> rough = jnp.array([1.38]), jnp.array([[0.85], [-0.53]])
        >>> print(f"{refine(rough, A, problem=Hermitian(k=1)).values[0]:.5f}")
        1.38197
    """
    linear_solver = AutoLinearSolver() if linear_solver is None else linear_solver
    theta = problem.check_operators(problem.canonical(operators), SILENT)
    rough = as_returned(solution, problem.structure(theta))
    rough = newton(problem, rough, theta, linear_solver, steps)
    return problem.normalize(rough, theta, Policy())
