"""Compare solvers and functions by their parts, so that equal ones share a compiled program."""

import hashlib
from typing import Any

import equinox as eqx
import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


class Alike:
    """Compare by type and attributes: arrays by entries, unhashable objects by identity."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and _key(vars(self)) == _key(vars(other))

    def __hash__(self) -> int:
        return hash((type(self), _key(vars(self))))


class Steps:
    """The operations of a function as traced by JAX; equal to other `Steps` of equal operations.

    Two functions with the same source are different objects, and so are their traces. The rules
    of a `custom_jvp` in them are compared by their own operations, other rules by identity.
    """

    def __init__(self, jaxpr: jex.Jaxpr):
        self.jaxpr = jaxpr
        self.key = _described(jaxpr)
        self.hash = hash(self.key)

    def __call__(self, constants: list[Array], *args: Array) -> list[Array]:
        """Return the results."""
        # a result may be a number that stands in the steps
        return list(
            map(jnp.asarray, jex.jaxpr_as_fun(jex.ClosedJaxpr(self.jaxpr, constants))(*args))
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Steps) and self.hash == other.hash and self.key == other.key

    def __hash__(self) -> int:
        return self.hash


class Traced(eqx.Module):
    """A function of one array in steps that can be compared, and the arrays in it."""

    steps: Steps = eqx.field(static=True)
    arrays: list[Array]

    def __call__(self, x: Array) -> Array:
        return self.steps(self.arrays, x)[0]


# Rules are compared up to derivatives of this order: most of them call their own function again.
ORDERS = 3
ASSUMED = "alike"


def _described(jaxpr: jex.Jaxpr, depth: int = 0) -> tuple:
    """Return the operations with variables replaced by numbers."""
    numbers: dict[Any, int] = {}

    def named(var: Any) -> tuple:
        return numbers.setdefault(var, len(numbers)), var.aval

    def read(atom: Any) -> tuple:
        return named(atom) if isinstance(atom, jex.Var) else (_key(np.asarray(atom.val)), atom.aval)

    inputs = tuple(map(named, [*jaxpr.constvars, *jaxpr.invars]))
    steps = []
    for step in jaxpr.eqns:
        params, shapes = dict(step.params), [_shape(var) for var in step.invars]
        real = all(jnp.issubdtype(shape.dtype, jnp.inexact) for shape in shapes)
        if step.primitive.name == "custom_jvp_call" and real:
            rule = _rule(jaxpr, step) if depth < ORDERS else ASSUMED
            if rule is not None:
                params = {key: part for key, part in params.items() if not key.startswith("jvp_")}
                params["rule"] = _key(rule, depth + 1)
        ends = tuple(map(read, step.invars)), tuple(map(named, step.outvars))
        steps.append((step.primitive, _key(params, depth), *ends))
    return inputs, tuple(steps), tuple(map(read, jaxpr.outvars))


def _rule(jaxpr: jex.Jaxpr, step: jex.JaxprEqn) -> jex.ClosedJaxpr | None:
    """Return the operations of the derivative of one step, `None` for a rule that refuses."""
    inputs = list(dict.fromkeys(var for var in step.invars if isinstance(var, jex.Var)))
    alone = jaxpr.replace(constvars=[], invars=inputs, outvars=step.outvars, eqns=[step])
    fn = jex.jaxpr_as_fun(jex.ClosedJaxpr(alone, []))
    shapes = list(map(_shape, inputs))
    try:
        return jax.make_jaxpr(lambda x, x_dot: jax.jvp(fn, x, x_dot))(shapes, shapes)
    except Exception:  # of any kind, because the rule is the user's
        return None


def _shape(var: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype)


class _Same:
    """An object that equals only itself; kept alive, so that its address is not reused."""

    def __init__(self, part: Any):
        self.part = part

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.part is other.part

    def __hash__(self) -> int:
        return id(self.part)


def _key(part: Any, depth: int = 0) -> Any:
    """Return a hashable object that is equal for parts that compute the same."""
    if isinstance(part, dict):
        return tuple((name, _key(part[name], depth)) for name in sorted(part))
    if isinstance(part, (tuple, list)):
        return tuple(_key(each, depth) for each in part)
    if isinstance(part, jex.Jaxpr):
        return _described(part, depth)
    if isinstance(part, jex.ClosedJaxpr):
        return _described(part.jaxpr, depth), tuple(map(_Same, part.consts))
    if isinstance(part, np.ndarray):
        digest = hashlib.blake2b(np.ascontiguousarray(part).tobytes()).digest()
        return part.shape, part.dtype.str, digest
    try:
        hash(part)
    except TypeError:
        return _Same(part)
    # equal numbers of different types, such as 1 and 1.0, may promote others differently
    return type(part), part
