"""What goes wrong, by name."""


class ImplicitEigError(Exception):
    """Base of every error that the package raises on purpose.

    Examples:
        >>> from implicit_eig import Hermitian
        >>> try:
        ...     Hermitian(k=0)
        ... except ImplicitEigError as error:
        ...     print(type(error).__name__)
        InputError
    """


class InputError(ImplicitEigError, ValueError):
    """An operator, argument or option does not fit; raised while the call is traced.

    Examples:
        >>> from implicit_eig import Hermitian
        >>> try:
        ...     Hermitian(k=0)
        ... except ValueError as error:  # an `InputError` is one
        ...     print(error)
        `Hermitian(k=...)`: a positive number of pairs; got 0. Give k as an integer.
    """


class EigensolverError(ImplicitEigError, RuntimeError):
    """What the forward solver returned does not satisfy the declared conditions.

    Inside `jax.jit` JAX's runtime delivers it as `jax.errors.JaxRuntimeError` whose text
    contains this error's message.

    Examples:
        >>> import jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> careless = lambda A: (np.array([5.0]), np.array([[1.0], [0.0]]))
        >>> try:
        ...     eigensolver(careless, Hermitian(k=1))(jnp.diag(jnp.array([1.0, 2.0])))
        ... except EigensolverError as error:
        ...     print(str(error).split(";")[0])
        `eigensolver(problem=Hermitian(k=1))`: pairs with A x = λ B x
    """


class LinearSolveError(ImplicitEigError, RuntimeError):
    """The tangent or adjoint system was not solved to the required residual.

    The solve runs inside JAX's runtime, which delivers the error as
    `jax.errors.JaxRuntimeError` whose text contains this error's message.

    Examples:
        >>> import scipy.sparse as sp
        >>> from implicit_eig import factorize
        >>> try:
        ...     factorize(sp.diags_array([1.0, 2.0]), sigma=2.0)
        ... except LinearSolveError as error:
        ...     print(str(error).split(". ")[1])
        Choose a `sigma` that is not an eigenvalue.
    """


class GaugeError(ImplicitEigError, ValueError):
    """A function depends on a phase, or on the basis in a cluster; raised in reverse mode.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Action, Hermitian, Policy, eigensolver
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=2), policy=Policy(gauge=Action.RAISE))
        >>> try:
        ...     jax.grad(lambda A: solve(A).values[0])(jnp.eye(2))  # a double eigenvalue
        ... except Exception as error:  # JAX's own, with the text of a `GaugeError`
        ...     print("a function that treats the values of a cluster alike" in str(error))
        True
    """


class ForwardWarning(UserWarning):
    """`Policy(forward=Action.WARN)` let a forward result pass that fails its check.

    Examples:
        >>> import warnings, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Action, Hermitian, Policy, eigensolver
        >>> careless = lambda A: (np.array([5.0]), np.array([[1.0], [0.0]]))
        >>> solve = eigensolver(careless, Hermitian(k=1), policy=Policy(forward=Action.WARN))
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     values = solve(jnp.diag(jnp.array([1.0, 2.0]))).values
        >>> values.tolist(), caught[0].category.__name__
        ([5.0], 'ForwardWarning')
    """


class TrackingWarning(UserWarning):
    """A branch shares less than half with its predecessor: its mode is lost.

    Examples:
        >>> import warnings, jax.numpy as jnp
        >>> from implicit_eig import Solution, follow
        >>> mode_at = lambda i: Solution(jnp.ones(1), jnp.eye(2)[:, [i]])  # another one at each i
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     overlap = follow(mode_at, [0, 1]).overlap
        >>> overlap.tolist(), caught[0].category.__name__
        ([[1.0], [0.0]], 'TrackingWarning')
    """


class LinearSolveWarning(UserWarning):
    """`Policy(linear_solve=Action.WARN)` let an unconverged solve pass.

    Examples:
        >>> import warnings, jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import MINRES, Action, Hermitian, Policy, eigensolver
        >>> policy, few = Policy(linear_solve=Action.WARN), MINRES(max_steps=1)
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=1), linear_solver=few, policy=policy)
        >>> A = jnp.array([[1.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 7.0]])
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     gradient = jax.grad(lambda A: solve(A).vectors[0, 0] ** 2)(A)
        >>> caught[0].category.__name__
        'LinearSolveWarning'
    """


class ClusterWarning(UserWarning):
    """`Policy(cluster=Action.WARN)` let a cluster pass that k cuts.

    Examples:
        >>> import warnings, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Action, Hermitian, Policy, eigensolver
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=1), policy=Policy(cluster=Action.WARN))
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     values = solve(jnp.diag(jnp.array([1.0, 1.0, 2.0]))).values  # 1 is double
        >>> caught[0].category.__name__
        'ClusterWarning'
    """


class GaugeWarning(UserWarning):
    """A function depends on a phase, or on the basis in a cluster: it has no derivative.

    Examples:
        >>> import warnings, jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, eigensolver
        >>> solve = eigensolver(np.linalg.eigh, Hermitian(k=2))
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     gradient = jax.grad(lambda A: solve(A).values[0])(jnp.eye(2))  # a double eigenvalue
        >>> caught[0].category.__name__
        'GaugeWarning'
    """


class ExceptionalPointWarning(UserWarning):
    """A value is so ill-conditioned that its derivatives mean little.

    Examples:
        >>> import warnings, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import General, eigensolver
        >>> x, y = np.array([[1.0], [0.0]]), np.array([[1.0], [-1e4]])  # |yᴴx| / ‖x‖‖y‖ is 1e-4
        >>> solve = eigensolver(lambda A: (np.ones(1), x, y), General(k=1))
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     values = solve(jnp.array([[1.0, 1e4], [0.0, 2.0]], jnp.float32)).values
        >>> caught[0].category.__name__
        'ExceptionalPointWarning'
    """


class HostCallWarning(UserWarning):
    """A derivative by finite differences calls host code some hundred times or more.

    Examples:
        >>> import warnings, jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import host_function
        >>> total = host_function(lambda p: p.sum(), like=lambda p: p[0])  # no `vjp` is given
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     gradient = jax.grad(total)(jnp.ones(300))  # takes 600 calls
        >>> caught[0].category.__name__
        'HostCallWarning'
    """
