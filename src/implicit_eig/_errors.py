"""What goes wrong, by name."""


class ImplicitEigError(Exception):
    """Base of every error that the package raises on purpose."""


class InputError(ImplicitEigError, ValueError):
    """An operator, argument or option does not fit; raised while the call is traced."""


class EigensolverError(ImplicitEigError, RuntimeError):
    """What the forward solver returned does not satisfy the declared conditions.

    Inside `jax.jit` JAX's runtime delivers it as `jax.errors.JaxRuntimeError` whose text
    contains this error's message.
    """


class LinearSolveError(ImplicitEigError, RuntimeError):
    """The tangent or adjoint system was not solved to the required residual.

    The solve runs inside JAX's runtime, which delivers the error as
    `jax.errors.JaxRuntimeError` whose text contains this error's message.
    """


class GaugeError(ImplicitEigError, ValueError):
    """A function depends on a phase, or on the basis in a cluster; raised in reverse mode."""


class ForwardWarning(UserWarning):
    """`Policy(forward=Action.WARN)` let a forward result pass that fails its check."""


class TrackingWarning(UserWarning):
    """A branch shares less than half with its predecessor: its mode is lost."""


class LinearSolveWarning(UserWarning):
    """`Policy(linear_solve=Action.WARN)` let an unconverged solve pass."""


class ClusterWarning(UserWarning):
    """`Policy(cluster=Action.WARN)` let a cluster pass that k cuts."""


class GaugeWarning(UserWarning):
    """A function depends on a phase, or on the basis in a cluster: it has no derivative."""


class ExceptionalPointWarning(UserWarning):
    """A value is so ill-conditioned that its derivatives mean little."""


class HostCallWarning(UserWarning):
    """A derivative by finite differences calls host code some hundred times or more."""
