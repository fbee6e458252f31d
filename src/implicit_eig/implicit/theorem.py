"""The implicit function theorem, in one form for all problems.

A solver finds z with F(z, θ) = 0. Wherever ∂F/∂z is invertible, z depends smoothly on θ, with

    ∂F/∂z · ż = −∂F/∂θ · θ̇.

This is a JVP rule: linear in θ̇, and made of JAX operations and a linear solve that JAX can
transpose. So it serves both modes. As z in it is again the result of the same differentiable
function, it serves derivatives of every order.
"""

import abc

import equinox as eqx
import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import PyTree

from .._compiled import compiled, full_precision
from .._tangents import arrays_where_moving, jvp_at

# What a solver finds has this name for the policies of `jax.checkpoint`.
NAME = "implicit_eig"


class AbstractRoot(eqx.Module):
    """A solver and the conditions that its solution satisfies."""

    @abc.abstractmethod
    def find(self, theta: PyTree) -> tuple[PyTree, PyTree]:
        """Return z with F(z, θ) = 0, and auxiliary output; never differentiated."""

    @abc.abstractmethod
    def residual(self, z: PyTree, theta: PyTree) -> PyTree:
        """Return F(z, θ)."""

    @abc.abstractmethod
    def solve_linearised(self, z: PyTree, theta: PyTree, residual_dot: PyTree) -> PyTree:
        """Return ż with ∂F/∂z · ż = −residual_dot."""

    def watch(self, z: PyTree, z_dot: PyTree) -> PyTree:
        """Return ż, if required with a check of the cotangents that pass back through it."""
        return z_dot


@eqx.filter_custom_jvp
@full_precision
def _find(theta: PyTree, *, root: AbstractRoot) -> tuple[PyTree, PyTree]:
    return root.find(theta)


@_find.def_jvp
def _find_jvp(
    primals: tuple[PyTree], tangents: tuple[PyTree], *, root: AbstractRoot
) -> tuple[tuple[PyTree, PyTree], tuple[PyTree, PyTree]]:
    (theta,), (theta_dot,) = primals, tangents
    theta = arrays_where_moving(theta, theta_dot)
    z, aux = _find(theta, root=root)
    z = checkpoint_name(z, NAME)
    z_dot = _tangent(root, z, theta, theta_dot)
    return (z, aux), (z_dot, jax.tree.map(lambda _: None, aux))


# Compiled as one program: outside `jit` the first gradient would otherwise spend its time compiling
# some eighty single operations.
@compiled
def _tangent(root: AbstractRoot, z: PyTree, theta: PyTree, theta_dot: PyTree) -> PyTree:
    residual_dot = jvp_at(lambda t: root.residual(z, t), theta, theta_dot)
    return root.watch(z, root.solve_linearised(z, theta, residual_dot))


def find_root(root: AbstractRoot, theta: PyTree) -> tuple[PyTree, PyTree]:
    """Return z with F(z, θ) = 0 and auxiliary output; differentiable in the arrays of `theta`.

    The arrays that `root` itself holds (a preconditioner, say) carry no derivative.
    """
    arrays, static = eqx.partition(root, eqx.is_array)
    root = eqx.combine(lax.stop_gradient(arrays), static)
    z, aux = _find(theta, root=root)
    return z, jax.tree.map(lambda x: lax.stop_gradient(x) if eqx.is_array(x) else x, aux)
