"""General pencils and polynomials: every order and mode against finite differences."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp
from problems import (
    EPS,
    Counting,
    Exchanged,
    by_both_modes,
    dense,
    eigh,
    jitted,
    random_hermitian,
)

import implicit_eig as ie

N, K = 7, 3


def largest(values, *vectors):
    order = np.argsort(-np.abs(values) - 1e-6 * values.imag)
    return (values[order], *(part[:, order] for part in vectors))


def eig(A, B=None):
    """Finite pairs, the largest first, without left vectors."""
    values, vectors = sla.eig(dense(A), None if B is None else dense(B))
    finite = np.isfinite(values)
    return largest(values[finite], vectors[:, finite])


def eig_left(A, B=None):
    values, left, vectors = sla.eig(dense(A), None if B is None else dense(B), left=True)
    return largest(values, vectors, left)


def polyeig(*coefficients):
    """By the companion pencil."""
    *rest, top = map(dense, coefficients)
    n, d = len(top), len(rest)
    A, B = np.eye(n * d, k=n, dtype=top.dtype), np.eye(n * d, dtype=top.dtype)
    A[-n:], B[-n:, -n:] = -np.hstack(rest), top
    values, vectors = eig(A, B)
    return values, vectors[:n]


def random(seed, n=N, dtype=np.float64):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n))
    if np.issubdtype(dtype, np.complexfloating):
        A = A + 1j * rng.standard_normal((n, n))
    return jnp.asarray(A.astype(dtype))


def pencil(dtype=np.float64):
    return random(0, dtype=dtype), jnp.eye(N, dtype=dtype) + 0.2 * random(1, dtype=dtype)


def loss_of(solve, n=N, left=False, seed=3):
    """A loss of values and vectors that depends on no phase."""
    S = jnp.asarray(np.random.default_rng(seed).standard_normal((n, solve.problem.k)))

    def loss(*operators):
        solution = solve(*operators)
        values, vectors = solution
        S_ = S.astype(values.real.dtype)
        out = jnp.sum(jnp.sin(values.real) + values.imag**2) + jnp.sum(S_ * jnp.abs(vectors) ** 2)
        if left:
            out = out + 0.1 * jnp.sum(S_**2 * jnp.abs(solution.left_vectors) ** 2)
        return out

    return loss


def paired(gradients, directions):
    """JAX's pairing of the gradient of a real function with tangents."""
    parts = zip(jax.tree.leaves(gradients), jax.tree.leaves(directions), strict=True)
    return sum(jnp.sum(g * d).real for g, d in parts)


CASES = {
    "general": (eig, ie.General(K), 1, np.float64),
    "complex": (eig, ie.General(K), 1, np.complex128),
    "pencil": (eig, ie.General(K), 2, np.float64),
    "left vectors of the solver": (eig_left, ie.General(K, left=True), 2, np.float64),
    "left vectors by solves": (eig, ie.General(K, left=True), 2, np.complex128),
    "quadratic": (polyeig, ie.Polynomial(K), 3, np.complex128),
    "cubic, left vectors": (polyeig, ie.Polynomial(K, left=True), 4, np.float64),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_modes_and_orders_against_finite_differences(case):
    solver, problem, count, dtype = CASES[case]
    A, B = pencil(dtype)
    # the last one is well conditioned: B, or the leading coefficient
    between = tuple(random(s, dtype=dtype) for s in range(2, count))
    operators = (A, *between, B) if count > 1 else (A,)
    directions = tuple(random(s, dtype=dtype) for s in range(5, 5 + count))
    loss = loss_of(ie.eigensolver(solver, problem), left=problem.left)
    gradient = jax.grad(loss, tuple(range(count)))
    (first, second), (gradients, product), (difference, difference_of_first) = by_both_modes(
        loss, operators, directions, step=1e-4
    )
    assert abs(first - difference) < 1e-6 * (1 + abs(float(difference)))
    assert all(g.dtype == dtype for g in gradients)
    assert abs(paired(gradients, directions) - first) < 1e-9 * (1 + abs(float(first)))
    assert abs(second - difference_of_first) < 1e-5 * (1 + abs(float(difference_of_first)))
    products = [product]
    if count == 1:  # reverse over reverse
        twice = lambda *P: paired(gradient(*P), directions)
        products.append(jax.jit(jax.grad(twice, (0,)))(*operators))
    for product in products:
        assert abs(paired(product, directions) - second) < 1e-8 * (1 + abs(float(second)))


def test_values_are_holomorphic():
    """Cauchy–Riemann: the tangent along iD is i times that along D, of values and of vectors."""
    A, B = pencil(np.complex128)
    solve = ie.eigensolver(eig, ie.General(K))
    D = random(5, dtype=np.complex128)
    push = jax.jit(lambda D: jax.jvp(lambda A: solve(A, B).values, (A,), (D,))[1])
    tangents = [push(c * D) for c in (1, 1j)]
    assert jnp.max(jnp.abs(tangents[1] - 1j * tangents[0])) < 1e-12


def test_hermitian_given_as_general_is_hermitian():
    A = random_hermitian(N, np.complex128)
    lowest = lambda A, B=None: tuple(part[..., :K] for part in eigh(A))
    S = jnp.asarray(np.random.default_rng(0).standard_normal((N, K)))
    loss = lambda values, vectors: (
        jnp.sum(jnp.sin(values.real)) + jnp.sum(S * jnp.abs(vectors) ** 2)
    )
    hermitian, general = jitted(
        *(
            jax.grad(lambda A, p=p: loss(*ie.eigensolver(lowest, p(K))(A)))
            for p in (ie.Hermitian, ie.General)
        )
    )(A)
    # the Hermitian gradient is the Hermitian part, in JAX's conjugate convention
    part = (general + general.conj().T) / 2
    gap = float(np.min(np.diff(eigh(A)[0][: K + 1])))
    assert jnp.max(jnp.abs(part - hermitian)) < 1e3 * N * EPS[np.dtype(np.float64)] / gap


def test_degree_one_is_a_pencil():
    A, B = pencil()
    solver = lambda A, C: eig(A, -C)
    polynomial = jax.grad(loss_of(ie.eigensolver(solver, ie.Polynomial(K))), (0, 1))
    general, degree_one = jitted(
        jax.grad(loss_of(ie.eigensolver(eig, ie.General(K))), (0, 1)),
        lambda A, B: polynomial(A, -B),
    )(A, B)
    assert jnp.max(jnp.abs(general[0] - degree_one[0])) < 1e-10
    assert jnp.max(jnp.abs(general[1] + degree_one[1])) < 1e-10


@pytest.mark.slow
def test_values_with_left_vectors_cost_no_solve():
    A, B = pencil()
    for solver, problem, expected in (
        (eig_left, ie.General(K), 0),
        (eig, ie.General(K), K),
        # as many again show that the systems are nonsingular where nothing beyond K is known
        (lambda *P: [part[..., :K] for part in eig(*P)], ie.General(K), 2 * K),
        (eig, ie.General(K, left=True), K),  # those that find the left vectors
    ):
        counting = Counting()
        solve = ie.eigensolver(solver, problem, linear_solver=counting.solver())
        for f in (lambda *P, s=solve: s(*P).values, solve.values):
            counting.calls = 0
            jax.grad(lambda A, f=f: jnp.sum(jnp.sin(f(A, B).real)))(A)
            assert counting.calls == expected


def test_values_method_in_forward_mode():
    A, B = pencil()
    solve = ie.eigensolver(eig, ie.General(K))
    D = random(5)
    found, expected = jitted(
        lambda A: jax.jvp(lambda A: solve.values(A, B), (A,), (D,))[1],
        lambda A: jax.jvp(lambda A: solve(A, B).values, (A,), (D,))[1],
    )(A)
    assert jnp.max(jnp.abs(found - expected)) < 1e-12


FORMS = {
    "sparse": lambda D: ie.SparseOperator(
        D.reshape(-1), np.repeat(np.arange(N), N), np.tile(np.arange(N), N), (N, N)
    ),
    "matrix-free": lambda D: lx.FunctionLinearOperator(
        lambda v: D @ v, jax.ShapeDtypeStruct((N,), D.dtype)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_operators(form, dtype):
    A, B = pencil(dtype)
    loss = loss_of(ie.eigensolver(eig, ie.General(K, left=True)), left=True)
    make = FORMS[form]
    found, expected = jitted(
        jax.grad(lambda A, B: loss(make(A), make(B)), (0, 1)), jax.grad(loss, (0, 1))
    )(A, B)
    for f, e in zip(found, expected, strict=True):
        assert jnp.max(jnp.abs(f - e)) < 1e-6 * jnp.max(jnp.abs(e))


@pytest.mark.slow
def test_linear_solvers():
    A, B = pencil()
    make = FORMS["sparse"]

    def gradient(linear_solver):
        loss = loss_of(ie.eigensolver(eig, ie.General(K), linear_solver=linear_solver))
        return jax.grad(lambda A: loss(make(A), make(B)))

    dense_loss = loss_of(ie.eigensolver(eig, ie.General(K)))
    solvers = (
        ie.SparseDirect(),
        lx.GMRES(rtol=1e-12, atol=1e-12, restart=20),
        ie.host_linear_solver(lambda A, b: np.linalg.solve(dense(A), b)),
    )
    expected, *every = jitted(jax.grad(lambda A: dense_loss(A, B)), *map(gradient, solvers))(A)
    for found in every:
        assert jnp.max(jnp.abs(found - expected)) < 1e-8 * jnp.max(jnp.abs(expected))


def test_systems_of_real_values_are_factorised_in_real_numbers():
    A, make, seen = random(0) + 3 * jnp.eye(N), FORMS["sparse"], []

    def factorize(M):
        seen.append(M.dtype.kind)
        return sp.linalg.splu(M).solve

    gradients = [
        jax.grad(lambda A, s=s: loss_of(ie.eigensolver(eig, ie.General(K), linear_solver=s))(A))
        for s in (None, ie.SparseDirect(factorize))
    ]
    expected, found = jitted(gradients[0], lambda A: gradients[1](make(A)))(A)
    rows, cols = np.repeat(np.arange(N), N), np.tile(np.arange(N), N)
    assert jnp.max(jnp.abs(found.data - expected[rows, cols])) < 1e-9 * jnp.max(jnp.abs(expected))
    real = eig(np.asarray(A))[0][:K].imag == 0
    assert 0 < real.sum() < K
    assert sorted(seen) == ["c"] * int((~real).sum()) + ["f"] * int(real.sum())


KINDS = {
    "pencil": (eig, ie.General(K), lambda dtype: pencil(dtype)),
    "quadratic": (
        polyeig,
        ie.Polynomial(K),
        lambda dtype: (*pencil(dtype)[::-1], random(2, dtype=dtype)),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_batches(kind):
    solver, problem, operators = KINDS[kind]
    A, *rest = operators(np.float64)
    gradient = jax.jit(jax.grad(lambda A: loss_of(ie.eigensolver(solver, problem))(A, *rest)))
    stack = jnp.stack([A, A + 0.1 * random(5)])
    found = jax.jit(jax.vmap(gradient))(stack)
    expected = jnp.stack([gradient(a) for a in stack])
    assert jnp.max(jnp.abs(found - expected)) < 1e-10 * jnp.max(jnp.abs(expected))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("pencil", np.float32), ("pencil", np.complex64), ("quadratic", np.complex64)],
)
def test_single_precision(kind, dtype):
    solver, problem, operators = KINDS[kind]
    operators = operators(dtype)
    double = np.result_type(dtype, np.float64)
    gradient = jax.jit(jax.grad(loss_of(ie.eigensolver(solver, problem))))
    found, expected = gradient(*operators), gradient(*(A.astype(double) for A in operators))
    assert found.dtype == dtype
    difference = float(jnp.max(jnp.abs(found - expected.astype(dtype))))
    assert difference < 1e-3 * float(jnp.max(jnp.abs(expected)))


def test_infinite_values_left_out():
    """Finite pairs of a pencil with infinite ones."""
    A = random(0)
    B = jnp.diag(jnp.asarray([1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0]))
    loss = loss_of(ie.eigensolver(eig, ie.General(2)))
    D = (random(5), random(6))
    # B stays singular: its last rows and columns do not move
    mask = jnp.asarray(np.outer(np.arange(N) < 4, np.arange(N) < 4), float)
    D = (D[0], D[1] * mask)
    push = jax.jit(lambda *P: jax.jvp(loss, P, D))
    found = push(A, B)[1]
    expected = ie.testing.finite_difference(lambda *P: push(*P)[0], (A, B), D, step=1e-4, order=4)
    assert abs(found - expected) < 1e-6 * (1 + abs(expected))


def general(solver, k=K, **options):
    return lambda *operators: ie.eigensolver(solver, ie.General(k), **options)(*operators)


A0, B0 = np.asarray(random(0)), np.asarray(pencil()[1])
ok = lambda A, B=None: eig(A, B)
BAD = {
    "k": (lambda: ie.General(0), ie.InputError, r"`General\(k=...\)`: a positive number"),
    "k of a polynomial": (lambda: ie.Polynomial(True), ie.InputError, r"`Polynomial\(k=...\)`"),
    "no operators": (lambda: general(ok)(A0, A0, A0), ie.InputError, "one operator A, or two"),
    "one coefficient": (
        lambda: ie.eigensolver(ok, ie.Polynomial(1))(A0),
        ie.InputError,
        "two operators or more",
    ),
    "shape": (lambda: general(ok)(A0[:, :3]), ie.InputError, "square operators of one size"),
    "sizes": (lambda: general(ok)(A0, B0[:3, :3]), ie.InputError, "square operators of one size"),
    "k above n": (lambda: general(ok, N + 1)(A0), ie.InputError, f"at most {N} pairs"),
    "system": (
        lambda: jax.eval_shape(
            jax.grad(lambda A: general(ok, system=ie.Deflated())(A).values[0].real), A0
        ),
        ie.InputError,
        r"system=Deflated\(\)\)`: `Bordered\(\)`",
    ),
    "infinite": (
        lambda: general(lambda A: (np.full(K, np.inf), np.ones((N, K))))(A0),
        ie.EigensolverError,
        "Infinite values of a pencil with singular B",
    ),
    "zero vector": (
        lambda: general(lambda A: (eig(A)[0], 0 * eig(A)[1]))(A0),
        ie.EigensolverError,
        "vectors that are not zero",
    ),
    "another problem's pairs": (
        lambda: general(lambda A: eig(A.T))(A0),
        ie.EigensolverError,
        r"got ‖T\(λ\) x‖",
    ),
    "left vectors that are conjugate": (
        lambda: general(lambda A: (*eig_left(A)[:2], eig_left(A)[2].conj()))(A0 + 1j * B0),
        ie.EigensolverError,
        r"of a left vector‖ .* columns y with yᴴA = λ yᴴB",
    ),
    "a pair twice": (
        lambda: general(lambda A: tuple(part[..., [0, 0, 1]] for part in eig(A)))(A0),
        ie.EigensolverError,
        "pairs 0 and 1 with one value and one vector",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_messages(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("jit", [False, True])
def test_a_pair_given_twice_is_seen_whatever_counts_as_a_cluster(k, jit):
    policy, solver = ie.Policy(degeneracy_rtol=1e-12), Exchanged()
    solve = ie.eigensolver(solver, ie.General(k), policy=policy)
    solve = jax.jit(solve) if jit else solve
    for values in ((3.0, 3.0 * (1 + 1e-10)), (0.0, 1e-16), (2.0, 2.0)):
        answer = np.array([*values, 1.0]), np.eye(3)[:, [0, 0, 1]]
        solver.now = lambda A, answer=answer: answer
        with pytest.raises(Exception, match="pairs 0 and 1 with one value and one vector"):
            jax.block_until_ready(solve(jnp.asarray(np.diag([values[0], 1.0, 7.0]))))


def test_nearly_parallel_vectors_of_distinct_values_are_different_pairs():
    A = jnp.asarray([[1.0, 1.0], [1e-8, 1.0]])  # values 1 ± 1e-4, vectors 2e-4 apart
    solve = ie.eigensolver(ok, ie.General(2))
    assert jnp.max(jnp.abs(jnp.abs(solve(A).values - 1) - 1e-4)) < 1e-10


def test_a_cluster_that_k_cuts_is_no_silent_number():
    """Its bordered system is singular: the solve fails, aloud."""
    A = jnp.diag(jnp.asarray([3.0, 3.0, 1.0]))
    vector = np.array([[1.0], [1.0], [0.0]])
    solve = ie.eigensolver(lambda A: (np.array([3.0]), vector), ie.General(1))
    S = jnp.asarray([[1.0], [3.0], [5.0]])
    loss = lambda A: jnp.sum(S * jnp.abs(solve(A).vectors) ** 2)
    with pytest.raises(jax.errors.JaxRuntimeError, match="or its cluster is cut by k"):
        jax.block_until_ready(jax.jit(jax.grad(loss))(A))
