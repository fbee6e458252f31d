"""What the solver returns is checked, and the message says what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import eigh, random_definite, random_hermitian

import implicit_eig as ie
from implicit_eig.checks.policy import forward_check
from implicit_eig.problems._hermitian_check import UnfitPairs

N, K = 10, 3
A = random_hermitian(N, seed=0)
B = random_definite(N, seed=3)
VALUES, VECTORS = eigh(np.asarray(A), np.asarray(B))


def corrupt(change):
    """A solver whose answer `change(values, vectors)` has spoilt."""
    return lambda A, B: change(VALUES.copy(), VECTORS.copy())


def lie_about_value(values, vectors):
    values[1] += 1e-3
    return values, vectors


def lie_about_vector(values, vectors):
    vectors[:, 2] += 1e-4
    return values, vectors


def not_finite(values, vectors):
    vectors[0, 1] = np.nan
    return values, vectors


def infinite_value(values, vectors):
    values[2] = np.inf
    return values, vectors


def zero_vector(values, vectors):
    vectors[:, 0] = 0
    return values, vectors


def same_vector_twice(values, vectors):
    values[1], vectors[:, 1] = values[0], -vectors[:, 0]
    return values, vectors


FAULTS = {
    "value": (lie_about_value, r"residual ‖A x − λ B x‖ of .* for pair 1"),
    "vector": (lie_about_vector, r"for pair 2, which is .*Tighten the solver's tolerance"),
    "nan": (not_finite, r"finite pairs; got NaN or inf in pair 1"),
    "inf": (infinite_value, r"finite pairs; got NaN or inf in pair 2"),
    "zero": (zero_vector, r"vectors with xᴴBx > 0; got none for pair 0"),
    "twice": (same_vector_twice, r"independent vectors; got pairs 0 and 1 with"),
}

SHAPES = {
    "one": (lambda values, vectors: (values,), r"\(values, vectors\); got a tuple of 1"),
    "four": (lambda values, vectors: (values,) * 4, r"got a tuple of 4"),
    "array": (lambda values, vectors: vectors, r"got ndarray"),
    "swapped": (lambda values, vectors: (vectors, values), r"got shapes \(10, 10\) and \(10,\)"),
    "transposed": (
        lambda values, vectors: (values[:3], vectors[:, :3].T),
        r"Transpose the vectors",
    ),
    "few": (lambda values, vectors: (values[:2], vectors[:, :2]), r"at least k = 3 pairs; got 2"),
    "complex": (lambda values, vectors: (values + 1j, vectors), r"must return real values here"),
    "complex vectors": (
        lambda values, vectors: (values, vectors * 1j),
        r"must return real vectors",
    ),
}


@pytest.mark.parametrize("name", [*FAULTS, *SHAPES])
@pytest.mark.parametrize("transform", ["eager", "jit", "grad", "vmap"])
def test_faults_raise(name, transform):
    change, match = (FAULTS | SHAPES)[name]
    solve = ie.eigensolver(corrupt(change), ie.Hermitian(K))
    f = {
        "eager": lambda A: solve(A, B).values,
        "jit": jax.jit(lambda A: solve(A, B).values),
        "grad": jax.grad(lambda A: jnp.sum(solve(A, B).values)),
        "vmap": lambda A: jax.vmap(lambda A: solve(A, B).values)(A[None]),
    }[transform]
    # outside JAX's runtime the exception keeps its type
    error = ie.EigensolverError if transform in ("eager", "grad") else jax.errors.JaxRuntimeError
    with pytest.raises(error, match=match):
        jax.block_until_ready(f(A))


@pytest.mark.parametrize("name", ["value", "nan", "twice"])
@pytest.mark.parametrize("traceable", [False, True])
def test_policies(name, traceable):
    change, match = FAULTS[name]
    solver = corrupt(change)
    if traceable:
        answer = jax.tree.map(jnp.asarray, solver(None, None))
        solver = ie.traceable(lambda A, B: answer)
    make = lambda action: ie.eigensolver(solver, ie.Hermitian(K), policy=ie.Policy(forward=action))
    with pytest.raises(ie.EigensolverError, match=match):
        make(ie.Action.RAISE)(A, B)
    with pytest.warns(ie.ForwardWarning, match=match):
        warned = make(ie.Action.WARN)(A, B)
    ignored = make(ie.Action.IGNORE)(A, B)
    assert jnp.array_equal(warned.values, ignored.values, equal_nan=True)
    lost = make(ie.Action.NAN)(A, B)
    assert bool(jnp.all(jnp.isnan(lost.values)))
    assert bool(jnp.all(jnp.isnan(lost.vectors)))


def test_nan_reaches_the_faulty_member_of_a_batch_only():
    spoil = lambda A: (np.linalg.eigh(A)[0] + (A[0, 0] > 5), np.linalg.eigh(A)[1])
    policy = ie.Policy(forward=ie.Action.NAN)
    solve = ie.eigensolver(spoil, ie.Hermitian(2), policy=policy)
    stack = jnp.stack([A, A + 10 * jnp.eye(N)])
    values = jax.vmap(lambda A: solve(A).values)(stack)
    assert bool(jnp.all(jnp.isfinite(values[0])))
    assert bool(jnp.all(jnp.isnan(values[1])))


def test_loose_solver_is_accepted_when_told():
    strict = ie.eigensolver(corrupt(lie_about_vector), ie.Hermitian(K))
    loose = ie.eigensolver(
        corrupt(lie_about_vector), ie.Hermitian(K), policy=ie.Policy(residual_rtol=1e-2)
    )
    with pytest.raises(ie.EigensolverError):
        strict(A, B)
    stats = loose(A, B).stats
    assert 1e-5 < stats["residuals"][2] < 1e-2
    assert stats["residuals"][0] < 1e-13


def test_solvers_own_exception_arrives():
    def solver(A, B):
        raise ArithmeticError("no convergence after 300 iterations")

    solve = ie.eigensolver(solver, ie.Hermitian(K))
    with pytest.raises(ArithmeticError, match="no convergence after 300 iterations"):
        solve(A, B)
    with pytest.raises(jax.errors.JaxRuntimeError, match="no convergence after 300 iterations"):
        jax.block_until_ready(jax.jit(lambda A: solve(A, B).values)(A))


def test_vectors_of_any_scale_and_skew_clusters_are_normalised():
    """Any basis of a cluster comes out B-orthonormal; any scaling is removed."""
    spectrum = np.array([1.0, 1.0, 2.0, 3.0])
    rng = np.random.default_rng(0)
    Q, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    matrix = jnp.asarray((Q * spectrum) @ Q.T)
    skew = Q.copy()
    skew[:, 1] = 0.6 * Q[:, 0] - 7.0 * Q[:, 1]
    skew[:, 2] *= 1e-8
    X = ie.eigensolver(lambda A: (spectrum, skew), ie.Hermitian(3))((matrix + matrix.T) / 2).vectors
    assert jnp.max(jnp.abs(X.T @ X - jnp.eye(3))) < 1e-14


def test_residual_of_a_value_near_zero_is_judged_by_the_operator():
    spectrum = np.array([0.0, 1e-17, 1.0, 5.0])
    Q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))
    matrix = jnp.asarray((Q * spectrum) @ Q.T)
    solution = ie.eigensolver(np.linalg.eigh, ie.Hermitian(3))((matrix + matrix.T) / 2)
    assert bool(jnp.all(jnp.isfinite(solution.vectors)))


def test_three_outputs_are_accepted():
    solve = ie.eigensolver(lambda A, B: (VALUES, VECTORS, VECTORS), ie.Hermitian(K))
    assert solve(A, B).values.shape == (K,)


def test_solution_unpacks():
    solution = ie.eigensolver(eigh, ie.Hermitian(K))(A, B)
    values, vectors = solution
    assert values is solution.values
    assert vectors is solution.vectors
    assert solution.left_vectors is None
    assert len(solution) == 2
    assert solution[0] is values
    assert solution[-1] is vectors


def test_a_verdict_that_the_host_does_not_share_passes():
    """Programs round otherwise than NumPy, so that a figure at its limit may be on either side."""
    check = forward_check(ie.Policy(), UnfitPairs(1e-8))
    one = np.ones(1)
    fine = (0 * one, one, one, np.array([0 * one, one]), one > 0, np.eye(1), one, np.array(True))
    assert check(np.array(True), *fine)
    with pytest.raises(ie.EigensolverError, match="got a residual"):
        check(np.array(True), 2 * one, *fine[1:])


def test_the_residual_is_public():
    """Users print it, and stack it: here as the conditions of an `implicit_function`."""
    problem = ie.Hermitian(K)
    solution = ie.eigensolver(eigh, problem)(A, B)
    pairs, normalisation = problem.residual(solution, A, B)
    assert pairs.shape == (N, K)
    assert normalisation.shape == (K, K)
    assert jnp.max(jnp.abs(pairs)) < 1e-13
    assert jnp.max(jnp.abs(normalisation)) < 1e-13
    wrong = ie.Solution(solution.values + 0.1, solution.vectors)
    assert jnp.max(jnp.abs(problem.residual(wrong, A, B)[0])) > 1e-3

    one = ie.Hermitian(1)
    solver = lambda A: (VALUES[:1], VECTORS[:, :1])
    f = ie.implicit_function(solver, lambda z, A: one.residual(ie.Solution(*z), A, B))
    D = random_hermitian(N, seed=7)
    found = jax.jvp(lambda A: f(A)[1] ** 2, (A,), (D,))[1]
    declared = ie.eigensolver(eigh, one)
    expected = jax.jvp(lambda A: declared(A, B).vectors ** 2, (A,), (D,))[1]
    assert jnp.max(jnp.abs(found - expected)) < 1e-11


def test_a_vector_of_an_infinite_value_is_passed_on():
    solve = ie.eigensolver(
        lambda A, B: (np.array([1.0, np.inf]), np.eye(2)),
        ie.General(2),
        policy=ie.Policy(forward=ie.Action.IGNORE),
    )
    vectors = solve(jnp.eye(2), jnp.diag(jnp.array([1.0, 0.0]))).vectors
    assert np.array_equal(vectors, np.eye(2))
