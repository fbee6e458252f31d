"""What is checked of Hermitian operators, and of the pairs A x = λ B x that a solver returns."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool

from .._compiled import compiled
from ..degeneracy import clusters_beyond
from ..linear_solvers._systems import probe
from ..operators import apply, column_norms, dtype_of, is_dense, promoted, scale_columns
from ..policy import Policy
from ..solution import Solution
from ..systems._abstract import Pencil
from ._abstract import Operators
from ._blocks import independent, inspect_independence, orthonormalize

# Rounding of a product or inner product is below this many eps of its factors' sizes.
ROUNDING = 1e3
INDEFINITE = (
    "If B is indefinite or singular but A is definite, as in buckling, solve B x = μ A x, where "
    "λ = 1/μ; else declare `General`."
)


@compiled
def hermitian_parts(operators: Operators) -> tuple[Operators, tuple[Array, ...]]:
    """Return the operators, dense ones made Hermitian, and the figures to be judged."""
    # each is judged by the rounding of its own dtype
    arrays, static = eqx.partition(operators, eqx.is_array)
    still = eqx.combine(jax.lax.stop_gradient(arrays), static)
    figures = [_hermitian_figures(operator) for operator in still]
    parts = []
    for operator in promoted("solve(A, B)", operators):
        if is_dense(operator):
            matrix = operator.as_matrix()
            operator = lx.MatrixLinearOperator((matrix + matrix.conj().T) / 2)
        parts.append(operator)
    real = jnp.finfo(dtype_of(parts[0])).dtype
    stacked = (jnp.stack([f.astype(real) for f in fs]) for fs in zip(*figures, strict=True))
    return tuple(parts), tuple(stacked)


def _hermitian_figures(operator: lx.AbstractLinearOperator) -> tuple[Array, Array, Array]:
    """Return |uᴴ(A − Aᴴ)v| for random u and v, what rounding explains of it, and vᴴAv."""
    V = probe(jax.ShapeDtypeStruct((operator.in_size(), 2), dtype_of(operator)))
    AV = apply(operator, V)
    M = V.conj().T @ AV
    sizes = column_norms(V) * column_norms(AV)
    rounding = ROUNDING * float(jnp.finfo(V.dtype).eps) * jnp.max(sizes)
    return jnp.abs(M[0, 1] - M[1, 0].conj()), rounding, M[1, 1].real


def inspect_operators(
    defect: np.ndarray, rounding: np.ndarray, quadratic_form: np.ndarray
) -> str | None:
    """Judge A and B by the figures of `hermitian_parts`."""
    for name, d, r, q in zip("AB", defect, rounding, quadratic_form, strict=False):
        if not np.isfinite(r):
            return (
                f"`solve({name}=...)`: finite entries; got NaN or inf in a product with {name}. "
                "Check how it was assembled."
            )
        if d > r:
            return (
                f"`eigensolver(problem=Hermitian(...))`: {name} equal to its conjugate transpose; "
                f"got |uᴴ({name} − {name}ᴴ)v| = {d:.1e} for random u and v, where rounding "
                f"explains {r:.1e}. Symmetrise {name}, or declare the problem "
                "that it is."
            )
        if name == "B" and not q > 0:
            return (
                "`eigensolver(problem=Hermitian(...))`: B positive definite; got vᴴBv = "
                f"{q:.1e} for a random v. Check the sign of B. {INDEFINITE}"
            )
    return None


@compiled
def normalize(
    solution: Solution,
    A: lx.AbstractLinearOperator,
    B: lx.AbstractLinearOperator | None,
    policy: Policy,
) -> tuple[Solution, tuple[Array, ...], Array]:
    """Return the B-orthonormal pairs, the figures of `InspectPairs`, the relative residuals."""
    lam, X = solution.values, solution.vectors
    finite = jnp.isfinite(lam) & jnp.all(jnp.isfinite(X), axis=0)
    largest = jnp.max(jnp.abs(X), axis=0)
    X = scale_columns(X, 1 / jnp.where(largest > 0, largest, 1))
    BX = apply(B, X)
    gram = X.conj().T @ BX
    (X, *rest), gram, norms = orthonormalize(gram, *((X,) if B is None else (X, BX)))
    BX = rest[0] if rest else X
    AX = apply(A, X)

    R = AX - scale_columns(BX, lam)
    residual = column_norms(R)
    scale = column_norms(AX) + jnp.abs(lam) * column_norms(BX)
    pencil = Pencil(A, B, jnp.diag(lam).astype(X.dtype), X)
    eps = float(jnp.finfo(X.dtype).eps)
    rounding = ROUNDING * eps * pencil.sizes() * column_norms(X)
    # a value near 0 has no scale of its own: there the residual counts against rounding
    relative = residual / jnp.maximum(scale, rounding / jnp.sqrt(eps))
    # what the solver's rounding, that of norms, has done; two values can be off either way
    misfit = lambda: 2 * jnp.max(jnp.abs(X.conj().T @ R), axis=0)  # noqa: E731
    at_most = 2 * jnp.max(column_norms(X)) * residual
    equal, cut = clusters_beyond(lam, pencil.rounding(), at_most, misfit, solution._rest, policy)
    figures = (residual, scale, rounding, gram, norms, finite)
    return Solution(lam, X, _equal=equal, _cut=cut), figures, relative


@compiled
def sound(
    rtol: float,
    residual: Array,
    scale: Array,
    rounding: Array,
    gram: Array,
    norms: Array,
    finite: Array,
) -> Bool[Array, ""]:
    """Return True where `InspectPairs` does not object."""
    solved = jnp.all(residual <= rtol * scale + rounding)
    return solved & independent(gram) & jnp.all(finite) & jnp.all(norms > 0)


class InspectPairs(eqx.Module):
    """Judge what the solver returned."""

    residual_rtol: float = eqx.field(static=True)

    def __call__(
        self,
        residual: np.ndarray,
        scale: np.ndarray,
        rounding: np.ndarray,
        gram: np.ndarray,
        norms: np.ndarray,
        finite: np.ndarray,
    ) -> str | None:
        requirement = f"`eigensolver(problem=Hermitian(k={len(residual)}))`: "
        if not finite.all():
            return (
                f"{requirement}finite pairs; got NaN or inf in pair {np.flatnonzero(~finite)[0]}. "
                "Check the solver's own report of convergence."
            )
        if not (norms > 0).all():
            i = np.flatnonzero(~(norms > 0))[0]
            return (
                f"{requirement}vectors with xᴴBx > 0; got none for pair {i}. Either the vector is "
                f"zero or B is not positive definite. {INDEFINITE}"
            )
        message = inspect_independence(requirement, "|xᴴBx'|", gram)
        if message is not None:
            return message
        allowed = self.residual_rtol * scale + rounding
        bad = np.flatnonzero(~(residual <= allowed))
        if bad.size:
            i = bad[np.argmax(residual[bad])]
            return (
                f"{requirement}pairs with A x = λ B x; got a residual ‖A x − λ B x‖ of "
                f"{residual[i]:.1e} for pair {i}, which is {residual[i] / scale[i]:.1e} of "
                f"‖A x‖ + |λ| ‖B x‖ and above the {allowed[i]:.1e} allowed ({bad.size} of "
                f"{len(residual)} pairs fail). Tighten the solver's tolerance, check that it "
                "solves this problem, or accept this with `Policy(residual_rtol=...)`."
            )
        return None
