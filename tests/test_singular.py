"""Singular triplets against autodiff of `jnp.linalg.svd`, finite differences and the embedding."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from problems import EPS, Counting, Exchanged, dense, jitted

import implicit_eig as ie

SHAPES = {"tall": (6, 4), "wide": (4, 6), "square": (4, 4)}


def random(shape, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        A = A + 1j * rng.standard_normal(shape)
    return jnp.asarray(A.astype(dtype))


def svd(A):
    """LAPACK on the host, any of our host operators."""
    U, sigma, Vh = np.linalg.svd(dense(A), full_matrices=False)
    return sigma, Vh.conj().T, U


def right_svd(A):
    """The same without left vectors, and with phases of its own at each call."""
    sigma, V, _ = svd(A)
    rng = np.random.default_rng()
    turns = rng.choice([-1.0, 1.0], sigma.size)
    if np.iscomplexobj(V):
        turns = np.exp(2j * np.pi * rng.random(sigma.size))
    return sigma, V * turns


def invariant(shape, k, seed=1):
    """A function of triplets that depends on no phase that u and v share."""
    rng = np.random.default_rng(seed)
    m, n = shape
    draw = lambda *s: rng.standard_normal(s)
    c, S_u, S_v, T = draw(k), draw(m, k), draw(n, k), draw(2, m, n, k)

    def f(sigma, V, U):
        c_, S_u_, S_v_, T_ = (jnp.asarray(x, sigma.dtype) for x in (c, S_u, S_v, T))
        outer = U[:, None, :] * V.conj()[None, :, :]
        out = jnp.sum(c_ * jnp.sin(sigma)) + jnp.sum(S_u_ * jnp.abs(U) ** 2)
        out = out + jnp.sum(S_v_ * jnp.abs(V) ** 2)
        return out + jnp.sum(T_[0] * outer.real) + jnp.sum(T_[1] * outer.imag)

    return f


def loss_of(solve, shape, **options):
    f = invariant(shape, solve.problem.k, **options)

    def loss(A):
        solution = solve(A)
        return f(solution.values, solution.vectors, solution.left_vectors)

    return loss


def by_autodiff(shape, k):
    f = invariant(shape, k)

    def loss(A):
        U, sigma, Vh = jnp.linalg.svd(A, full_matrices=False)
        return f(sigma[:k], Vh.conj().T[:, :k], U[:, :k])

    return loss


def paired(gradient, direction):
    """JAX's pairing of the gradient of a real function with a tangent."""
    return jnp.sum(gradient * direction).real


def largest(x):
    return float(jnp.max(jnp.abs(x)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "k"), [("tall", 2), ("wide", 4), ("square", 2)])
def test_both_orders_against_autodiff_of_svd(name, k):
    shape = SHAPES[name]
    A, D = random(shape), random(shape, seed=5)
    solve = ie.eigensolver(svd, ie.Singular(k))
    loss, oracle = loss_of(solve, shape), by_autodiff(shape, k)

    def derivatives(f):
        return jax.jvp(jax.grad(f), (A,), (D,))

    gap = min(1.0, float(np.min(-np.diff(np.append(svd(np.asarray(A))[0], 0)))))
    both = jax.jit(lambda: (derivatives(loss), derivatives(oracle)))()
    for order, (f, e) in enumerate(zip(*both, strict=True)):
        power = 1 if order == 0 else 2
        assert largest(f - e) < 1e3 * EPS[np.dtype(np.float64)] / gap**power * largest(e)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "k"), [("wide", 2), ("tall", 4), ("square", 4)])
def test_complex_against_finite_differences(name, k):
    shape = SHAPES[name]
    A, D = (random(shape, np.complex128, seed) for seed in (0, 5))
    loss = loss_of(ie.eigensolver(right_svd, ie.Singular(k)), shape)
    push = lambda A: jax.jvp(loss, (A,), (D,))[1]

    @jax.jit
    def derivatives(A):
        second = jax.jvp(push, (A,), (D,))[1]
        return loss(A), push(A), second, jax.grad(loss)(A), jax.grad(push)(A)

    _, first, second, gradient, hessian_product = derivatives(A)
    found = ie.testing.finite_difference(
        lambda A: derivatives(A)[:2], (A,), (D,), step=1e-4, order=4
    )
    assert abs(first - found[0]) < 1e-7 * (1 + abs(found[0]))
    assert abs(second - found[1]) < 1e-6 * (1 + abs(found[1]))
    assert abs(paired(gradient, D) - first) < 1e-11 * (1 + abs(first))
    assert abs(paired(hessian_product, D) - second) < 1e-10 * (1 + abs(second))
    assert gradient.shape == shape


def test_one_jacobian_in_both_modes():
    # the random cotangents depend on the phase, which both modes move alike
    quiet = ie.Policy(gauge=ie.Action.IGNORE)
    solve = ie.eigensolver(svd, ie.Singular(2), policy=quiet)
    parts = lambda A: (solve(A).values, solve(A).vectors, solve(A).left_vectors)
    ie.testing.assert_adjoint(parts, random((5, 4), np.complex128), rtol=1e-11)


@pytest.mark.parametrize(("dtype", "k"), [(np.float32, 2), (np.complex64, 4)])
def test_single_precision(dtype, k):
    shape = SHAPES["tall"]
    A = random(shape, dtype)
    loss = loss_of(ie.eigensolver(svd, ie.Singular(k)), shape)
    gradient = jax.jit(jax.grad(loss))
    found, expected = gradient(A), gradient(A.astype(np.result_type(dtype, np.float64)))
    assert found.dtype == dtype
    assert largest(found - expected.astype(dtype)) < 1e3 * EPS[np.dtype(dtype)] * largest(expected)


def test_the_same_as_the_pairs_of_the_embedding():
    shape, k, m, dtype = (5, 4), 2, 5, np.complex128
    f = invariant(shape, k)

    def embedded(A):
        zeros = [jnp.zeros((s, s), dtype) for s in shape]
        H = jnp.block([[zeros[0], A], [A.conj().T, zeros[1]]])
        top = lambda H: tuple(part[..., ::-1] for part in np.linalg.eigh(H))
        values, W = ie.eigensolver(top, ie.Hermitian(k))(H)
        return f(values, W[m:] * 2**0.5, W[:m] * 2**0.5)

    A = random(shape, dtype)
    loss = loss_of(ie.eigensolver(svd, ie.Singular(k)), shape)
    found, expected = jitted(jax.grad(loss), jax.grad(embedded))(A)
    assert largest(found - expected) < 1e-12 * largest(expected)


FORMS = {
    "sparse": lambda A: ie.SparseOperator(
        A.reshape(-1), *(i.reshape(-1) for i in np.indices(A.shape)), A.shape
    ),
    "matrix-free": lambda A: lx.FunctionLinearOperator(
        lambda v: A @ v, jax.ShapeDtypeStruct(A.shape[1:], A.dtype)
    ),
}
SOLVERS = {
    "sparse": ("sparse", {}),
    "matrix-free": ("matrix-free", {}),
    "SparseDirect": ("sparse", {"linear_solver": ie.SparseDirect()}),
    "bordered": ("matrix-free", {"system": ie.Bordered()}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_sparse_and_matrix_free(name):
    form, options = SOLVERS[name]
    shape = (6, 4)
    A = random(shape, np.complex128)
    of_array = loss_of(ie.eigensolver(svd, ie.Singular(2)), shape)
    loss = loss_of(ie.eigensolver(svd, ie.Singular(2), **options), shape)
    found, expected = jitted(jax.grad(lambda A: loss(FORMS[form](A))), jax.grad(of_array))(A)
    assert largest(found - expected) < 1e-7 * largest(expected)


def test_a_sparse_matrix_of_traced_places():
    A = random((6, 4))
    rows, cols = (jnp.asarray(i.reshape(-1)) for i in np.indices(A.shape))
    loss = loss_of(ie.eigensolver(svd, ie.Singular(2)), A.shape)
    traced = lambda data, rows, cols: loss(ie.SparseOperator(data, rows, cols, A.shape))
    found = jax.jit(jax.grad(traced))(A.reshape(-1), rows, cols)
    expected = jax.jit(jax.grad(loss))(A).reshape(-1)
    assert largest(found - expected) < 1e-7 * largest(expected)


def test_second_derivatives_without_a_matrix():
    shape = (5, 4)
    A, D = random(shape, np.complex128), random(shape, np.complex128, 5)
    loss = loss_of(ie.eigensolver(svd, ie.Singular(2)), shape)
    second = lambda f: lambda A: jax.jvp(lambda A: jax.jvp(f, (A,), (D,))[1], (A,), (D,))[1]
    by_products = lambda A: loss(FORMS["matrix-free"](A))
    found, expected = jitted(second(by_products), second(loss))(A)
    assert abs(found - expected) < 1e-6 * abs(expected)


def test_a_tall_dense_array_is_not_embedded():
    shape = (300, 3)
    A = random(shape)
    loss = loss_of(ie.eigensolver(svd, ie.Singular(2)), shape)
    assert "303,303" not in str(jax.make_jaxpr(jax.grad(loss))(A))
    found, expected = jitted(jax.grad(loss), jax.grad(by_autodiff(shape, 2)))(A)
    assert largest(found - expected) < 1e-8 * largest(expected)
    square = random((10, 10))
    assert "20,20" in str(
        jax.make_jaxpr(jax.grad(loss_of(ie.eigensolver(svd, ie.Singular(2)), (10, 10))))(square)
    )


def test_batches():
    shape, k = (5, 4), 2
    gradient = jax.jit(jax.grad(loss_of(ie.eigensolver(svd, ie.Singular(k)), shape)))
    stack = jnp.stack([random(shape, seed=seed) for seed in range(3)])
    found = jax.jit(jax.vmap(gradient))(stack)
    expected = jnp.stack([gradient(A) for A in stack])
    assert largest(found - expected) < 1e-11 * largest(expected)


def test_a_traceable_solver():
    def solver(A):
        U, sigma, Vh = jnp.linalg.svd(A, full_matrices=False)
        return sigma, Vh.T, U

    A = random((5, 4))
    losses = [
        loss_of(ie.eigensolver(s, ie.Singular(2)), A.shape) for s in (ie.traceable(solver), svd)
    ]
    found, expected = jitted(*map(jax.grad, losses))(A)
    assert largest(found - expected) < 1e-12 * largest(expected)


def refuse(matvec, b):
    raise AssertionError("a linear solve")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "system"),
    [("tall", ie.Deflated()), ("wide", ie.Bordered()), ("square", ie.Deflated())],
)
def test_all_triplets_cost_no_solve(name, system):
    shape = SHAPES[name]
    A, D = random(shape), random(shape, seed=5)
    closed = loss_of(ie.eigensolver(svd, ie.Singular(4), linear_solver=refuse), shape)
    second = lambda f: jax.grad(lambda A: jax.jvp(f, (A,), (D,))[1])(A)
    solved = loss_of(ie.eigensolver(svd, ie.Singular(4), system=system), shape)
    found, expected = jax.jit(lambda A: (second(closed), second(solved)))(A)
    assert largest(found - expected) < 1e-11 * largest(expected)


def test_solves_that_are_made():
    A, counting = random((6, 4)), Counting()
    solve = ie.eigensolver(svd, ie.Singular(3), linear_solver=counting.solver())
    for f in (lambda A: solve(A).values, solve.values):
        jax.grad(lambda A, f=f: jnp.sum(jnp.sin(f(A))))(A)
    jax.jvp(solve.values, (A,), (A,))
    assert counting.calls == 0
    jax.grad(lambda A: jnp.sum(solve(A).left_vectors[:, 1] ** 4))(A)
    assert counting.calls == 1


def with_values(sigma, shape, dtype, seed=0):
    U, V = (np.linalg.qr(np.asarray(random((s, s), dtype, seed + s)))[0] for s in shape)
    return jnp.asarray((U[:, : len(sigma)] * np.asarray(sigma)) @ V[:, : len(sigma)].conj().T)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "k"), [(np.float64, 3), (np.complex128, 4)])
def test_a_cluster(dtype, k):
    """Functions blind to the basis in it have both derivatives, from solvers of any basis."""
    shape = (6, 4)
    A0, A1 = with_values([3.0, 3.0, 1.0, 0.5], shape, dtype), random(shape, dtype, 1)
    M = random(shape, dtype, 2)

    def solver(seed):
        Q = np.linalg.qr(np.asarray(random((2, 2), dtype, seed)))[0]

        def turned(A):
            sigma, V, U = svd(A)
            V[:, :2], U[:, :2] = V[:, :2] @ Q, U[:, :2] @ Q
            return sigma, V, U

        # away from t = 0 the mixed vectors would be no triplets
        return lambda A: turned(A) if np.allclose(A, A0, atol=1e-12, rtol=0) else svd(A)

    exchanged = Exchanged()
    solve = ie.eigensolver(exchanged, ie.Singular(k))

    def f(t):
        solution = solve(A0 + t.astype(dtype) * A1)
        sigma, V, U = solution.values, solution.vectors, solution.left_vectors
        polar = U[:, :2] @ V[:, :2].conj().T
        return jnp.sum(M.conj() * polar).real + jnp.sum(sigma[:2]) * sigma[2]

    all_orders = jitted(f, jax.grad(f), jax.grad(jax.grad(f)))

    def derivatives(seed):
        exchanged.now, zero = solver(seed), jnp.zeros(())
        differences = ie.testing.finite_difference(
            lambda t: all_orders(t)[:2], (zero,), (1.0,), step=1e-3, order=4
        )
        _, first, second = jax.device_get(all_orders(zero))
        assert abs(first - differences[0]) < 1e-7 * abs(first)
        assert abs(second - differences[1]) < 1e-6 * abs(second)
        return first, second

    for one, other in zip(derivatives(1), derivatives(2), strict=True):
        assert abs(one - other) < 1e-11 * abs(one)


@pytest.mark.parametrize("form", ["dense", *FORMS])
def test_a_small_singular_value(form):
    """Next to −σ, which is known: the error is that of u and v, not eps / σ² or worse."""
    shape, small = (6, 4), 1e-4
    A = with_values([1.0, 0.7, 0.4, small], shape, np.float64)
    last = lambda A: tuple(part[..., -1:] for part in svd(A))
    make = FORMS.get(form, lambda A: A)
    loss = loss_of(ie.eigensolver(last, ie.Singular(1)), shape)

    def oracle(A):
        U, sigma, Vh = jnp.linalg.svd(A, full_matrices=False)
        return invariant(shape, 1)(sigma[-1:], Vh.T[:, -1:], U[:, -1:])

    found, expected = jitted(jax.grad(lambda A: loss(make(A))), jax.grad(oracle))(A)
    assert largest(expected) > 1 / small / 10
    assert largest(found - expected) < 1e-8 * largest(expected)


def test_residual_and_stats():
    shape = (5, 4)
    A, problem = random(shape, np.complex128), ie.Singular(2)
    solution = ie.eigensolver(svd, problem)(A)
    assert all(largest(part) < 1e-14 * 10 for part in problem.residual(solution, A))
    wrong = ie.Solution(solution.values * 2, solution.vectors, solution.left_vectors)
    top, bottom, gram = problem.residual(wrong, A)
    assert (top.shape, bottom.shape, gram.shape) == ((5, 2), (4, 2), (2, 2))
    assert jnp.allclose(top, -solution.left_vectors * solution.values.astype(A.dtype)[None, :])
    assert jnp.all(solution.stats["residuals"] < 1e-14)
    # left vectors that the solver does not give are A v / σ
    U = ie.eigensolver(right_svd, problem)(A).left_vectors
    assert largest(jnp.linalg.norm(U, axis=0) - 1) < 1e-14


@pytest.mark.slow
@pytest.mark.parametrize(
    "normalization",
    [
        ie.LargestComponent(),
        lambda x: x * (jnp.abs(x[0]) / jnp.linalg.norm(x)).astype(x.dtype) / x[0],
    ],
)
def test_normalizations(normalization):
    """U and V are functions of A, turned together."""
    shape = (5, 4)
    A, D = (random(shape, np.complex128, seed) for seed in (0, 5))
    S, T = (random((size, 2), seed=size) for size in shape)
    solve = ie.eigensolver(right_svd, ie.Singular(2), normalization=normalization)

    def loss(A):
        solution = solve(A)
        U, V = solution.left_vectors, solution.vectors
        return jnp.sum(S * (U.real + 0.3 * U.imag)) + jnp.sum(T * (V.real + 0.3 * V.imag))

    push = lambda A: jax.jvp(loss, (A,), (D,))[1]
    derivatives = jax.jit(lambda A: (loss(A), push(A), jax.jvp(push, (A,), (D,))[1]))
    _, *exact = derivatives(A)
    found = ie.testing.finite_difference(
        lambda A: derivatives(A)[:2], (A,), (D,), step=1e-4, order=4
    )
    for f, e in zip(found, exact, strict=True):
        assert abs(f - e) < 1e-6 * (1 + abs(f))
    solution = solve(A)
    assert all(largest(part) < 1e-13 for part in ie.Singular(2).residual(solution, A))
    assert largest(jnp.linalg.norm(solution.vectors, axis=0) - 1) < 1e-14


@pytest.mark.parametrize(
    ("normalization", "message"),
    [
        (ie.UnitComponent(0), r"normalization=UnitComponent\)`: one that keeps ‖v‖ = 1"),
        (lambda x: x / jnp.sum(x), r"got ‖v‖ = \d.* Use `LargestComponent\(\)`, or a function"),
        (ie.BNorm(), "a problem with an operator B; got one without. Use `TwoNorm"),
    ],
)
def test_normalizations_that_make_no_sense(normalization, message):
    solve = ie.eigensolver(svd, ie.Singular(2), normalization=normalization)
    with pytest.raises(ie.InputError, match=message):
        solve(random((5, 4)))


A0 = np.asarray(random((5, 4), np.complex128))
SQUARE = np.asarray(random((4, 4)))
SIGMA, V0, U0 = svd(A0)
LOW_RANK = np.asarray(with_values([2.0, 1.0], (5, 4), np.float64))


def solver_of(*answer):
    return lambda A: answer


def call(solver, A=A0, k=2, **options):
    return lambda: ie.eigensolver(solver, ie.Singular(k), **options)(A)


FAILURES = {
    "k": (lambda: ie.Singular(0), ie.InputError, r"`Singular\(k=...\)`: a positive number"),
    "two operators": (
        lambda: ie.eigensolver(svd, ie.Singular(2))(A0, A0),
        ie.InputError,
        r"one operator A; got 2. Call `solve\(A\)`",
    ),
    "too many": (call(svd, k=5), ie.InputError, r"at most min\(m, n\) triplets; got A of shape"),
    "full spectrum": (
        lambda: jax.eval_shape(
            jax.grad(lambda A: call(svd, A, 2, system=ie.FullSpectrum())().vectors[0, 0].real), A0
        ),
        ie.InputError,
        r"system=FullSpectrum\(\)\)`: all min\(m, n\) triplets; got k = 2",
    ),
    "shapes": (call(solver_of(SIGMA, U0, V0)), ie.EigensolverError, r"vectors \(n, k\) = \(4, 2\)"),
    "U, σ, Vᴴ": (
        call(lambda A: (svd(A)[0], svd(A)[1].T, svd(A)[2]), SQUARE),
        ie.EigensolverError,
        r"A v = σ u and Aᴴ u = σ v.* An `svd` returns U, σ, Vᴴ",
    ),
    "another matrix": (
        call(solver_of(*svd(np.asarray(random((5, 4), np.complex128, 1))))),
        ie.EigensolverError,
        r"got a residual .* above the .* allowed \(2 of 2 triplets fail\)",
    ),
    "scaled values": (
        call(solver_of(SIGMA * 1.01, V0)),
        ie.EigensolverError,
        "got a residual",
    ),
    "signs": (
        call(solver_of(SIGMA, V0, -U0)),
        ie.EigensolverError,
        r"left vectors of the phase that A v = σ u gives them; got uᴴAv = -.* for triplet",
    ),
    "phases": (
        call(solver_of(SIGMA, V0, U0 * np.exp(0.1j))),
        ie.EigensolverError,
        r"Turn u and v together, or return \(values, vectors\) alone",
    ),
    "NaN": (
        call(solver_of(SIGMA, V0 * np.nan, U0)),
        ie.EigensolverError,
        "finite triplets; got NaN or inf in triplet 0",
    ),
    "NaN in left vectors": (
        call(solver_of(SIGMA, V0, U0 * [1, np.nan, 1, 1])),
        ie.EigensolverError,
        "NaN or inf in triplet 1",
    ),
    "zero vector": (
        call(solver_of(SIGMA, V0 * [1, 0, 1, 1])),
        ie.EigensolverError,
        "vectors that are not zero; got one for triplet 1",
    ),
    "twice": (
        call(lambda A: tuple(part[..., [0, 0]] for part in svd(A))),
        ie.EigensolverError,
        r"pairs 0 and 1 with ½\|uᴴu' \+ vᴴv'\| = 1.000000 of 1",
    ),
    "zero": (
        call(svd, LOW_RANK, 3),
        ie.EigensolverError,
        r"positive singular values; got σ = .* for triplet 2, .* zero singular value has no deriv",
    ),
    "zero alone": (
        call(lambda A: tuple(part[..., 2:3] for part in svd(A)), LOW_RANK, 1),
        ie.EigensolverError,
        r"positive singular values; got σ = .* for triplet 0",
    ),
    "negative": (
        call(solver_of(-SIGMA, V0, -U0)),
        ie.EigensolverError,
        "Turn the signs of σ and u together",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_messages(case):
    run, error, message = FAILURES[case]
    with pytest.raises(error, match=message):
        run()


def test_milder_policies():
    first = lambda A: tuple(part[..., :3] for part in svd(A))
    with pytest.warns(ie.ForwardWarning, match="positive singular values"):
        call(first, LOW_RANK, 3, policy=ie.Policy(forward=ie.Action.WARN))()
    nan = call(first, LOW_RANK, 3, policy=ie.Policy(forward=ie.Action.NAN))()
    assert jnp.all(jnp.isnan(nan.values))
    inside = jax.jit(ie.eigensolver(first, ie.Singular(3)))
    with pytest.raises(jax.errors.JaxRuntimeError, match="positive singular values"):
        jax.block_until_ready(inside(LOW_RANK))


def test_a_cluster_that_k_cuts_fails_aloud():
    A = with_values([3.0, 1.0, 1.0, 0.5], (6, 4), np.float64)
    solve = ie.eigensolver(lambda A: tuple(part[..., :2] for part in svd(A)), ie.Singular(2))
    with pytest.raises(jax.errors.JaxRuntimeError, match="belongs to a cluster that k cuts"):
        jax.block_until_ready(jax.jit(jax.grad(lambda A: jnp.sum(solve(A).vectors[:, 1] ** 4)))(A))


def test_a_function_of_the_phase_is_called_out():
    """A phase that u and v share; that of u against v is determined by A."""
    A = random((5, 4), np.complex128)
    solve = ie.eigensolver(svd, ie.Singular(2))
    part = lambda z: z.real + 0.3 * z.imag
    with pytest.warns(ie.GaugeWarning, match="depends on the phase of pair 1"):
        jax.block_until_ready(jax.grad(lambda A: part(solve(A).left_vectors[0, 1]))(A))

    def of_both(A):
        solution = solve(A)
        return part(solution.left_vectors[0, 1] * solution.vectors[0, 1].conj())

    jax.grad(of_both)(A)
