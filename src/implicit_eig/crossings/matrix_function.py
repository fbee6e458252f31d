"""Functions of a matrix on the known space, X f(S) Xᴴ B, exact at repeated and near eigenvalues.

Why not X diag(f(λ)) Xᴴ: the eigenvalues carry the diagonal of Ṡ alone, the vectors a turn K
between near pairs. In the basis in which near pairs share the block S,

    d(X f(S) Xᴴ) = Ẋ f(S) Xᴴ + X f(S) Ẋᴴ + X (D∘Ṡ) Xᴴ,    Dᵢⱼ = f[λᵢ, λⱼ],

and Dᵢⱼ → f′(λ) where the eigenvalues meet. Inside a cluster K = 0 and λ̇ᵢ = Ṡᵢᵢ, so that
X diag(f(λ)) Xᴴ lacks X (f′ times the off-diagonal part of Ṡ) Xᴴ there.

Source: see the module `_divided_differences`.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Inexact

from .._alike import Steps, Traced
from .._compiled import full_precision
from .._errors import InputError
from ..operators import apply_complex, as_operator, diagonal, promoted
from ..solution import Solution
from ._divided_differences import derivative


class MatrixFunction(eqx.Module):
    """Stand for left · block · rightᵀ, which is never formed; made by `matrix_function`.

    `F @ v` is its product with v, shape (n,) or (n, m).

    Attributes:
        block: f(S), shape (k, k), diagonal in value. For an orthonormal basis and a pencil with its
            B `jnp.trace(F.block)` is the trace of F. Inside a cluster single entries depend
            on the basis that the solver chose.
        left: X, shape (n, k); U of singular triplets.
        right: shape (n, k); conj(X), of a pencil with B conj(BX).

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solution = eigensolver(np.linalg.eigh, Hermitian(k=2))(jnp.diag(jnp.array([4.0, 9.0])))
        >>> F = matrix_function(solution, jnp.sqrt)
        >>> (F @ jnp.ones(2)).tolist(), F.diagonal().tolist(), float(jnp.trace(F.block))
        ([2.0, 3.0], [2.0, 3.0], 5.0)
    """

    block: Inexact[Array, "k k"]
    left: Inexact[Array, "m k"]
    right: Inexact[Array, "n k"]

    @full_precision
    def __matmul__(self, v: Inexact[Array, "n ..."]) -> Inexact[Array, "m ..."]:
        dtype = np.promote_types(self.block.dtype, v.dtype)
        block, left, right = (part.astype(dtype) for part in (self.block, self.left, self.right))
        return left @ (block @ (right.T @ v.astype(dtype)))

    @full_precision
    def diagonal(self) -> Inexact[Array, " n"]:
        """Return the diagonal, of a square one."""
        left = self.left.astype(self.block.dtype) @ self.block
        return jnp.sum(left * self.right.astype(left.dtype), axis=1)

    def as_matrix(self) -> Inexact[Array, "m n"]:
        """Return the array, which no other method makes."""
        return self @ jnp.eye(len(self.right), dtype=self.right.dtype)


@full_precision
def matrix_function(solution: Any, f: Callable[[Any], Any], B: Any = None) -> MatrixFunction:
    """Return X f(S) Xᴴ, or X f(S) Xᴴ B, with exact derivatives at any gap of the eigenvalues.

    It equals X diag(f(λ)) Xᴴ in value. Where f vanishes on the eigenvalues that are not known, or
    all are, it is f(A) of a standard problem; of a pencil f(B⁻¹A) with its B, and f(B⁻¹A) B⁻¹, a
    density matrix, without. Derivatives of any order, in both modes, are exact at repeated
    eigenvalues too, where those of X diag(f(λ)) Xᴴ are not.

    Args:
        solution: as `eigensolver` returns it, of `Hermitian`; of `General(left=True)`, for
            X f(S) Yᴴ B; or of `Singular`, for U f(S) Vᴴ. The vectors are those of the problem's
            own normalisation, whatever `normalization=` was asked for.
        f: a JAX function of one eigenvalue, a number; of a complex one holomorphic. It may be
            complex of real eigenvalues. Derivatives are also exact with respect to what it closes
            over, a temperature say.
        B: that of the pencil, in any form that the solve takes; `None` for I.

    Returns:
        What stands for the matrix: `F @ v`, `F.diagonal()`, `F.as_matrix()`, `F.block`.

    Raises:
        InputError: the solution is not one of the above, or `f` does not return a number that fits.

    Accuracy: divided differences are exact to some ten roundings, of second order to some fifty,
        of the largest of the like derivative of f; where f is not smooth between two eigenvalues,
        of f, divided by the gap. A jump of f between two eigenvalues is seen, unless it is below
        a hundred roundings of f, λf′ and λ²f″. All that is relative to f as it is evaluated: where
        f, f′ and f″ are nothing but rounding, near a triple root, that is divided by the gap.
    Cost: k products with B. A first derivative takes some twenty slopes of f for each of k²
        pairs, a second one a hundred for each of k³ triples, and all that once for each number
        that f closes over and that is differentiated.
    Source: see the module.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=3))
        >>> A = jnp.diag(jnp.array([1.0, 1.0, 2.0]))  # a repeated eigenvalue
        >>> exponential = lambda A: matrix_function(solve(A), jnp.exp)
        >>> jax.grad(lambda A: exponential(A).as_matrix()[0, 1])(A)[0].round(3).tolist()
        [0.0, 1.359, 0.0]
    """
    joint = solution._joint if isinstance(solution, Solution) else None
    if joint is None:
        found = "that of another problem" if isinstance(solution, Solution) else "no `Solution`"
        raise InputError(
            "`matrix_function(solution, ...)`: the `Solution` of a Hermitian or singular value "
            "problem, or of a general one with left vectors, as `eigensolver` returns it; got "
            f"{found}. Declare `Hermitian(k)`, `Singular(k)` or `General(k, left=True)`. Of "
            "`Subspace`, `solution.values` is S itself: use `jax.scipy.linalg.expm` or the like."
        )
    S, left = jnp.asarray(joint.S), jnp.asarray(joint.left)
    triplets = joint.right is not None and not jnp.iscomplexobj(solution.values)
    if B is not None and triplets:
        raise InputError(
            "`matrix_function(solution, f, B)`: a pencil with this B; got singular triplets. "
            "Leave `B` out."
        )
    operator = None
    if B is not None:
        vectors: Any = jax.ShapeDtypeStruct(left.shape[:1], jnp.finfo(left.dtype).dtype)
        both = as_operator("B", B), lx.IdentityLinearOperator(vectors)
        found, n = (both[0].out_size(), both[0].in_size()), len(left)
        if found != (n, n):
            raise InputError(
                f"`matrix_function(solution, f, B)`: the B of the pencil, of shape ({n}, {n}); got "
                f"shape {found}. Give the B that the solve was given."
            )
        operator, _ = promoted("matrix_function(solution, f, B)", both)
    if joint.right is None:
        right = apply_complex(operator, left).conj()
    else:
        transposed = None if operator is None else operator.transpose()
        right = apply_complex(transposed, jnp.asarray(joint.right).conj())
    real = not jnp.iscomplexobj(solution.values)
    lam = diagonal(S).real if real else diagonal(S)
    block = derivative(_traced(f, lam.dtype), S, real=real)
    return MatrixFunction(block, left, right)


def _traced(f: Callable[[Any], Any], dtype: Any) -> Traced:
    """Return f, checked, with what it closes over as arrays of its own."""

    def number(x: Any) -> Array:
        y: Any = f(x)
        allowed = {x.dtype, np.result_type(x.dtype, np.complex64)}
        fits = eqx.is_array_like(y) and jnp.shape(y) == ()
        y = jnp.asarray(y) if fits else y
        if fits and y.dtype in allowed:
            return y
        if fits and y.weak_type:
            return y.astype(jnp.result_type(x.dtype, y))
        found = f"{y.dtype} of shape {jnp.shape(y)}" if eqx.is_array(y) else type(y).__name__
        raise InputError(
            "`matrix_function(..., f)`: a function of one eigenvalue that returns a number, of "
            f"{x.dtype} here or complex; got {found}. Write f for a single eigenvalue, in JAX."
        )

    closed = jax.make_jaxpr(number)(jax.ShapeDtypeStruct((), dtype))
    return Traced(Steps(closed.jaxpr), list(map(jnp.asarray, closed.consts)))
