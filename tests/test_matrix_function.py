"""Matrix functions on the known space, against dense ones that no eigenvalue can disturb."""

import decimal
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest
import scipy.linalg as sla
from pages import ROOT, blocks
from problems import (
    EPS,
    Counting,
    eigh,
    grid_pencil,
    random_definite,
    random_hermitian,
    sparse,
    with_spectrum,
)

import implicit_eig as ie
from implicit_eig.crossings._divided_differences import derivative, divided_difference

expm = jax.scipy.linalg.expm
N = 5
D = random_hermitian(N, seed=4)
W = random_hermitian(N, seed=5)
SOLVE = ie.eigensolver(eigh, ie.Hermitian(N))


def hermitian_part(A):
    return (A + A.conj().T) / 2


def fermi(mu, T):
    return lambda x: jax.nn.sigmoid((mu - x) / T)


def dense_fermi(A, mu, T):
    one = jnp.eye(len(A))
    return jnp.linalg.inv(one + expm((A - mu * one) / T))


def close(found, expected, rounding, scale=None):
    """To so many roundings of the largest entry."""
    size = np.max(np.abs(expected)) if scale is None else scale
    eps = EPS[np.dtype(jnp.asarray(expected).dtype)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding * eps * size)


def derivatives(F, A, D):
    """F, tangent, gradient and second derivatives by both orders of the modes."""

    def loss(A):
        M = F(hermitian_part(A))
        return jnp.sum(jnp.abs(M - W.astype(M.dtype)) ** 4)

    gradient = jax.grad(loss)
    along = lambda A: jnp.sum(gradient(A) * D.conj()).real
    return (
        F(A),
        jax.jvp(F, (A,), (D,))[1],
        gradient(A),
        jax.jvp(gradient, (A,), (D,))[1],
        jax.grad(along)(A),
    )


def test_an_entry_of_the_exponential_at_a_repeated_eigenvalue():
    """What eigenvalues and vectors cannot carry: they find 0, which is warned about."""
    A = jnp.diag(jnp.array([1.0, 1.0, 2.0]))
    off = jnp.zeros((3, 3)).at[0, 1].set(1.0).at[1, 0].set(1.0)
    solve = ie.eigensolver(eigh, ie.Hermitian(3))

    def separate(A):
        values, X = solve(A)
        return jnp.sum(jnp.exp(values) * X[0] * X[1])

    joint = lambda A: ie.matrix_function(solve(A), jnp.exp).as_matrix()[0, 1]
    assert separate(A) == joint(A) == 0
    with pytest.warns(ie.GaugeWarning, match="one that uses both, of pairs 0 and 1"):
        assert not jax.grad(separate)(A).any()
    with pytest.warns(ie.GaugeWarning, match="one that separates pairs 0 and 1"):
        assert jax.jvp(separate, (A,), (off,))[1] == 0
    exact = lambda A: expm(hermitian_part(A))[0, 1]
    close(jax.grad(joint)(A), jax.grad(exact)(A), 10)
    np.testing.assert_allclose(jax.grad(joint)(A)[0, 1], np.e / 2, rtol=1e-14)
    # what is not used is not computed under `jit`, so that nothing is said
    np.testing.assert_allclose(jax.jit(jax.jvp, static_argnums=0)(joint, (A,), (off,))[1], np.e)


def test_the_example_in_the_documentation():
    page = ROOT / "docs" / "theory" / "clusters.md"
    (snippet,) = blocks(page.read_text())
    exec(compile(snippet, str(page), "exec"), {})


def test_the_bond_order_between_identical_chains():
    """Σ f(λᵢ) xᵢ[a] xᵢ[b] as two uncoupled chains are coupled at their ends."""
    hop = -jnp.eye(3, k=1) - jnp.eye(3, k=-1)
    uncoupled = jax.scipy.linalg.block_diag(hop, hop)
    bond = jnp.zeros((6, 6)).at[2, 3].set(-1.0).at[3, 2].set(-1.0)
    solve = ie.eigensolver(eigh, ie.Hermitian(6))
    f = fermi(0.1, 0.3)
    order = lambda c: ie.matrix_function(solve(uncoupled + c * bond), f).as_matrix()[2, 3]
    exact = jax.grad(lambda c: dense_fermi(uncoupled + c * bond, 0.1, 0.3)[2, 3])(0.0)
    np.testing.assert_allclose(jax.grad(order)(0.0), exact, rtol=1e-13)

    def separate(c):
        values, X = solve(uncoupled + c * bond)
        return jnp.sum(f(values) * X[2] * X[3])

    with pytest.warns(ie.GaugeWarning, match="one that uses both"):
        assert abs(jax.grad(separate)(0.0) - exact) > 0.1 * abs(exact)


FUNCTIONS = {
    "exponential": (jnp.exp, expm),
    "polynomial": (lambda x: x**3 - 2.0 * x, lambda A: A @ A @ A - 2.0 * A),
    "occupation": (fermi(0.9, 0.2), lambda A: dense_fermi(A, 0.9, 0.2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_error_does_not_depend_on_the_gap(name):
    f, exact = FUNCTIONS[name]
    found = jax.jit(
        lambda A: derivatives(lambda A: ie.matrix_function(SOLVE(A), f).as_matrix(), A, D)
    )
    expected = jax.jit(lambda A: derivatives(exact, A, D))
    for gap in (0.0, 1e-15, 1e-14, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 0.1, 0.5):
        A = with_spectrum([1.0, 1 + gap, 1 + 2 * gap, 2.1, 0.3])
        # pairs that are not near each other turn, by a hundredth of the largest eigenvalue
        for one, other in zip(found(A), expected(A), strict=True):
            close(one, other, 1000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "propagator"),
    [(np.float32, False), (np.complex128, False), (np.float64, True), (np.complex64, True)],
)
def test_the_dtype_is_that_of_the_operators(dtype, propagator):
    """Complex where f is: the propagator exp(iA)."""
    A = with_spectrum([1.0, 1.0, 1 + 1e-4, 2.1, 0.3], dtype)
    unit = np.result_type(dtype, np.complex64).type(1j) if propagator else np.dtype(dtype).type(1)
    exact = lambda A: expm(jnp.asarray(unit) * A.astype(unit.dtype))
    f = (lambda x: jax.lax.complex(jnp.cos(x), jnp.sin(x))) if propagator else jnp.exp
    F = lambda A: ie.matrix_function(SOLVE(A), f).as_matrix()
    assert F(A).dtype == unit.dtype
    direction = random_hermitian(N, dtype, seed=6)
    found = jax.jit(lambda A: derivatives(F, A, direction))(A)
    expected = jax.jit(lambda A: derivatives(exact, A, direction))(A)
    for one, other in zip(found, expected, strict=True):
        close(one, other, 300)


def test_third_derivatives():
    A = with_spectrum([1.0, 1.0, 2.0], seed=2)
    solve = ie.eigensolver(eigh, ie.Hermitian(3))
    d, w = D[:3, :3], W[:3, :3]

    def third(F):
        first = lambda A: jax.jvp(F, (A,), (d,))[1]
        second = jax.grad(lambda A: jnp.sum(w * first(hermitian_part(A))))
        return lambda A: jax.jvp(second, (A,), (d,))[1]

    F = lambda A: ie.matrix_function(solve(A), lambda x: x**4).as_matrix()
    close(jax.jit(third(F))(A), jax.jit(third(lambda A: A @ A @ A @ A))(A), 1000)


def test_forward_and_reverse_mode_are_adjoint():
    A = with_spectrum([1.0, 1.0, 1 + 1e-9, 2.1, 0.3])
    F = lambda A: ie.matrix_function(SOLVE(A), jnp.exp).as_matrix()
    _, pull = jax.vjp(F, A)
    along = jax.jit(lambda A: jax.jvp(F, (A,), (D,))[1])(A)
    np.testing.assert_allclose(jnp.sum(pull(W)[0] * D), jnp.sum(W * along), rtol=1e-13)


def test_a_pencil_with_its_metric_and_without():
    """f(B⁻¹A), and the density matrix f(B⁻¹A) B⁻¹."""
    L = jnp.linalg.cholesky(random_definite(N, seed=3))
    A = L @ with_spectrum([1.0, 1.0, 1 + 1e-9, 2.1, 0.3]) @ L.T
    loss = lambda F: lambda A, B: jnp.sum(W * F(hermitian_part(A), hermitian_part(B)))
    function = lambda A, B: expm(jnp.linalg.solve(B, A))
    for F, exact in (
        (lambda A, B: ie.matrix_function(SOLVE(A, B), jnp.exp, B), function),
        (
            lambda A, B: ie.matrix_function(SOLVE(A, B), jnp.exp),
            lambda A, B: function(A, B) @ jnp.linalg.inv(B),
        ),
    ):
        B = L @ L.T
        found = jax.jit(jax.grad(loss(lambda A, B, F=F: F(A, B).as_matrix()), (0, 1)))(A, B)
        for one, other in zip(found, jax.grad(loss(exact), (0, 1))(A, B), strict=True):
            close(one, other, 1000)
        M, V = F(A, B), D[:, :3]
        close(M @ V, exact(A, B) @ V, 100)
        close(M @ V[:, 0], exact(A, B) @ V[:, 0], 100)
        close(M.diagonal(), jnp.diag(exact(A, B)), 100)
    M = ie.matrix_function(SOLVE(A, B), jnp.exp, B)
    close(jnp.trace(M.block), jnp.trace(M.as_matrix()), 100)
    # operators of two dtypes, as the solve takes them
    B = 2 * jnp.eye(N, dtype=jnp.float32)
    M = ie.matrix_function(SOLVE(A, B), jnp.exp, B).as_matrix()
    assert M.dtype == A.dtype
    close(M, expm(A / 2), 100)


def test_some_pairs_of_a_sparse_pencil():
    """A function that vanishes on the pairs that are not known; by shift and invert."""
    pencil, p = grid_pencil(6)
    f = fermi(60.0, 2.0)
    solve = ie.eigensolver(ie.solvers.arpack(12, sigma=0.0), ie.Hermitian(12))
    v = jnp.linspace(0.5, 1.0, 36)

    def found(p):
        K, M = pencil(p)
        F = ie.matrix_function(solve(K, M), f, M)
        return v @ (F @ v) + jnp.sum(v * F.diagonal())

    def exact(p):  # all pairs, simple ones, by autodiff of LAPACK
        K, R = pencil(p)[0].as_matrix(), jnp.sqrt(p[1])
        lam, Y = jnp.linalg.eigh(K / R[:, None] / R[None])
        F = (Y * f(lam)[None]) @ Y.T / R[:, None] * R[None]
        return v @ F @ v + jnp.sum(v * jnp.diag(F))

    beyond = solve(*pencil(p)).values[-1]
    assert f(beyond) < 1e-12
    np.testing.assert_allclose(found(p), exact(p), rtol=1e-12)
    close(jax.grad(found)(p), jax.grad(exact)(p), 1e6)


def test_what_the_function_closes_over():
    """Gradient and second derivatives by a chemical potential, a temperature and the matrix."""
    A = with_spectrum([1.0, 1.0, 1 + 1e-9, 2.1, 0.3])

    def loss(F):
        return lambda mu, T, A: jnp.sum(W * F(hermitian_part(A), mu, T[0]))

    found = loss(lambda A, mu, T: ie.matrix_function(SOLVE(A), fermi(mu, T)).as_matrix())
    expected = loss(dense_fermi)
    at = jnp.array(0.9), jnp.array([0.2]), A
    along = jnp.array(0.3), jnp.array([-0.2]), D
    for transform in (
        lambda f: lambda *x: f(*x),
        lambda f: lambda *x: jax.jvp(f, x, along)[1],
        lambda f: jax.grad(f, (0, 1, 2)),
        lambda f: lambda *x: jax.jvp(jax.grad(f, (0, 1, 2)), x, along)[1],
        lambda f: jax.grad(
            lambda *x: sum(map(jnp.vdot, along, jax.grad(f, (0, 1, 2))(*x))), (0, 1, 2)
        ),
    ):
        one, other = jax.jit(transform(found))(*at), jax.jit(transform(expected))(*at)
        jax.tree.map(lambda a, b: close(a, b, 1000, max(1, float(jnp.max(jnp.abs(b))))), one, other)


def test_a_complex_parameter():
    A = with_spectrum([1.0, 1.0, 2.1, 3.0, 0.3])
    z = jnp.array(0.3 + 2.0j)
    resolvent = lambda z, A: ie.matrix_function(
        SOLVE(A), lambda x: 1 / (z - x.astype(z.dtype))
    ).as_matrix()
    exact = lambda z, A: jnp.linalg.inv(z * jnp.eye(N, dtype=complex) - A.astype(complex))
    loss = lambda F: lambda z, A: jnp.abs(F(z, hermitian_part(A))[0, 1]) ** 2
    found = jax.grad(loss(resolvent), (0, 1))(z, A)
    for one, other in zip(found, jax.grad(loss(exact), (0, 1))(z, A), strict=True):
        close(one, other, 1000)


def test_a_chemical_potential_fixed_by_the_number_of_electrons():
    """Smearing: Σ f(λᵢ; μ) = 2 determines μ, through which derivatives go as well."""
    A = with_spectrum([1.0, 1.0, 1.0, 2.1, 0.3])

    def electrons(mu, S):
        return jnp.sum(fermi(mu, 0.2)(S)) - 2.0

    def found(A):
        solution = SOLVE(hermitian_part(A))
        root = optx.root_find(electrons, optx.Newton(1e-13, 1e-13), jnp.array(0.9), solution.values)
        return jnp.sum(W * ie.matrix_function(solution, fermi(root.value, 0.2)).as_matrix())

    def exact(A):
        A = hermitian_part(A)
        residual = lambda mu, A: jnp.trace(dense_fermi(A, mu, 0.2)) - 2.0
        mu = optx.root_find(residual, optx.Newton(1e-13, 1e-13), jnp.array(0.9), A).value
        return jnp.sum(W * dense_fermi(A, mu, 0.2))

    close(jax.grad(found)(A), jax.grad(exact)(A), 1e4)


def test_a_step_between_eigenvalues():
    """sign(A), whose f′ is 0 wherever it exists; the oracle is its Newton iteration."""
    A = with_spectrum([1.0, 1.0, 1 + 1e-9, -0.7, -0.8])

    def newton(X):
        for _ in range(10):
            X = (X + jnp.linalg.inv(X)) / 2
        return X

    F = lambda A: ie.matrix_function(SOLVE(A), jnp.sign).as_matrix()
    found, expected = (jax.jit(lambda A, F=F: derivatives(F, A, D))(A) for F in (F, newton))
    for one, other in zip(found, expected, strict=True):
        close(one, other, 1000)


def eig(A, B=None):
    values, Y, X = sla.eig(A, B, left=True)
    return values, X, Y


def svd(A):
    U, sigma, Vh = np.linalg.svd(A, full_matrices=False)
    return sigma, Vh.T, U


@pytest.mark.parametrize("gap", [0.0, 1e-10, 1e-3])
def test_general_pencils(gap):
    rng = np.random.default_rng(0)
    V = rng.standard_normal((N, N))
    C = jnp.asarray(V @ np.diag([1, 1 + gap, 2, 0.5, -1.0]) @ np.linalg.inv(V))
    B = jnp.asarray(np.eye(N) + 0.2 * rng.standard_normal((N, N)))
    solve = ie.eigensolver(eig, ie.General(N, left=True))

    def second(F):
        loss = lambda A: jnp.sum(jnp.abs(F(A)) ** 4)
        return lambda A: jax.jvp(jax.grad(loss), (A,), (D,))[1]

    F = lambda A, B: ie.matrix_function(solve(A, B), jnp.exp, B).as_matrix()
    exact = lambda A, B: expm(jnp.linalg.solve(B, A))
    kappa = np.linalg.cond(V) ** 2
    close(F(B @ C, B).real, exact(B @ C, B), kappa)
    loss = lambda F: lambda A, B: jnp.sum(W * F(A, B).real)
    found = jax.grad(loss(F), (0, 1))(B @ C, B)
    for one, other in zip(found, jax.grad(loss(exact), (0, 1))(B @ C, B), strict=True):
        close(one, other, 10 * kappa)
    one = jax.jit(second(lambda A: F(A, B).real))(B @ C)
    close(one, second(lambda A: exact(A, B))(B @ C), 100 * kappa)


def test_singular_triplets():
    """U f(S) Vᴴ of an odd f: A AᴴA for the cube."""
    U, V = (np.linalg.qr(random_hermitian(n, seed=n))[0] for n in (5, 4))
    A = jnp.asarray(U[:, :4] @ np.diag([2.0, 1.0, 1.0, 1 + 1e-9]) @ V.T)
    solve = ie.eigensolver(svd, ie.Singular(4))
    F = lambda A: ie.matrix_function(solve(A), lambda x: x**3).as_matrix()
    exact = lambda A: A @ A.T @ A
    direction, weight = D[:, :4], W[:, :4]

    def all_of(F):
        gradient = jax.grad(lambda A: jnp.sum((F(A) - weight) ** 4))
        return lambda A: (
            F(A),
            jax.jvp(F, (A,), (direction,))[1],
            gradient(A),
            jax.jvp(gradient, (A,), (direction,))[1],
        )

    for one, other in zip(jax.jit(all_of(F))(A), jax.jit(all_of(exact))(A), strict=True):
        close(one, other, 1000)


def test_batches_and_outputs_of_transformations():
    """A solution keeps what is needed as output of `jit` and `vmap`, and is a tree of arrays."""
    batch = jnp.stack(
        [
            with_spectrum([1.0, 1 + gap, 2.0, 2.1, 0.3], seed=i)
            for i, gap in enumerate((0.0, 1e-9, 0.1))
        ]
    )
    solutions = jax.jit(jax.vmap(SOLVE))(batch)
    F = jax.vmap(lambda s: ie.matrix_function(s, jnp.exp).as_matrix())(solutions)
    close(F, jax.vmap(expm)(batch), 100)
    one = jax.tree.map(lambda leaf: leaf[1], solutions)
    close(ie.matrix_function(one, jnp.exp).as_matrix(), expm(batch[1]), 100)

    def loss(F):
        return lambda t, A: jnp.sum(W * F(hermitian_part(A), t))

    found = loss(lambda A, t: ie.matrix_function(SOLVE(A), lambda x: jnp.exp(t * x)).as_matrix())
    expected = loss(lambda A, t: expm(t * A))
    t = jnp.array([0.5, 1.0, 1.5])
    one, other = (jax.vmap(jax.grad(f, (0, 1)))(t, batch) for f in (found, expected))
    jax.tree.map(lambda a, b: close(a, b, 1000), one, other)


def test_the_users_normalisation_and_a_guard_change_nothing():
    A = with_spectrum([1.0, 1.0, 2.0, 2.1, 0.3])
    scaled = ie.eigensolver(eigh, ie.Hermitian(3, guard=2), normalization=ie.UnitComponent(0))
    f = lambda x: jnp.where(x < 1.5, jnp.exp(x), 0.0)
    F = lambda solve: lambda A: jnp.sum(W * ie.matrix_function(solve(A), f).as_matrix())
    close(jax.grad(F(scaled))(A), jax.grad(F(SOLVE))(A), 1000)


def test_it_costs_no_solve_where_none_is_needed():
    A = with_spectrum([1.0, 1.0, 2.0, 2.1, 0.3])
    count = Counting()
    solve = ie.eigensolver(
        eigh, ie.Hermitian(3), linear_solver=count.solver(), system=ie.Bordered()
    )
    f = lambda x: jnp.where(x < 1.5, jnp.exp(x), 0.0)
    trace = lambda A: jnp.trace(ie.matrix_function(solve(A), f).block)
    for loss in (trace, lambda A: jnp.sum(solve(A).values)):
        jax.grad(loss)(A)
        jax.jit(jax.grad(loss))(A)
    assert count.calls == 0
    jax.grad(lambda A: ie.matrix_function(solve(A), f).diagonal()[0])(A)
    assert count.calls > 0


def test_gauge_defect_takes_functions_of_it():
    A = with_spectrum([1.0, 1.0, 2.0, 2.1, 0.3])
    loss = lambda s: jnp.sum(W * ie.matrix_function(s, jnp.exp).as_matrix())
    assert np.max(ie.gauge_defect(loss, SOLVE, A)) < 100 * EPS[np.dtype(float)]


def exact_difference(f, points):
    """By Newton's scheme in 120 digits, equal points moved apart by a part in 10^40."""
    points = sorted(decimal.Decimal(float(x)) for x in points)
    points = [x + i * decimal.Decimal("1e-40") for i, x in enumerate(points)]
    table = [f(x) for x in points]
    for order in range(1, len(points)):
        table = [
            (b - a) / (points[i + order] - points[i])
            for i, (a, b) in enumerate(itertools.pairwise(table))
        ]
    return float(table[0])


NUMBERS = {
    "exp": (jnp.exp, lambda x: x.exp(), 1.0),
    "fermi 1": (fermi(0.0, 1.0), lambda x: 1 / (1 + x.exp()), 1.0),
    "fermi 1/1024": (fermi(0.0, 1 / 1024), lambda x: 1 / (1 + (1024 * x).exp()), 1 / 1024),
    "rational": (lambda x: 1 / (x**2 + 1), lambda x: 1 / (x * x + 1), 1.0),
    "square": (lambda x: x**2 - 2 * x + 1, lambda x: x * x - 2 * x + 1, 1.0),
    "sign": (jnp.sign, lambda x: decimal.Decimal(1 if x > 0 else -1), 1.0),
}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", NUMBERS)
def test_divided_differences(name, order):
    """To 10 and 50 roundings of the like derivative of f; of f by gaps, where it has a jump."""
    f, exact, width = NUMBERS[name]
    rng = np.random.default_rng(1)
    gaps = np.concatenate([[0.0], 10.0 ** np.arange(-15, -1), [0.03, 0.1, 0.3, 1.0]])
    points = []
    for gap in gaps:
        for inner in (0.0, 1.0, 1e-8, rng.random()):
            centre = width * rng.uniform(-1, 1) if name != "sign" else -0.4 * gap
            points.append(centre + gap * np.array([0.0, inner, 1.0])[[0, 2, 1][: order + 1]])
    points = np.array(points)
    # zero has no sign, and no neighbourhood
    points = points[~np.any(points == 0, axis=1)]
    found = jax.jit(jax.vmap(lambda x: divided_difference(f, x)))(jnp.asarray(points))
    with decimal.localcontext() as context:
        context.prec = 120
        expected = np.array([exact_difference(exact, x) for x in points])
    derivative = {1: 1.0, 2: 0.5}[order] / width**order
    scale = np.abs(expected) if name == "sign" else 3 * derivative
    assert np.all(np.abs(found - expected) <= {1: 10, 2: 50}[order] * EPS[np.dtype(float)] * scale)


def test_the_derivative_of_a_block_is_that_of_the_exponential():
    """Without an eigenproblem: any order of the modes, with directions on both sides."""
    S = jnp.diag(jnp.array([1.0, 1.0, 2.0]))
    w = jnp.asarray(np.random.default_rng(0).standard_normal((3, 3)))
    found = lambda S: jnp.sum(w * derivative(jnp.exp, S, real=True))
    expected = jax.jit(jax.hessian(lambda S: jnp.sum(w * expm(S))))(S)
    for outer in (jax.jacfwd, jax.jacrev):
        for inner in (jax.jacfwd, jax.jacrev):
            close(jax.jit(outer(inner(found)))(S), expected, 100)


def test_refusals():
    A = with_spectrum([1.0, 1.5, 2.0, 2.1, 0.3])
    solution = SOLVE(A)
    kinds = (
        ie.eigensolver(np.linalg.eig, ie.General(2))(A),
        ie.eigensolver(np.linalg.eig, ie.Subspace(2))(A),
        ie.Solution(solution.values, solution.vectors),
    )
    for other in kinds:
        with pytest.raises(
            ie.InputError, match=r"got that of another problem. .* `General\(k, left"
        ):
            ie.matrix_function(other, jnp.exp)
    with pytest.raises(ie.InputError, match="got no `Solution`"):
        ie.matrix_function(tuple(solution), jnp.exp)
    triplets = ie.eigensolver(svd, ie.Singular(2))(A)
    with pytest.raises(ie.InputError, match="got singular triplets"):
        ie.matrix_function(triplets, jnp.exp, A)
    for f, found in (
        (lambda x: jnp.stack([x, x]), r"float64 of shape \(2,\)"),
        (lambda x: x > 1, r"bool of shape \(\)"),
        (lambda x: (x, x), "tuple"),
        (lambda x: x.astype(jnp.float32), "float32"),
    ):
        with pytest.raises(ie.InputError, match=f"`matrix_function.*number, of float64.*{found}"):
            ie.matrix_function(solution, f)
    # numbers that Python writes have the dtype of the eigenvalues
    for f in (lambda x: 1, lambda x: jnp.where(x < 1.2, 1, 0)):
        assert ie.matrix_function(solution, f).block.dtype == np.float64


def test_sparse_operators_of_a_full_pattern_agree():
    A = with_spectrum([1.0, 1.0, 2.0, 2.1, 0.3])
    F = lambda form: lambda A: jnp.sum(W * ie.matrix_function(SOLVE(form(A)), jnp.exp).as_matrix())
    gradient = jax.grad(F(sparse))(A)
    close(hermitian_part(gradient), jax.grad(F(jnp.asarray))(A), 1000)
