"""The forward solve: call the user's solver, and read its output."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from . import host
from ._errors import EigensolverError, InputError
from .checks.guard import nearest_beyond
from .checks.policy import Action, Policy
from .checks.repeated import Answers
from .host import Traceable, holds_numbers, refuse_jax
from .host.reverse_communication import converse
from .operators import is_dense
from .operators.structured import columns, restored, structures_of
from .operators.views import remote
from .problems._abstract import AbstractProblem, Operators
from .solution import Solution
from .solvers._abstract import AbstractForwardSolver

REQUIREMENT = "`eigensolver(solver=...)`: the solver must return "


class Call(eqx.Module):
    """What one call gives to the solver besides its operators; none of it is differentiated.

    Attributes:
        arguments: they take the place of the operators, unless they are `None`.
        options: by name.
        structures: of right and left vectors, where they are not (n,).
    """

    arguments: tuple[Any, ...] | None = None
    options: tuple[tuple[str, Any], ...] = ()
    structures: Any = None

    @classmethod
    def of(
        cls,
        solver: Any,
        operators: tuple,
        arguments: tuple | None,
        options: dict[str, Any],
        batched: bool,
    ) -> "Call":
        """Return the call, if the solver takes these options."""
        if options and batched:
            raise InputError(
                f"`solve({next(iter(options))}=...)`: a solver of single matrices; got one with "
                "`batched=True`. Leave that out."
            )
        takes = _parameters(solver)
        for name in options:
            if takes is not None and name not in takes:
                raise InputError(
                    f"`solve({name}=...)`: a solver that takes `{name}`; got one that takes "
                    f"{', '.join(takes) or 'no options'}. Leave it out, or give the solver an "
                    f"argument of this name, `def solver(A, *, {name}=None)`."
                )
        taken = tuple((name, _as_option(value)) for name, value in options.items())
        call = cls(host.as_jax(arguments), taken, structures_of(operators))
        return jax.tree.map(lambda x: lax.stop_gradient(x) if eqx.is_array(x) else x, call)

    def shaped(self, solution: Solution) -> Solution:
        """Return the solution with vectors in the structure that the operators act on."""
        if self.structures is None:
            return solution
        right, left = self.structures
        vectors = restored(solution.vectors, right)
        left_vectors = restored(solution.left_vectors, left)
        return dataclasses.replace(solution, vectors=vectors, left_vectors=left_vectors)


def _parameters(solver: Any) -> list[str] | None:
    """Return the names of the arguments that a solver takes; `None` for any, or if not known."""
    try:
        found = inspect.signature(solver.fn if isinstance(solver, Traceable) else solver).parameters
    except ValueError:  # of functions in C
        return None
    if any(p.kind is p.VAR_KEYWORD for p in found.values()):
        return None
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, p in found.items() if p.kind in named]


def _as_option(value: Any) -> Any:
    """Return an option with JAX arrays; a solution without the figures of its run."""
    if isinstance(value, Solution):
        X, Y = value.vectors, value.left_vectors
        value = Solution(value.values, columns(X), None if Y is None else columns(Y))
    number = isinstance(value, (float, complex, np.generic))
    return jnp.asarray(value) if number else host.as_jax(value)


def run_solver(
    solver: Callable[..., Any],
    problem: AbstractProblem,
    operators: Operators,
    policy: Policy,
    batched: bool,
    call: Call,
) -> Solution:
    """Return the eigenpairs that the solver finds, as it returns them."""
    like = problem.structure(operators)
    integer = jax.ShapeDtypeStruct((), jnp.int32)
    names = solver.figures if isinstance(solver, AbstractForwardSolver) else ()
    like = dataclasses.replace(like, stats=dict.fromkeys(names, integer), _rest=like.values)
    if batched:
        _check_stacks(solver, operators)
    if isinstance(solver, Traceable):
        given = problem.traced_views(operators) if call.arguments is None else call.arguments
        return _parse(solver.fn(*given, **dict(call.options)), like, jnp)
    given, products = (), ()
    if call.arguments is None:
        given, products = remote(operators, problem.is_hermitian)
    arrays, static = eqx.partition((given, call), eqx.is_array)
    code = _HostSolver(solver, problem, static, like, policy, Answers())
    if batched:
        return host.call(code, like, arrays, vmap_method="broadcast_all")
    return converse(code, like, products, arrays)


def _check_stacks(solver: Callable[..., Any], operators: Operators) -> None:
    if isinstance(solver, Traceable):
        found = "a `traceable` one, which `jax.vmap` batches"
    elif all(map(is_dense, operators)):
        return
    else:
        found = ", ".join(type(operator).__name__ for operator in operators)
    raise InputError(
        "`eigensolver(batched=True)`: a host solver of dense arrays, which takes stacks of them; "
        f"got {found}. Leave `batched` out."
    )


class _HostSolver(eqx.Module):
    solver: Callable[..., Any] = eqx.field(static=True)
    problem: AbstractProblem
    static: tuple[Operators, Call]
    like: Solution
    policy: Policy = eqx.field(static=True)
    answers: Answers = eqx.field(static=True)

    @property
    def forgiving(self) -> bool:
        return self.policy.forward is Action.NAN

    def __call__(self, arrays: Any) -> Solution:
        answer = self._answer(arrays)
        if self.answers.accept(arrays, answer.values, answer.vectors, self.policy):
            return answer
        return jax.tree.map(lambda leaf: host.nothing(leaf.shape, leaf.dtype), answer)

    def _answer(self, arrays: Any) -> Solution:
        operators, call = eqx.combine(arrays, self.static)
        solver = self.solver
        if self.forgiving:  # errors that the solver raises become NaN, but not a wrong output
            solver = host.Forgiving(solver, (self.like.values, self.like.vectors))
        if call.arguments is not None:
            return _parse(solver(*call.arguments, **dict(call.options)), self.like, np)
        views = self.problem.host_views(operators)
        stack = views[0].shape[:-2] if isinstance(views[0], np.ndarray) else ()
        if stack:
            return self._of_stack(solver, views, stack)
        return _parse(solver(*views, **dict(call.options)), self.like, np)

    def _of_stack(self, solver: Any, views: tuple, stack: tuple[int, ...]) -> Solution:
        """Return the eigenpairs of stacked matrices, by one call of the solver if that succeeds."""
        members = list(np.ndindex(stack))
        try:
            answer = self.solver(*views)
        except host.FAILURES:
            if not self.forgiving:
                raise
            # one member after another, so that only those that fail become NaN
            answers = [_parts(solver(*(view[i] for view in views)), np) for i in members]
        else:
            parts = _parts(answer, np)
            if any(part.shape[: len(stack)] != stack for part in parts):
                raise EigensolverError(
                    "`eigensolver(batched=True)`: a solver of stacks, whose answer has the leading "
                    f"axes of its argument, {stack}; got arrays of shapes "
                    f"{', '.join(str(part.shape) for part in parts)}. Leave `batched` out."
                )
            answers = [[part[i] for part in parts] for i in members]
        stats = _stats(self.like, {})
        found = [
            dataclasses.replace(_read(answer, self.like, np), stats=stats) for answer in answers
        ]
        return jax.tree.map(lambda *leaves: np.reshape(leaves, stack + leaves[0].shape), *found)


def _parse(answer: Any, like: Solution, xp: Any) -> Solution:
    stats = _stats(like, getattr(answer, "figures", {}))
    return dataclasses.replace(_read(_parts(answer, xp), like, xp), stats=stats)


def _stats(like: Solution, figures: dict[str, int]) -> dict[str, np.ndarray]:
    """Return the figures of a run in the form of `like`, those that it does not give as −1."""
    unknown = host.nothing((), np.int32)
    return {name: np.asarray(figures.get(name, unknown), np.int32) for name in like.stats}


def _parts(answer: Any, xp: Any) -> list:
    """Return the arrays in a solver's output."""
    if not isinstance(answer, (tuple, list)) or not 2 <= len(answer) <= 3:
        found = type(answer).__name__
        if isinstance(answer, (tuple, list)):
            found = f"a {found} of {len(answer)}"
        raise EigensolverError(
            f"{REQUIREMENT}(values, vectors); got {found}. Wrap it: `lambda A: (values, vectors)`."
        )
    parts = [xp.asarray(refuse_jax(part) if xp is np else part) for part in answer]
    if strange := [part.dtype for part in parts if not holds_numbers(part)]:
        raise EigensolverError(
            f"{REQUIREMENT}arrays of numbers; got an array of dtype {strange[0]}. Convert it, "
            "`array.astype(float)`, and return arrays rather than sparse matrices."
        )
    return parts


def _read(given: list, like: Solution, xp: Any) -> Solution:
    """Return the arrays of an output as the eigenpairs that `like` describes, or raise an error.

    Left vectors that `like` has and the solver does not return are set to zero.
    """
    k, values = like.values.shape[0], given[0]
    for name, found, expected in zip(
        ("vectors", "left_vectors"), given[1:], (like.vectors, like.left_vectors), strict=False
    ):
        n = (like.vectors if expected is None else expected).shape[0]
        if values.ndim != 1 or found.ndim != 2 or found.shape != (n, values.shape[0]):
            raise EigensolverError(
                f"{REQUIREMENT}values (k,) and {name} (n, k) = ({n}, {k}), one column for each "
                f"value; got shapes {values.shape} and {found.shape}. Transpose the vectors, or "
                "unpack the solver's answer in another order."
            )
    if values.shape[0] < k:
        raise EigensolverError(
            f"{REQUIREMENT}at least k = {k} pairs; got {values.shape[0]}. Ask the solver for more, "
            "or declare a smaller k."
        )
    left = None
    if like.left_vectors is not None:
        structure = like.left_vectors
        if len(given) == 3:
            left = _cast("left_vectors", given[2][:, :k], structure.dtype, xp)
        else:
            left = xp.zeros(structure.shape, structure.dtype)
    dtype, rest = like.values.dtype, None
    # only a run of a host solver shows how many eigenpairs it returns
    if xp is np or values.shape[0] > k:
        rest = nearest_beyond(values, k, xp)
        real = xp.iscomplexobj(rest) and not jnp.issubdtype(dtype, jnp.complexfloating)
        rest = (rest.real if real else rest).astype(dtype)
    return Solution(
        _cast("values", values[:k], dtype, xp),
        _cast("vectors", given[1][:, :k], like.vectors.dtype, xp),
        left,
        _rest=rest,
    )


def _cast(name: str, found: Any, dtype: Any, xp: Any) -> Any:
    if xp.iscomplexobj(found) and not jnp.issubdtype(dtype, jnp.complexfloating):
        if xp is jnp or np.any(np.abs(found.imag) > np.sqrt(np.finfo(dtype).eps) * np.abs(found)):
            raise EigensolverError(
                f"`eigensolver(solver=...)`: the solver must return real {name} here; got "
                f"{found.dtype}. Take their real part if they are real, give complex operators "
                "if the vectors are complex, or declare the problem that it is."
            )
        found = found.real
    return found.astype(dtype)
