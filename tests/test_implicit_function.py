"""The general tool: any solver, any conditions, both modes, every order."""

import sys
import types

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg
from problems import jax_eigh, jitted, random_definite, random_hermitian

import implicit_eig as ie

X = jnp.asarray(np.random.default_rng(0).standard_normal((20, 4)))
Y = jnp.asarray(np.random.default_rng(1).standard_normal(20))


def ridge(theta, X=X, Y=Y):
    """The oracle: ridge regression in closed form, differentiable by JAX."""
    return jnp.linalg.solve(X.T @ X + theta * jnp.eye(X.shape[1]), X.T @ Y)


def ridge_host(theta, X=X, Y=Y):
    """The same on the host, as automatic differentiation cannot see."""
    assert isinstance(theta, np.ndarray)
    X, Y = np.asarray(X), np.asarray(Y)
    return np.linalg.solve(X.T @ X + theta * np.eye(X.shape[1]), X.T @ Y)


def ridge_conditions(z, theta, X=X, Y=Y):
    return X.T @ (X @ z - Y) + theta * z


def ridge_like(theta, X=X, Y=Y):
    return jax.ShapeDtypeStruct((X.shape[1],), X.dtype)


def agree(f, oracle, x, tol=1e-10):
    """Compare the values and Jacobians of both modes, under `jit`, and in reverse mode without."""
    derivatives = lambda g: jitted(g, jax.jacfwd(g), jax.jacrev(g))(x)
    value, _, jacobian = exact = derivatives(oracle)
    for found, expected in zip(derivatives(f), exact, strict=True):
        assert jnp.max(jnp.abs(found - expected)) < tol
    assert jnp.max(jnp.abs(f(x) - value)) < tol
    assert jnp.max(jnp.abs(jax.jacrev(f)(x) - jacobian)) < tol


@pytest.mark.parametrize("solver", [ridge_host, ie.traceable(ridge)])
def test_both_modes_and_second_order(solver):
    f = ie.implicit_function(solver, ridge_conditions, like=ridge_like)
    theta = jnp.array(2.0)
    agree(f, ridge, theta)
    thetas = jnp.array([1.0, 2.0, 3.0])
    # `jax.hessian` is forward over reverse
    derivatives = lambda g: jitted(
        jax.hessian(g), jax.jacrev(jax.jacrev(g)), lambda _: jax.vmap(jax.jacrev(g))(thetas)
    )(theta)
    for found, expected in zip(derivatives(f), derivatives(ridge), strict=True):
        assert jnp.max(jnp.abs(found - expected)) < 1e-10


def test_many_arguments_and_keywords():
    f = ie.implicit_function(ridge_host, ridge_conditions)
    theta = jnp.array(2.0)
    every = jax.jit(jax.jacrev(ridge, argnums=(0, 1, 2)))(theta, X, Y)
    for i, expected in enumerate(every):
        found = jax.jacrev(f, argnums=i)(theta, X, Y)
        assert jnp.max(jnp.abs(found - expected)) < 1e-10
    by_keyword = jax.jacrev(lambda X: f(theta, X=X, Y=Y))(X)
    assert jnp.max(jnp.abs(by_keyword - every[1])) < 1e-10


def test_arguments_that_are_not_differentiated():
    seen = []

    def solver(a, name, count, options):
        seen.append((name, count, options["deep"][0]))
        return np.sqrt(a) * count

    conditions = lambda z, a, name, count, options: (z / count) ** 2 - a
    f = ie.implicit_function(solver, conditions)
    gradient = jax.grad(lambda a: f(a, "square root", 3, {"deep": [None]}))(jnp.array(4.0))
    assert abs(gradient - 0.75) < 1e-12
    assert seen[0] == ("square root", 3, None)
    integer = jax.grad(lambda a: f(a, "square root", jnp.array(3), {"deep": [None]}))(
        jnp.array(4.0)
    )
    assert abs(integer - 0.75) < 1e-12


def test_pytrees_and_aux():
    def solver(p):
        x = np.sqrt(p["a"])
        return {"x": x, "y": (x + p["b"],)}, {"steps": 7, "norm": np.linalg.norm(x)}

    conditions = lambda z, p: {"one": z["x"] ** 2 - p["a"], "two": z["y"][0] - z["x"] - p["b"]}
    f = ie.implicit_function(solver, conditions, has_aux=True)
    p = {"a": jnp.array([1.0, 4.0]), "b": jnp.array([2.0, 3.0])}
    _, aux = f(p)
    assert aux["steps"] == 7
    (gradient, aux) = jax.grad(lambda p: (jnp.sum(f(p)[0]["y"][0]), f(p)[1]["norm"]), has_aux=True)(
        p
    )
    assert jnp.max(jnp.abs(gradient["a"] - jnp.array([0.5, 0.25]))) < 1e-12
    assert jnp.max(jnp.abs(gradient["b"] - 1)) < 1e-12
    assert abs(aux - jnp.sqrt(5.0)) < 1e-12
    dead = jax.grad(lambda p: f(p)[1]["norm"])(p)
    assert not jnp.any(dead["a"])


def test_holomorphic_or_not():
    """Conditions with a conjugate in them: real and imaginary parts are the unknowns."""

    def solver(a):
        return np.asarray(a) / np.abs(a) ** 2  # z with conj(z) a = 1

    f = ie.implicit_function(solver, lambda z, a: jnp.conj(z) * a - 1)
    exact = lambda a: 1 / jnp.conj(a)
    a = jnp.array([1.0 + 2.0j, -0.5 + 0.3j])
    for turn in (1.0, 1j):
        v = turn * jnp.ones(2, complex)  # real, then imaginary: Cauchy–Riemann fails here
        found, expected = (jax.jvp(g, (a,), (v,))[1] for g in (f, exact))
        assert jnp.max(jnp.abs(found - expected)) < 1e-12
        found, expected = (jax.vjp(g, a)[1](v)[0] for g in (f, exact))
        assert jnp.max(jnp.abs(found - expected)) < 1e-12
    ie.testing.assert_adjoint(f, a, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_eigenproblem_by_hand_equals_hermitian(dtype):
    """The user's own conditions for one pair give what the declared problem gives."""
    n = 8
    A, B = random_hermitian(n, dtype, 0), random_definite(n, dtype, 1)
    D = random_hermitian(n, dtype, 2)

    def solver(A, B):
        values, vectors = (np.asarray(part) for part in jax_eigh(jnp.asarray(A), jnp.asarray(B)))
        return values[0], vectors[:, 0]

    def conditions(z, A, B):
        lam, x = z
        reference = jax.lax.stop_gradient(x)
        inner = jnp.vdot(x, B @ x).real - 1, jnp.vdot(reference, B @ x).imag
        # the phase is a second normalisation where there is one
        pair = A @ x - lam.astype(x.dtype) * (B @ x)
        return (
            (inner[0], pair) if dtype == np.float64 else (inner[0] + 0 * inner[1], pair, inner[1])
        )

    if dtype == np.complex128:
        # n complex + 1 real unknowns, and a phase condition too many: the tool says so
        f = ie.implicit_function(solver, conditions)
        with pytest.raises(ie.InputError, match="18 conditions for 17 unknowns"):
            jax.jvp(lambda A: f(A, B)[0], (A,), (D,))
        return
    f = ie.implicit_function(solver, conditions)
    declared = ie.eigensolver(jax_host, ie.Hermitian(1))
    found = jax.jvp(lambda A: jnp.abs(f(A, B)[1]), (A,), (D,))[1]
    expected = jax.jvp(lambda A: jnp.abs(declared(A, B).vectors[:, 0]), (A,), (D,))[1]
    assert jnp.max(jnp.abs(found - expected)) < 1e-11


def jax_host(A, B):
    return scipy.linalg.eigh(A, B)


@pytest.mark.slow
@pytest.mark.parametrize(
    "linear_solver",
    [
        lx.LU(),
        lx.GMRES(rtol=1e-12, atol=1e-12),
        lx.CG(rtol=1e-12, atol=1e-12),
        ie.linear_solver(jax.scipy.sparse.linalg.bicgstab, tol=1e-12),
        jax.scipy.sparse.linalg.gmres,
        ie.host_linear_solver(np.linalg.solve),
        ie.MINRES(),
    ],
)
def test_linear_solvers(linear_solver):
    f = ie.implicit_function(
        ridge_host, ridge_conditions, linear_solver=linear_solver, like=ridge_like
    )
    tol = 1e-4 if callable(linear_solver) else 1e-9
    agree(f, ridge, jnp.array(2.0), tol)


def test_large_systems_are_not_made_dense():
    n = 5000
    solver = lambda a: np.cbrt(a)
    f = ie.implicit_function(solver, lambda z, a: z**3 - a)
    a = jnp.linspace(1.0, 2.0, n)
    gradient = jax.grad(lambda a: jnp.sum(f(a)))(a)
    assert jnp.max(jnp.abs(gradient - a ** (-2 / 3) / 3)) < 1e-8
    largest = max(
        v.aval.size
        for e in jax.make_jaxpr(
            jax.grad(
                lambda a: jnp.sum(
                    ie.implicit_function(solver, lambda z, a: z**3 - a, like=lambda a: a)(a)
                )
            )
        )(a).jaxpr.eqns
        for v in e.outvars
    )
    assert largest < 300 * n


@jax.custom_vjp
def only_reverse(z):
    return z**3


only_reverse.defvjp(lambda z: (z**3, z), lambda z, bar: (3 * z**2 * bar,))

DERIVATIVES = {
    "forward": (ie.ForwardMode(), lambda z, a: z**3 - jnp.sum(a) * a, 1e-12),
    "reverse": (ie.ReverseMode(), lambda z, a: only_reverse(z) - jnp.sum(a) * a, 1e-12),
    "differences 1": (ie.FiniteDifferences(order=1), lambda z, a: z**3 - jnp.sum(a) * a, 1e-6),
    "differences 2": (ie.FiniteDifferences(), lambda z, a: z**3 - jnp.sum(a) * a, 1e-8),
    "differences 4": (ie.FiniteDifferences(order=4), lambda z, a: z**3 - jnp.sum(a) * a, 1e-10),
    "differences step": (
        ie.FiniteDifferences(step=1e-4),
        lambda z, a: z**3 - jnp.sum(a) * a,
        1e-7,
    ),
    "complex step": (ie.ComplexStep(), lambda z, a: z**3 - jnp.sum(a) * a, 1e-12),
    "products": (
        ie.UserProducts(
            jvp=lambda primals, tangents: (
                3 * primals[0] ** 2 * tangents[0]
                - jnp.sum(tangents[1]) * primals[1]
                - jnp.sum(primals[1]) * tangents[1]
            ),
            vjp=lambda primals, bar: (
                3 * primals[0] ** 2 * bar,
                -jnp.vdot(primals[1], bar) - jnp.sum(primals[1]) * bar,
            ),
        ),
        lambda z, a: jax.lax.stop_gradient(z**3 - jnp.sum(a) * a),
        1e-12,
    ),
    "host conditions": (
        ie.ForwardMode(),
        ie.host_function(lambda z, a: z**3 - np.sum(a) * a, like=lambda z, a: z),
        1e-8,
    ),
    "host conditions by complex step": (
        ie.ComplexStep(),
        ie.host_function(lambda z, a: z**3 - np.sum(a) * a, like=lambda z, a: z),
        1e-12,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(DERIVATIVES))
def test_conditions_derivative(name):
    derivative, conditions, tol = DERIVATIVES[name]
    exact = lambda a: jnp.cbrt(jnp.sum(a) * a)
    solver = lambda a: np.cbrt(np.sum(a) * a)
    f = ie.implicit_function(solver, conditions, conditions_derivative=derivative, like=lambda a: a)
    a = jnp.array([1.0, 2.0, 0.5])
    agree(f, exact, a, 10 * tol)
    mapped = jax.vmap(jax.jacrev(f))(jnp.stack([a, 2 * a]))
    assert jnp.max(jnp.abs(mapped[1] - jax.jacrev(exact)(2 * a))) < 10 * tol
    if name in ("forward", "reverse"):
        plain = lambda z, a: z**3 - jnp.sum(a) * a
        f = ie.implicit_function(solver, plain, conditions_derivative=derivative)
        assert (
            jnp.max(
                jnp.abs(jax.hessian(lambda a: f(a)[0])(a) - jax.hessian(lambda a: exact(a)[0])(a))
            )
            < 1e-10
        )
    else:
        with pytest.raises(
            Exception, match=r"a first derivative; got a second one|not support JVP"
        ):
            jax.hessian(lambda a: f(a)[0])(a)


def test_finite_differences_of_complex_conditions():
    f = ie.implicit_function(
        lambda a: np.conj(a) ** 2,
        lambda z, a: z - jnp.conj(a) ** 2,
        conditions_derivative=ie.FiniteDifferences(),
    )
    a, v = jnp.array([1.0 + 2.0j]), jnp.array([0.3 - 0.7j])
    exact = lambda a: jnp.conj(a) ** 2
    for g in (lambda f: jax.jvp(f, (a,), (v,))[1], lambda f: jax.vjp(f, a)[1](v)[0]):
        assert jnp.max(jnp.abs(g(f) - g(exact))) < 1e-7


class TestRefusals:
    def test_complex_step_of_complex_arguments(self):
        f = ie.implicit_function(
            lambda a: a, lambda z, a: z - a, conditions_derivative=ie.ComplexStep()
        )
        with pytest.raises(ie.InputError, match=r"`ComplexStep\(\)`: real arguments"):
            jax.jvp(f, (jnp.array([1j]),), (jnp.array([1j]),))

    def test_missing_product(self):
        jvp_only = ie.UserProducts(jvp=lambda primals, tangents: tangents[0] - tangents[1])
        f = ie.implicit_function(lambda a: a, lambda z, a: z - a, conditions_derivative=jvp_only)
        assert jax.jvp(f, (jnp.array(1.0),), (jnp.array(2.0),))[1] == 2
        with pytest.raises(
            jax.errors.JaxRuntimeError, match=r"a product `vjp` for this derivative"
        ):
            jax.block_until_ready(jax.grad(f)(jnp.array(1.0)))

    def test_derivative_of_a_keyword_with_products(self):
        f = ie.implicit_function(
            lambda a, b: a * b,
            lambda z, a, b: z - a * b,
            conditions_derivative=ie.FiniteDifferences(),
        )
        with pytest.raises(ie.InputError, match=r"Pass it by position"):
            jax.grad(lambda b: f(jnp.array(2.0), b=b))(jnp.array(1.0))

    def test_order(self):
        with pytest.raises(ie.InputError, match=r"one of \[1, 2, 4\]; got 3"):
            ie.FiniteDifferences(order=3)

    def test_host_solver_under_jit_without_shapes(self):
        f = ie.implicit_function(np.sqrt, lambda z, a: z**2 - a)
        with pytest.raises(ie.InputError, match=r"`implicit_function\(like=...\)`"):
            jax.jit(f)(jnp.array(4.0))

    def test_count_of_conditions(self):
        f = ie.implicit_function(lambda a: a, lambda z, a: jnp.stack([z - a, z - a]))
        with pytest.raises(ie.InputError, match=r"2 conditions for 1 unknowns"):
            jax.grad(f)(jnp.array(4.0))

    def test_integer_solution(self):
        f = ie.implicit_function(lambda a: np.array(2), lambda z, a: z - a)
        with pytest.raises(ie.InputError, match=r"a solution of floating-point arrays"):
            f(jnp.array(2.0))

    def test_no_aux(self):
        f = ie.implicit_function(np.sqrt, lambda z, a: z**2 - a, has_aux=True)
        with pytest.raises(ie.InputError, match=r"a solver that returns \(z, aux\)"):
            f(jnp.array(2.0))

    def test_wrong_solution(self):
        f = ie.implicit_function(lambda a: np.sqrt(a) + 1e-3, lambda z, a: z**2 - a)
        with pytest.raises(ie.EigensolverError, match=r"a solution of conditions\(z, \*args\) = 0"):
            f(jnp.array(4.0))
        loose = ie.implicit_function(
            lambda a: np.sqrt(a) + 1e-3, lambda z, a: z**2 - a, policy=ie.Policy(residual_rtol=1e-2)
        )
        assert loose(jnp.array(4.0)) > 2

    def test_solution_that_is_not_finite(self):
        f = ie.implicit_function(lambda a: a * np.nan, lambda z, a: z**2 - a)
        with pytest.raises(ie.EigensolverError, match=r"a finite solution"):
            f(jnp.array(4.0))

    def test_singular_jacobian(self):
        f = ie.implicit_function(lambda a: 0 * a, lambda z, a: z**2 * a)
        with pytest.raises(jax.errors.JaxRuntimeError, match=r"relative residual"):
            jax.block_until_ready(jax.grad(f)(jnp.array(1.0)))

    def test_exception_of_the_solver(self):
        def broken(a):
            raise FloatingPointError("diverged in step 12")

        f = ie.implicit_function(broken, lambda z, a: z - a, like=lambda a: a)
        with pytest.raises(FloatingPointError, match="diverged in step 12"):
            f(jnp.array(1.0))
        with pytest.raises(jax.errors.JaxRuntimeError, match="diverged in step 12"):
            jax.block_until_ready(jax.jit(f)(jnp.array(1.0)))


class TestHostFunction:
    """A host assembly as a JAX function."""

    def assembly(self, p):
        assert isinstance(p, np.ndarray)
        return {"data": np.outer(p, p), "trace": np.sum(p**2)}

    LIKE = staticmethod(
        lambda p: {
            "data": jax.ShapeDtypeStruct((p.size, p.size), p.dtype),
            "trace": jax.ShapeDtypeStruct((), p.dtype),
        }
    )

    @staticmethod
    def oracle(p):
        return {"data": p[:, None] * p[None, :], "trace": jnp.sum(p**2)}

    @staticmethod
    def jvp(primals, tangents):
        (p,), (v,) = primals, tangents
        return {"data": np.outer(p, v) + np.outer(v, p), "trace": 2 * p @ v}

    @staticmethod
    def vjp(primals, bar):
        (p,) = primals
        return ((bar["data"] + bar["data"].T) @ p + 2 * bar["trace"] * p,)

    @pytest.mark.parametrize("products", [False, True])
    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    def test_derivatives(self, products, dtype):
        options = {"jvp": self.jvp, "vjp": self.vjp} if products else {}
        f = ie.host_function(self.assembly, self.LIKE, **options)
        p = jnp.array([1.0, 2.0, 3.0], dtype)
        eps = float(np.finfo(dtype).eps)
        tol = 100 * (eps if products else eps ** (2 / 3))
        for transform in (jax.jacfwd, jax.jacrev, lambda g: jax.jit(jax.jacrev(g))):
            found, expected = transform(f)(p), transform(self.oracle)(p)
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                assert a.dtype == dtype
                assert jnp.max(jnp.abs(a - b)) < tol
        mapped = jax.vmap(jax.grad(lambda p: f(p)["trace"]))(jnp.stack([p, 2 * p]))
        assert jnp.max(jnp.abs(mapped[1] - 4 * p)) < tol

    def test_one_product_refuses_the_other_mode(self):
        p = jnp.array([1.0, 2.0])
        forward = ie.host_function(self.assembly, self.LIKE, jvp=self.jvp)
        assert jax.jvp(lambda p: forward(p)["trace"], (p,), (p,))[1] == 10
        with pytest.raises(
            jax.errors.JaxRuntimeError, match=r"a product `vjp` for this derivative"
        ):
            jax.block_until_ready(jax.grad(lambda p: forward(p)["trace"])(p))
        reverse = ie.host_function(self.assembly, self.LIKE, vjp=self.vjp)
        assert jnp.array_equal(jax.grad(lambda p: reverse(p)["trace"])(p), 2 * p)
        with pytest.raises(
            jax.errors.JaxRuntimeError, match=r"a product `jvp` for this derivative"
        ):
            jax.block_until_ready(jax.jvp(lambda p: reverse(p)["trace"], (p,), (p,)))

    def test_second_derivative_is_refused(self):
        f = ie.host_function(self.assembly, self.LIKE, jvp=self.jvp, vjp=self.vjp)
        with pytest.raises(Exception, match=r"a first derivative; got a second one"):
            jax.hessian(lambda p: f(p)["trace"])(jnp.array([1.0, 2.0]))

    def test_one_product_of_the_assembly_for_all_parameters(self):
        """dλ/dp = xᴴ(∂A/∂p)x with one call of the host's vjp."""
        calls = []

        def counted(primals, bar):
            calls.append(1)
            return self.vjp(primals, bar)

        f = ie.host_function(self.assembly, self.LIKE, jvp=self.jvp, vjp=counted)
        solve = ie.eigensolver(top, ie.Hermitian(1))
        p = jnp.array([1.0, 2.0, 3.0])
        gradient = jax.grad(lambda p: solve(f(p)["data"]).values[0])(p)
        assert jnp.max(jnp.abs(gradient - 2 * p)) < 1e-12
        assert len(calls) == 1


def top(A):
    values, vectors = np.linalg.eigh(A)
    return values[-1:], vectors[:, -1:]


class TestHostBorder:
    """What crosses the border to host code is checked and copied."""

    def test_a_reused_buffer_of_the_solver(self):
        raw = np.zeros(64 + 8)
        start = (-raw.ctypes.data % 64) // 8
        buffer = raw[start : start + 64]  # aligned, as JAX wants it to share memory

        def solver(a):
            buffer[:] = np.sqrt(a)
            return buffer

        for like in (None, lambda a: a):
            f = ie.implicit_function(solver, lambda z, a: z**2 - a, like=like)
            first = f(jnp.full(64, 4.0))
            f(jnp.full(64, 9.0))
            assert first[0] == 2

    @pytest.mark.parametrize(
        ("result", "match"),
        [
            (np.zeros(3), r"with shapes \[\(3,\)\] from the code"),
            ((np.zeros(2), np.zeros(2)), r"structure and shapes of what the host code returns"),
            (np.zeros(2) + 1j, r"Declare it complex"),
        ],
    )
    def test_what_differs_from_the_declaration(self, result, match):
        f = ie.host_function(lambda p: result, like=lambda p: p)
        with pytest.raises(ie.InputError, match=match):
            f(jnp.zeros(2))
        with pytest.raises(jax.errors.JaxRuntimeError, match=match):
            jax.block_until_ready(jax.jit(f)(jnp.zeros(2)))

    def test_python_floats(self):
        assert abs(jax.grad(ie.host_function(np.sin, lambda p: p))(1.0) - np.cos(1.0)) < 1e-9
        f = ie.implicit_function(np.sqrt, lambda z, a: z**2 - a)
        assert abs(jax.grad(f)(4.0) - 0.25) < 1e-12

    def test_arguments_without_a_cotangent(self):
        f = ie.host_function(
            lambda p, count, name: count * p,
            like=lambda p, count, name: p,
            vjp=lambda primals, bar: (primals[1] * bar, None, None),
            jvp=lambda primals, tangents: primals[1] * tangents[0],
        )
        g = lambda p: f(p, jnp.array(3), "name")
        assert jax.grad(g)(jnp.array(2.0)) == 3
        assert jax.jvp(g, (2.0,), (1.0,))[1] == 3

    def test_cotangents_of_any_size(self):
        f = ie.host_function(
            np.copy,
            like=lambda p: p,
            jvp=lambda primals, tangents: tangents[0],
            vjp=lambda primals, bar: (bar,),
        )
        assert jax.vjp(f, jnp.array([1.0]))[1](jnp.array([1e39]))[0][0] == 1e39

    @pytest.mark.parametrize("unit", [1e-22, 1e22])
    def test_a_wrong_solution_in_any_unit(self, unit):
        a = jnp.array([4.0, 4.0], np.float32)
        f = ie.implicit_function(
            lambda a: a * 0 + np.float32(1.5), lambda z, a: (z**2 - a) * np.float32(unit)
        )
        with pytest.raises(ie.EigensolverError, match="a solution of conditions"):
            f(a)

    def test_aux_of_text(self):
        f = ie.implicit_function(lambda a: (a, {"report": "ok"}), lambda z, a: z - a, has_aux=True)
        with pytest.raises(ie.InputError, match="auxiliary output of numbers and arrays"):
            f(jnp.array(1.0))

    def test_sparse_direct_is_refused(self):
        with pytest.raises(ie.InputError, match="one that factorises a sparse matrix"):
            ie.implicit_function(np.sqrt, np.sqrt, linear_solver=ie.SparseDirect())


class TestHostDifferences:
    """`host_function` without products."""

    @staticmethod
    def quadratic(n, buffer=False):
        kept, calls = np.zeros(()), []

        def fn(p, q):
            calls.append(1)
            value = np.sum(p**3) * q["a"]
            if not buffer:
                return value
            kept[...] = value
            return kept

        return ie.host_function(fn, like=lambda p, q: q["a"]), calls

    @pytest.mark.parametrize("buffer", [False, True])
    def test_calls_are_counted_for_what_moves(self, buffer, recwarn):
        f, calls = self.quadratic(3, buffer)
        p, q = jnp.array([1.0, 2.0, 3.0]), {"a": jnp.array(2.0), "name": "still"}
        gradient = jax.jit(lambda p: jax.grad(f)(p, q))(p)
        assert jnp.max(jnp.abs(gradient - 6 * p**2)) < 1e-7
        assert len(calls) == 6
        calls.clear()
        assert abs(jax.grad(lambda a: f(p, q | {"a": a}))(2.0) - 36) < 1e-7
        assert len(calls) == 3
        assert abs(jax.jvp(lambda p: f(p, q), (p,), (p,))[1] - 216) < 1e-6
        assert len(calls) == 6
        assert not recwarn.list

    def test_many_calls_are_warned_about_and_shown(self, monkeypatch):
        bars = []

        def bar(items, **options):
            bars.append([options, 0])
            for item in items:
                yield item
                bars[-1][1] += 1

        monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=bar))
        f, _ = self.quadratic(200)
        p, q = jnp.ones(200), {"a": jnp.array(2.0)}
        match = r"`host_function\(vjp=...\)`: a product for reverse mode; .* takes 400 calls"
        with pytest.warns(ie.HostCallWarning, match=match):
            with_bar = jax.block_until_ready(jax.grad(f)(p, q))
        ((options, count),) = bars
        assert (options["total"], count, options["disable"]) == (200, 200, None)
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
        with pytest.warns(ie.HostCallWarning, match=match):
            without = jax.block_until_ready(jax.grad(f)(p, q))
        assert jnp.array_equal(with_bar, without)

    def test_complex_arguments(self):
        f = ie.host_function(lambda z: np.sum(z**2), like=lambda z: z[0])
        z = jnp.array([1 + 2j, 3 - 1j])
        gradient = jax.grad(lambda z: f(z).real)(z)
        assert jnp.max(jnp.abs(gradient - 2 * z)) < 1e-7

    def test_second_derivative_is_refused(self):
        f = ie.host_function(np.sin, like=lambda p: p)
        with pytest.raises(Exception, match=r"`host_function\(...\)`: a first derivative; got a"):
            jax.grad(jax.grad(f))(1.0)
