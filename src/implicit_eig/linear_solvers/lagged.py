"""The factors of an earlier matrix, which precondition the later ones of a sequence."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Int

from .._errors import InputError
from ..operators import as_operator, has_entries, is_dense, promoted
from ..operators.views import host_view
from ..solution import Solution
from .cache import factorize
from .factorizations import Factorization, Shift, SingularError


class LaggedFactors(eqx.Module):
    """Name the operators whose factors serve a sequence of problems, as an optimisation solves.

    Near the end of an optimisation, and often throughout, the matrices of one step differ little
    from those of the step before. The factors of A₀ − σB₀ are then nearly as good a preconditioner
    as those of A − σB, so that most steps need no factorisation. Answers and derivatives are as
    accurate as with new factors, because both are judged by their own residuals; only the number
    of steps of the iterations grows. This object is the state of the sequence: it holds A₀ and B₀,
    never the factors, which `ie.factorization_cache` keeps or makes again. So the same arguments
    give the same answer, in whatever order, and it passes through `jit` and `scan`. It pays where
    factorising takes most of the time; the page "How to choose" has figures.

        solve = eigensolver(solvers.lobpcg(k, ShiftInvert(sigma)), Hermitian(k))
        lagged, solution = LaggedFactors(A, B), None
        for ...:
            solution = solve(A, B, start=solution, reuse=lagged)
            lagged = lagged.after(solution, A, B)

    Args:
        A: sparse, as for `eigensolver`; shape (n, n). It carries no derivative.
        B: the same; `None` for the identity.
        cost: of one factorisation, in steps of the eigensolver. With `Ldlt()` it is about 3 in two
            dimensions, and in three about 10 for n = 60,000 and more for larger ones.

    Attributes:
        operators: A₀, or A₀ and B₀.
        uses: how many solves these factors have served; shape ().
        fewest: the steps of the cheapest of these solves; shape ().
        extra: the steps beyond `fewest` of all of them together; shape ().

    Raises:
        InputError: an operator is not sparse.

    Source: Knoll & Keyes (2004) J. Comput. Phys. 193, 357, doi:10.1016/j.jcp.2003.08.010, section
        3, for preconditioners that lag behind.

    Examples:
        >>> import numpy as np, scipy.sparse as sp
        >>> from implicit_eig import Hermitian, ShiftInvert, eigensolver, solvers
        >>> A = sp.diags_array(np.arange(1.0, 41.0, dtype=np.float32), format="csr")
        >>> solve = eigensolver(solvers.lobpcg(2, ShiftInvert(0.0)), Hermitian(2))
        >>> lagged = LaggedFactors(A)
        >>> solution = solve(1.5 * A, reuse=lagged)  # by factors of A, not of 1.5 A
        >>> solution.values.round(2).tolist()
        [1.5, 3.0]
        >>> lagged.after(solution, 1.5 * A).uses.tolist()
        1
    """

    operators: tuple[lx.AbstractLinearOperator, ...]
    cost: int = eqx.field(static=True)
    uses: Int[Array, ""]
    fewest: Int[Array, ""]
    extra: Int[Array, ""]

    def __init__(self, A: Any, B: Any = None, *, cost: int = 10):
        self.operators = jax.lax.stop_gradient(_sparse(A, B))
        self.cost = cost
        self.uses = self.fewest = self.extra = jnp.zeros((), jnp.int32)

    def after(self, solution: Solution, A: Any, B: Any = None) -> "LaggedFactors":
        """Return the state after a solve: the same operators, or A and B where that pays.

        The number of steps grows as the matrices move away. What it costs on average to make
        factors and to use them, (cost + Σ extra) / uses, is least when they are replaced as soon
        as one more use costs more than that average. They are also replaced when they did not
        serve, so that A − σB was factorised, and kept after a solve that failed.

        Args:
            solution: of `solve(A, B, reuse=lagged)`, by an eigensolver that counts its steps.
            A: the operator of that solve, of the same pattern as A₀.
            B: the same.

        Raises:
            InputError: the solution has no `stats["steps"]`, or A and B another structure.
        """
        if not {"steps", "factorised"} <= set(solution.stats):
            raise InputError(
                '`LaggedFactors.after(solution, A, B)`: a solution with `stats["steps"]`, which '
                "`solvers.lobpcg` counts; got one without. Decide by another measure, and make a "
                "new `LaggedFactors(A, B)`."
            )
        steps, factorised = (
            jax.lax.stop_gradient(jnp.asarray(solution.stats[name]))
            for name in ("steps", "factorised")
        )
        new = LaggedFactors(A, B, cost=self.cost)
        if jax.tree.structure(new) != jax.tree.structure(self):
            raise InputError(
                "`LaggedFactors.after(solution, A, B)`: operators of the same pattern as those "
                "that they may replace; got others. Keep explicit zeros in the pattern, or make a "
                "new `LaggedFactors(A, B)`."
            )
        fewest = jnp.where(self.uses == 0, steps, jnp.minimum(self.fewest, steps))
        extra = steps - fewest
        used = eqx.tree_at(
            lambda state: (state.uses, state.fewest, state.extra),
            self,
            (self.uses + 1, fewest, self.extra + extra),
        )
        pays = (factorised > 0) | (extra * self.uses > self.cost + self.extra)
        state = jax.tree.map(lambda a, b: jnp.where(pays, a, b), new, used)
        failed = steps < 0
        return jax.tree.map(lambda a, b: jnp.where(failed, a, b), self, state)

    def check_size(self, n: int) -> None:
        """Raise `InputError` unless these are operators of size n."""
        found = {operator.in_size() for operator in self.operators}
        if found != {n}:
            raise InputError(
                f"`solve(reuse=...)`: earlier operators of the same size, n = {n}; got "
                f"{', '.join(map(str, found))}. Make a new `LaggedFactors(A, B)`."
            )

    def factorization(self, sigma: Shift, method: Any) -> Factorization | None:
        """Return the factors of A₀ − σB₀, `None` if that is singular; on the host."""
        A, *rest = map(host_view, self.operators)
        try:
            return factorize(A, rest[0] if rest else None, sigma, method)
        except SingularError:
            return None


def _sparse(A: Any, B: Any) -> tuple[lx.AbstractLinearOperator, ...]:
    given = tuple(as_operator(name, M) for name, M in (("A", A), ("B", B)) if M is not None)
    for operator in given:
        if is_dense(operator) or not has_entries(operator):
            raise InputError(
                "`LaggedFactors(A, B)`: sparse operators, whose factors are reused; got "
                f"{type(operator).__name__}. Leave `reuse` out."
            )
    return promoted("LaggedFactors(A, B)", given)
