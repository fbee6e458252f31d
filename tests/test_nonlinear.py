"""T(λ, x, *args) = 0: against pencils, polynomials, closed forms and finite differences."""

import functools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.special
from problems import Exchanged, jitted
from test_pairs import eig, eig_left, paired, polyeig, random
from test_pairs import loss_of as loss_of_size

import implicit_eig as ie

N = 4
loss_of = functools.partial(loss_of_size, n=N)


def promoting(T):
    """T as a user writes it: real matrices multiply complex vectors."""

    def promoted(*args):
        with jax.numpy_dtype_promotion("standard"):
            return T(*args)

    return promoted


pencil = promoting(lambda lam, x, A, B: A @ x - lam * (B @ x))
cubic = promoting(lambda lam, x, *A: sum(lam**j * (a @ x) for j, a in enumerate(A)))
delay = promoting(lambda lam, x, A, B, tau: A @ x + jnp.exp(-lam * tau) * (B @ x) - lam * x)


def delay_eig(A, B, tau):
    """The rightmost pair of τ = 0, led to τ in steps, on the host."""
    values, vectors = np.linalg.eig(A + B)
    i = np.argmax(values.real + 1e-6 * values.imag)
    lam, x = values[i], vectors[:, i]
    n = len(x)
    for t in tau * np.arange(1, 11) / 10:
        for _ in range(6):
            decay = np.exp(-lam * t)
            T = A + decay * B - lam * np.eye(n)
            slope = -t * decay * (B @ x) - x
            M = np.block([[T, slope[:, None]], [x.conj()[None], np.zeros((1, 1))]])
            step = np.linalg.solve(M, np.append(T @ x, x.conj() @ x - 1))
            x, lam = x - step[:n], lam - step[n]
    return np.array([lam]), x[:, None]


def delay_data(dtype=np.float64):
    A, B = random(0, N), 0.5 * random(1, N)
    return tuple(jnp.asarray(part, dtype) for part in (A, B, 0.4))


def delay_solver(**options):
    """Newton's method from near the pair, and the problem."""
    values, vectors = delay_eig(*map(np.asarray, delay_data()))
    start = (values[0] + 0.05, vectors[:, 0])
    return ie.eigensolver(ie.solvers.newton(delay, start), ie.Nonlinear(delay, **options))


def close(found, expected, tol):
    return all(
        jnp.max(jnp.abs(f - e)) <= tol * (1 + jnp.max(jnp.abs(e)))
        for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    )


@functools.cache
def reference():
    """The gradient that other ways to it are compared with, itself tested by differences."""
    return jax.jit(jax.grad(loss_of(delay_solver()), (0, 1, 2)))(*delay_data())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype"), [("pencil", np.float64), ("cubic", np.complex128)])
def test_as_the_pencil_or_polynomial(name, dtype):
    """First and second order, of values, vectors and left vectors."""
    A, B = random(0, N, dtype), jnp.eye(N, dtype=dtype) + 0.2 * random(1, N, dtype)
    operators = (A, B) if name != "cubic" else (A, random(2, N, dtype), random(3, N, dtype), B)
    if name == "cubic":
        solver, T, problem = polyeig, cubic, ie.Polynomial(2, left=True)
    else:
        solver, T, problem = eig_left, pencil, ie.General(2, left=True)
    directions = tuple(random(s, N, dtype) for s in range(5, 5 + len(operators)))

    def pushed_and_its_gradient(kind):
        loss = loss_of(ie.eigensolver(solver, kind), left=True)
        return jax.value_and_grad(lambda *P: jax.jvp(loss, P, directions)[1], (0, 1))

    kinds = (problem, ie.Nonlinear(T, 2, left=True))
    results = jitted(*map(pushed_and_its_gradient, kinds))(*operators)
    # yᴴT'x = 1 is yᴴBx = −1 of the pencil: a sign, of which the loss knows nothing
    assert close(results[1], results[0], 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["newton", "newton, left vectors", "host"])
def test_delay_against_finite_differences(kind):
    left = kind == "newton, left vectors"
    if kind == "host":
        solve = ie.eigensolver(delay_eig, ie.Nonlinear(delay))
    else:
        solve = delay_solver(left=left)
    loss, args = loss_of(solve, left=left), delay_data()
    directions = (random(5, N), random(6, N), jnp.asarray(0.7))
    gradient = jax.grad(loss, (0, 1, 2))
    derivatives = jitted(
        loss,
        lambda *P: jax.jvp(loss, P, directions)[1],
        lambda *P: jax.jvp(gradient, P, directions),
    )
    _, first, (by_reverse, second) = derivatives(*args)
    differences = ie.testing.finite_difference(
        lambda *P: derivatives(*P)[:2], args, directions, step=1e-4, order=4
    )
    assert abs(first - differences[0]) < 1e-8 * (1 + abs(differences[0]))
    assert abs(paired(by_reverse, directions) - first) < 1e-11 * (1 + abs(first))
    second = paired(second, directions)
    assert abs(second - differences[1]) < 1e-7 * (1 + abs(differences[1]))


@pytest.mark.slow
def test_hessian_and_batch_in_the_delay():
    A, B, tau = delay_data()
    solve = delay_solver()
    growth = lambda tau: solve(A, B, tau).values[0].real
    h = 1e-3 * np.asarray([-2.0, -1.0, 1.0, 2.0])
    slopes, hessian = jitted(lambda tau: jax.vmap(jax.grad(growth))(tau + h), jax.hessian(growth))(
        tau
    )
    found = np.asarray([1 / 12, -2 / 3, 2 / 3, -1 / 12]) @ np.asarray(slopes) / 1e-3
    assert abs(hessian - found) < 1e-8


def test_values_are_holomorphic_in_complex_arguments():
    A, B, tau = (part.astype(np.complex128) for part in delay_data())
    solve = delay_solver()
    directions = (random(5, N, np.complex128), random(6, N, np.complex128), tau)
    push = lambda *D: jax.jvp(lambda *P: solve(*P).values, (A, B, tau), D)[1]
    push = jax.jit(push)
    along = [push(*(c * d for d in directions)) for c in (1, 1j)]
    assert jnp.max(jnp.abs(along[1] - 1j * along[0])) < 1e-13


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_single_precision(dtype):
    found = jax.jit(jax.grad(loss_of(delay_solver()), (0, 1, 2)))(*delay_data(dtype))
    assert all(g.dtype == dtype for g in found)
    # the derivative along the real parts
    assert close([g.real.astype(np.float64) for g in found], list(reference()), 2e-4)


def test_lambert():
    """λ = a + b e^{−λτ} is λ = a + W(b τ e^{−aτ}) / τ, and its derivatives follow by hand."""
    scalar = lambda lam, x, p: (p["a"] + p["b"] * jnp.exp(-lam * p["tau"]) - lam) * x
    p = {"a": jnp.asarray(-0.3 + 0j), "b": jnp.asarray(0.8 + 0.2j), "tau": jnp.asarray(1.2 + 0j)}
    a, b, tau = (complex(p[name]) for name in ("a", "b", "tau"))
    lam = a + scipy.special.lambertw(b * tau * np.exp(-a * tau)) / tau
    solve = ie.eigensolver(lambda p: ([lam], np.ones((1, 1))), ie.Nonlinear(scalar, n=1))
    found = jax.jit(jax.jacfwd(lambda p: solve(p).values[0], holomorphic=True))(p)
    decay = np.exp(-lam * tau)
    slope = 1 + tau * b * decay
    expected = {"a": 1 / slope, "b": decay / slope, "tau": -lam * b * decay / slope}
    assert all(abs(found[name] - expected[name]) < 1e-14 for name in p)


FORMS = {
    "sparse": lambda D: ie.SparseOperator(
        D.reshape(-1), np.repeat(np.arange(N), N), np.tile(np.arange(N), N), (N, N)
    ),
    "matrix-free": lambda D: lx.FunctionLinearOperator(
        lambda v: D @ v, jax.ShapeDtypeStruct((N,), D.dtype)
    ),
}
by_products = promoting(
    lambda lam, x, M, tau: M["A"].mv(x) + jnp.exp(-lam * tau) * M["B"].mv(x) - lam * x
)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_operators_among_the_arguments(form):
    """Real operators multiply complex vectors; the host gets SciPy's; nothing is made dense."""
    seen = []

    def solver(M, tau):
        seen.append(type(M["A"]).__name__)
        dense = [M[name] @ np.eye(N) for name in "AB"]
        return delay_eig(*dense, tau)

    make = FORMS[form]
    A, B, tau = delay_data()
    solve = ie.eigensolver(solver, ie.Nonlinear(by_products))
    loss = loss_of(solve)
    found = jax.jit(jax.grad(lambda A, B, t: loss({"A": make(A), "B": make(B)}, t), (0, 1, 2)))(
        A, B, tau
    )
    assert close(found, reference(), 1e-8)
    assert seen == ["csr_matrix" if form == "sparse" else "_CustomLinearOperator"]
    refused = ie.eigensolver(solver, ie.Nonlinear(by_products), linear_solver=lx.LU())
    with pytest.raises(ie.InputError, match=r"linear_solver=LU\(\)\)`: dense operators"):
        jax.eval_shape(jax.grad(lambda A: loss_of(refused)({"A": make(A), "B": make(B)}, tau)), A)


@pytest.mark.slow
@pytest.mark.parametrize(
    "linear_solver",
    [
        lambda: lx.LU(),
        lambda: lx.GMRES(rtol=1e-12, atol=1e-12, restart=20),
        lambda: ie.host_linear_solver(lambda A, b: np.linalg.solve(A, b)),
    ],
    ids=["LU", "GMRES", "host"],
)
def test_linear_solvers(linear_solver):
    args = delay_data()
    solve = ie.eigensolver(delay_eig, ie.Nonlinear(delay), linear_solver=linear_solver())
    found = jax.jit(jax.grad(loss_of(solve), (0, 1, 2)))(*args)
    assert close(found, reference(), 1e-9)


@pytest.mark.slow
def test_large_problems_of_small_arguments_are_not_made_dense():
    """A convolution with n numbers: n² of them are not made."""
    n = 257
    rng = np.random.default_rng(0)
    d = jnp.asarray(rng.standard_normal(n))
    T = lambda lam, x, d: (d.astype(x.dtype) - lam) * x + 0.1 * (d.astype(x.dtype) @ x)
    solver = lambda d: eig(np.diag(d) + 0.1 * np.outer(np.ones(n), d))
    solve = ie.eigensolver(solver, ie.Nonlinear(T, n=n))
    squares = lambda d: jnp.abs(solve(d).vectors[:, 0]) ** 2 @ jnp.linspace(0.0, 1.0, n)
    push = jax.jit(lambda d, e: jax.jvp(squares, (d,), (e,)))
    e = jnp.asarray(rng.standard_normal(n))
    assert f"{n + 1},{n + 1}" not in str(jax.make_jaxpr(push)(d, e))
    found = ie.testing.finite_difference(lambda d: push(d, e)[0], (d,), (e,), step=1e-4, order=4)
    assert abs(push(d, e)[1] - found) < 1e-7 * (1 + abs(found))


def test_the_residual_is_public():
    args = delay_data()
    solve = delay_solver()
    residual = solve.problem.residual(solve(*args), *args)
    assert max(float(jnp.max(jnp.abs(part))) for part in residual) < 1e-14


A0, B0, TAU = map(np.asarray, delay_data())
PAIR = delay_eig(A0, B0, TAU)


def run(T, args, pair=PAIR, **options):
    """Solve by a solver that returns a given pair."""
    return ie.eigensolver(lambda *_: pair, ie.Nonlinear(T, **options))(*args)


BAD = {
    "T": (lambda: ie.Nonlinear(3), ie.InputError, r"`Nonlinear\(T=...\)`: a function"),
    "k": (lambda: ie.Nonlinear(delay, 0), ie.InputError, r"`Nonlinear\(k=...\)`: a positive"),
    "n": (lambda: ie.Nonlinear(delay, n=0), ie.InputError, r"`Nonlinear\(n=...\)`: the length"),
    "n unknown": (
        lambda: run(lambda lam, x, a: (a - lam) * x, (1.0,)),
        ie.InputError,
        r"the length of x; got neither `n=` nor a matrix",
    ),
    "shape of T": (
        lambda: run(lambda lam, x, A: lam * x[:2], (A0,)),
        ie.InputError,
        r"T\(λ, x, \*args\) of shape \(4,\)",
    ),
    "dtype of T": (
        lambda: run(lambda lam, x, A: x.real, (A0,)),
        ie.InputError,
        r"dtype complex128, for λ and x of this dtype; got",
    ),
    "T returns a tuple": (
        lambda: run(lambda lam, x, A: (x,), (A0,)),
        ie.InputError,
        r"got <class 'tuple'>",
    ),
    "affine": (
        lambda: run(lambda *P: delay(*P) + 1e-4, (A0, B0, TAU)),
        ie.EigensolverError,
        r"`eigensolver\(problem=Nonlinear\(k=1\)\)`: a function .* that is linear in x.*"
        r"self-consistency\), state all conditions by `implicit_function`",
    ),
    "conjugate of x": (
        lambda: run(lambda lam, x, *P: delay(lam, x.conj(), *P), (A0, B0, TAU)),
        ie.EigensolverError,
        r"that is linear in x",
    ),
    "conjugate of λ": (
        lambda: run(lambda lam, *P: delay(lam.conj(), *P), (A0, B0, TAU)),
        ie.EigensolverError,
        r"that is holomorphic in λ",
    ),
    "no pair": (
        lambda: run(delay, (A0, B0, TAU), (PAIR[0] + 1e-3, PAIR[1])),
        ie.EigensolverError,
        r"pairs with T\(λ\) x = 0, where T\(λ\) is A − λB, the polynomial or the function; got ‖T",
    ),
    "integers": (
        lambda: run(by_products, ({"A": sp.eye_array(N, dtype=int)}, TAU)),
        ie.InputError,
        r"`solve\(args\[0\]\['A'\]=...\)`",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_messages(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()


def test_a_wrong_length_names_what_was_tried():
    with pytest.raises(TypeError) as error:
        ie.eigensolver(delay_eig, ie.Nonlinear(delay, n=N + 1))(A0, B0, TAU)
    assert "x of shape (5,)" in "".join(error.value.__notes__)


def test_a_double_value_fails_aloud():
    A = jnp.diag(jnp.asarray([2.0, 2.0, 1.0]))
    T = promoting(lambda lam, x, A: A @ x - lam * x)
    solve = ie.eigensolver(lambda A: ([2.0], np.eye(3)[:, :1]), ie.Nonlinear(T))
    with pytest.raises(jax.errors.JaxRuntimeError, match="of `Nonlinear`, it is not simple"):
        jax.block_until_ready(jax.jit(jax.grad(lambda A: solve(A).values[0].real))(A))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_repeated_value_is_refused_in_both_modes(dtype):
    """Two equal scalar delays, turned: each transposed system has many solutions, to any k."""
    a, b, tau = -0.3, 0.8, 1.2
    lam = a + scipy.special.lambertw(b * tau * np.exp(-a * tau)) / tau
    Q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))
    T = promoting(lambda lam, x, A, B: A @ x + jnp.exp(-lam * tau) * (B @ x) - lam * x)
    D = random(5, N).astype(dtype)

    def data(gap):
        A, B = np.diag([a, a + gap, -2.0, -3.0]), np.diag([b, b, 0.3, 0.3])
        return tuple(jnp.asarray(Q @ M @ Q.T, dtype) for M in (A, B))

    for k in (1, 2):
        # of the first vector alone, or of any two of the space
        X = Q[:, :2] @ (np.eye(2)[:, :k] if k == 1 else np.array([[1.0, 0.4], [0.3, 1.0]]))
        answer = Exchanged()
        policy = ie.Policy(gauge=ie.Action.IGNORE)  # which warns of two equal values before
        solve = ie.eigensolver(answer, ie.Nonlinear(T, k), policy=policy)
        value = lambda A, B, solve=solve: solve(A, B).values[0].real
        derivatives = [
            jax.jit(lambda A, B, f=value: jnp.sum(jax.grad(f)(A, B) * D)),
            jax.jit(lambda A, B, f=value: jax.jvp(lambda A: f(A, B), (A,), (D,))[1]),
        ]
        for error in (0.0, 1e-10) if dtype is np.float64 else (0.0,):
            answer.now = lambda *_, X=X, k=k, error=error: (np.full(k, lam + error), X)
            for derivative in derivatives:
                with pytest.raises(jax.errors.JaxRuntimeError, match="of `Nonlinear`, it is not s"):
                    jax.block_until_ready(derivative(*data(0.0)))
        if k == 1:  # and not where it is simple, the other one being near
            answer.now = lambda *_, X=X: (np.array([lam]), X)
            slope = 1 / (1 + tau * b * np.exp(-lam * tau)).real
            expected = slope * np.real(X[:, 0] @ np.asarray(D) @ X[:, 0])
            for derivative in derivatives:
                error = abs(float(derivative(*data(1e-2))) - expected) / abs(expected)
                assert error < 1e4 * float(np.finfo(dtype).eps)
