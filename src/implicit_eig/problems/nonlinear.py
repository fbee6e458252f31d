"""The nonlinear eigenproblem: T(λ, x, parameters) = 0, linear in x."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp
from jax.experimental.sparse import BCOO, BCSR
from jaxtyping import Array, Float, Inexact

from .._errors import InputError
from ..checks.clusters import closeness
from ..checks.policy import Policy
from ..operators import as_operator, diagonal
from ..operators.views import ComplexView, solver_view
from ..solution import Solution
from ..solvers.newton import Newton
from ..systems.function import Function, is_operator, leaves, working_dtype
from ._abstract import Operators
from ._pairs import AbstractPairs, solution_structure
from ._validation import check_k, whole


class Nonlinear(AbstractPairs):
    """Declare T(λ, x, *args) = 0, linear in x and holomorphic in λ, with simple eigenvalues.

    `solve(*args)` takes any pytrees of arrays, and operators in all forms that `eigensolver`
    lists; derivatives are with respect to the arrays in them. T is JAX code of one number λ and
    one vector x (n,), both complex, and returns (n,); T'(λ) is found by JAX. Eigenvectors have
    ‖x‖₂ = 1 and the solver's phase; their tangent satisfies xᴴẋ = 0. Left eigenvectors y,
    yᴴT(λ) = 0, have yᴴT'(λ)x = 1.

    T and a traceable solver receive arrays as JAX arrays and operators as lineax operators, whose
    A.mv(x) multiplies complex vectors whatever the operator's own dtype. A solver on the host
    receives NumPy arrays, SciPy CSR matrices and `LinearOperator`s. Python integers, and whatever
    is not an array, are passed on unchanged.

    Args:
        T: the function. It must not close over an array with respect to which a derivative is
            taken.
        k: the number of eigenpairs.
        n: the length of x; `None` takes that of the start of `solvers.newton`, or else the
            last dimension of the first matrix or operator among the arguments.
        left: as for `General`.

    Raises:
        InputError: k or n is not a positive integer; n is not known; T does not return (n,)
            complex numbers (when traced).
        EigensolverError: T is not linear in x, or not holomorphic in λ, at the eigenpairs (when
            run).

    Cost: two bordered solves for each eigenpair that a derivative uses, the second one of a random
        right side, which shows whether the eigenvalue is simple: where it is repeated, and the
        solver returns no left eigenvectors, derivatives are refused. The default solver makes the
        bordered matrix from n + 1 products and factorises it where n ≤ 256, or where an argument
        is itself an array of n² numbers. With a sparse or matrix-free operator among the
        arguments, and for larger n, it iterates on products, by GMRES.
    Source: Güttel & Tisseur (2017) Acta Numerica 26, 1, doi:10.1017/S0962492917000034; see the
        module `_pairs`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from implicit_eig import eigensolver, solvers
        >>> T = lambda lam, x, a: (-lam - a * jnp.exp(-lam)) * x
        >>> solve = eigensolver(solvers.newton(T, (1j, jnp.ones(1))), Nonlinear(T))
        >>> a = jnp.array(jnp.pi / 2 + 0j)  # where λ = ia, and dλ/da = i/(1 + ia)
        >>> round(float(jax.grad(lambda a: solve(a).values[0].real)(a).real), 3)  # a/(1 + a²)
        0.453
    """

    T: Any = eqx.field(static=True)
    k: int = eqx.field(static=True, default=1, converter=whole)
    n: int | None = eqx.field(static=True, default=None, kw_only=True)
    left: bool = eqx.field(static=True, default=False, kw_only=True)

    def __check_init__(self):
        check_k("Nonlinear", self.k)
        if not callable(self.T):
            raise InputError(
                f"`Nonlinear(T=...)`: a function T(λ, x, *args); got {type(self.T).__name__}. "
                "Pass the function itself."
            )
        if self.n is not None and (not isinstance(self.n, int) or self.n < 1):
            raise InputError(
                f"`Nonlinear(n=...)`: the length of x, a positive integer; got {self.n!r}. "
                "Leave it out where a matrix among the arguments tells it."
            )

    @property
    def simple(self) -> bool:
        """Return True."""
        return True

    @property
    def left_scale(self) -> float:
        """Return the number vᵀT'(λ)x, for yᴴT′(λ)x = 1."""
        return 1.0

    def suited_to(self, solver: Any) -> "Nonlinear":
        """Return the problem with the n of the start of `solvers.newton`."""
        if self.n is None and isinstance(solver, Newton):
            return dataclasses.replace(self, n=solver.n)
        return self

    def canonical(self, operators: tuple[Any, ...]) -> Operators:
        """Return the arguments with JAX arrays, and operators that multiply complex vectors."""
        return jax.tree_util.tree_map_with_path(_canonical, operators, is_leaf=_is_given_operator)

    def traced_views(self, operators: Operators) -> tuple[Any, ...]:
        """Return the arguments in the form that T receives."""
        return operators

    def host_views(self, operators: Operators) -> tuple[Any, ...]:
        """Return the arguments with NumPy arrays, SciPy matrices and operators."""
        return jax.tree.map(_host_view, operators, is_leaf=is_operator)

    def check_operators(self, operators: Operators, policy: Policy) -> Operators:
        """Return the arguments, if T maps n complex numbers to n complex numbers."""
        n, dtype = self._size(operators), working_dtype(operators)
        lam, x = (jax.ShapeDtypeStruct(shape, dtype) for shape in ((), (n,)))
        try:
            out = eqx.filter_eval_shape(self.T, lam, x, *operators)
        except TypeError as error:
            error.add_note(f"`Nonlinear`: T was called with λ {dtype} and x of shape ({n},).")
            raise
        found = (out.shape, out.dtype) if eqx.is_array(out) or _is_shape(out) else type(out)
        if found != (x.shape, x.dtype):
            raise InputError(
                f"`eigensolver(problem=Nonlinear(T))`: T(λ, x, *args) of shape ({n},) and dtype "
                f"{dtype}, for λ and x of this dtype; got {found}. Give `n=` if x has another "
                "length, and cast constants in T."
            )
        return operators

    def structure(self, operators: Operators) -> Solution:
        """Return the shapes, with complex dtypes."""
        return solution_structure(self._size(operators), self.k, working_dtype(operators))

    def matrices(self, lam: Inexact[Array, " k"], operators: Operators) -> Function:
        """Return T at each of the λᵢ."""
        return Function(self.T, lam, operators)

    def product(
        self,
        S: Inexact[Array, "k k"],
        X: Inexact[Array, "n k"],
        operators: Operators,
        transposed: bool = False,
    ) -> Inexact[Array, "n k"]:
        """Return T(λᵢ) xᵢ or T(λᵢ)ᵀ xᵢ: a user's T takes numbers λ, not blocks."""
        matrices = self.matrices(diagonal(S), operators)
        return (matrices.transposed() if transposed else matrices).product(X)

    def pairing(
        self,
        S: Inexact[Array, "k k"],
        V: Inexact[Array, "n k"],
        X: Inexact[Array, "n k"],
        operators: Operators,
    ) -> Inexact[Array, "k k"]:
        """Return VᵀT'X, each column T'(λⱼ)xⱼ."""
        return V.T @ self.border(S, X, operators)

    def slope_terms(
        self, lam: Inexact[Array, " k"], X: Inexact[Array, "n k"], operators: Operators
    ) -> Float[Array, "n k"]:
        """Return |T'(λᵢ) xᵢ| + |λᵢ T''(λᵢ) xᵢ|: what a change of λᵢ by a part of it changes."""
        slope = lambda lam: self.border(jnp.diag(lam), X, operators)  # noqa: E731
        first, second = jax.jvp(slope, (lam,), (lam,))
        return jnp.abs(first) + jnp.abs(second)

    def near(self, lam: Array, error: Array, policy: Policy) -> Float[Array, "k k"]:
        """Return the closeness of the eigenvalues, below 1, because each moves alone."""
        eps = float(jnp.finfo(error.dtype).eps)
        near = jnp.minimum(closeness(lam, error, 0.0), 1 - eps)
        return jnp.where(jnp.eye(len(lam), dtype=bool), 1, near)

    @property
    def smooth_sums(self) -> bool:
        """Return False: only eigenpairs of a cluster share a block."""
        return False

    def spans(self, n: int) -> bool:
        """Return False."""
        return False

    def _size(self, operators: Operators) -> int:
        if self.n is not None:
            return self.n
        for leaf in leaves(operators):
            if is_operator(leaf):
                return leaf.in_size()
            if eqx.is_array(leaf) and leaf.ndim >= 2:
                return leaf.shape[-1]
        raise InputError(
            "`eigensolver(problem=Nonlinear(T))`: the length of x; got neither `n=` nor a matrix "
            "among the arguments. Write `Nonlinear(T, n=...)`."
        )


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _is_given_operator(leaf: Any) -> bool:
    return sp.issparse(leaf) or isinstance(leaf, (lx.AbstractLinearOperator, BCOO, BCSR))


def _canonical(path: Any, leaf: Any) -> Any:
    if _is_given_operator(leaf):
        return ComplexView(as_operator(f"args{jax.tree_util.keystr(path)}", leaf))
    # a Python integer may be a size or an exponent; a float becomes an array of weak type
    return jnp.asarray(leaf) if isinstance(leaf, (np.ndarray, np.generic, float, complex)) else leaf


def _host_view(leaf: Any) -> Any:
    if is_operator(leaf):
        return solver_view(leaf.operator)
    # copied, because the solver may overwrite its arguments
    return np.array(leaf) if isinstance(leaf, np.ndarray) else leaf
