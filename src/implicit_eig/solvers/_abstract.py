"""The part common to the ready-made solvers."""

import abc
import copy
from collections.abc import Iterable
from typing import Any, ClassVar

import lineax as lx
import numpy as np
import scipy.sparse as sp

from .._alike import Alike
from .._errors import InputError
from ..solution import Solution

# The kinds of problem that have a name, by which a solver says which of them it solves.
KINDS = ("Hermitian", "General", "Singular", "Subspace", "Polynomial", "Nonlinear")


class AbstractForwardSolver(Alike, abc.ABC):
    """Find eigenpairs, and name the linear solver that suits their derivatives.

    It runs on the host, unless it is a `Traceable` too. A solver that takes a start has an argument
    `start`, which `solve(A, B, start=...)` passes on as host arrays; so do other options of a call.

    Attributes:
        name: of the function that makes it, for messages.
        kinds: the names of the kinds of problem that it solves; all, if there are none.
        k: the number of eigenpairs; `None` for that of the problem.
        figures: the names of integers in the `figures` of its `Answer`, for `Solution.stats`.

    Examples:
        >>> from implicit_eig import solvers
        >>> solver = solvers.arpack(k=2, sigma=1.0)
        >>> isinstance(solver, AbstractForwardSolver), type(solver.linear_solver()).__name__
        (True, 'AutoLinearSolver')
    """

    name: ClassVar[str] = "solver"
    kinds: ClassVar[tuple[str, ...]] = ()
    k: int | None = None
    figures: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def __call__(self, A: Any, B: Any = None) -> tuple[Any, ...]:
        """Return (values, vectors) or (values, vectors, left_vectors) of host operators."""

    @abc.abstractmethod
    def linear_solver(self) -> lx.AbstractLinearSolver:
        """Return the linear solver that `eigensolver` uses unless another is given."""

    def suited_to(self, problem: Any) -> Any:
        """Return the solver with the k of a problem, where it has none of its own.

        Args:
            problem: as given to the solver: its `k` counts the `guard`.

        Raises:
            InputError: the problem is of another kind than `kinds`.
        """
        kind = kind_of(problem)
        if self.kinds and kind is not None and kind not in self.kinds:
            raise InputError(
                f"`eigensolver(solvers.{self.name}(...), {kind}(...))`: a problem of a kind that "
                f"the solver solves, {' or '.join(self.kinds)}; got `{kind}`. The table of the "
                "page Solvers of the documentation names those that solve it."
            )
        if self.k is not None:
            return self
        solver = copy.copy(self)
        solver.k = problem.k
        return solver


class Answer(tuple):
    """Values and vectors, as a tuple, with figures of the run."""

    figures: dict[str, int]

    def __new__(cls, parts: Iterable[Any], figures: dict[str, int]) -> "Answer":
        """Return the parts as a tuple with these figures."""
        answer = super().__new__(cls, parts)
        answer.figures = figures
        return answer


def kind_of(problem: Any) -> str | None:
    """Return the name of the kind of a problem; `None` for a kind of the user's own."""
    names = [base.__name__ for base in type(problem).__mro__]
    return next((kind for kind in KINDS if kind in names), None)


def start_vectors(name: str, start: Any, n: int, dtype: Any) -> np.ndarray | None:
    """Return the vectors of a start, shape (n, m), in a solver's dtype; `None` stays.

    Raises:
        InputError: they have another length, or are complex where the operators are real.
    """
    if start is None:
        return None
    X: Any = np.asarray(start.vectors if isinstance(start, Solution) else start)
    X = X[:, None] if X.ndim == 1 else X
    if X.ndim != 2 or len(X) != n or not np.issubdtype(X.dtype, np.number):
        raise InputError(
            f"`solvers.{name}(...)`, `solve(start=...)`: a solution, or vectors of shape ({n},) or "
            f"({n}, m); got {X.dtype} of shape {X.shape}. Give one column for each vector."
        )
    if np.iscomplexobj(X) and not np.issubdtype(dtype, np.complexfloating):
        X = np.hstack([X.real, X.imag])  # they span the space of conjugate pairs, too
    return X.astype(dtype)


def to_array(M: Any) -> Any:
    """Return a sparse matrix as an array, and anything else as it is."""
    return M.toarray() if sp.issparse(M) else M
