"""The exceptions and warnings of the package."""


class ImplicitEigError(Exception):
    """The base class of every error that the package raises on purpose.

    Examples:
        >>> from implicit_eig import Hermitian
        >>> try:
        ...     Hermitian(k=0)
        ... except ImplicitEigError as error:
        ...     print(type(error).__name__)
        InputError
    """


class InputError(ImplicitEigError, ValueError):
    """Raised, while a call is traced, where an operator, argument or option does not fit.

    Examples:
        >>> from implicit_eig import Hermitian
        >>> try:
        ...     Hermitian(k=0)
        ... except ValueError as error:  # an `InputError` is one
        ...     print(error)
        `Hermitian(k=...)`: a positive number of pairs; got 0. Give k as an integer.
    """


class EigensolverError(ImplicitEigError, RuntimeError):
    """Raised where the solver's answer does not satisfy the declared conditions.

    Inside `jax.jit` JAX's runtime delivers it as a `jax.errors.JaxRuntimeError` whose text
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
    """Raised where a tangent or adjoint system was not solved to the required residual.

    The solve runs inside JAX's runtime, which delivers the error as a
    `jax.errors.JaxRuntimeError` whose text contains this error's message.

    Examples:
        >>> import scipy.sparse as sp
        >>> from implicit_eig import factorize
        >>> try:
        ...     factorize(sp.diags_array([1.0, 2.0]), sigma=2.0)
        ... except LinearSolveError as error:
        ...     print(str(error).split(". ")[1])
        A − σB is singular where `sigma` is an eigenvalue: choose another
    """


class GaugeError(ImplicitEigError, ValueError):
    """Raised, in reverse mode, where a function depends on a phase or on the basis of a cluster.

    JAX's runtime delivers it as a `jax.errors.JaxRuntimeError` whose text contains this error's
    message.

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
    """Issued under `Policy(forward=Action.WARN)` where the solver's answer fails its check.

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
    """Issued where a branch overlaps its predecessor by less than 1/2, so that its mode is lost.

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
    """Issued where a linear solve did not converge, and its result or another solver's is used.

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
    """Issued under `Policy(cluster=Action.WARN)` where k takes only a part of a cluster.

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
    """Issued where a function depends on a phase or on a cluster's basis: it has no derivative.

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
    """Issued where an eigenvalue is so ill-conditioned that its derivatives mean little.

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
    """Issued where a derivative by finite differences calls host code some hundred times or more.

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
