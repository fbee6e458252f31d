"""Problems that once gave wrong numbers without a word, against derivatives of a hundred digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fuzz.cases import FEATURES, Case, Program, draw, symmetric
from fuzz.verdicts import RIGHT, WARNED, WARNED_RIGHT, judge
from problems import eigh

import implicit_eig as ie

RNG = np.random.default_rng(5)


def case(program, A, weights, rest=True):
    """A problem of one operator, with a random direction and random forms."""
    rng = np.random.default_rng(len(A))
    draw = lambda *shape: rng.standard_normal(shape)
    square = program.kind != "Singular"
    D = symmetric(draw(*A.shape)) if program.kind == "Hermitian" else draw(*A.shape)
    real = np.finfo(program.dtype).dtype
    parts = (1 + rng.random(program.k), symmetric(draw(*A.shape[1:] * 2)))
    w, P, Q = (part.astype(real) for part in (*parts, symmetric(draw(len(A), len(A)))))
    c = dict.fromkeys(FEATURES, 0.0) | weights
    dtype = np.dtype(program.dtype)
    operators = [A.astype(dtype)], [D.astype(dtype)]
    return Case(program, "given", *operators, 1.0, c, w, P, P if square else Q, rest)


def hermitian(spectrum):
    Q = np.linalg.qr(np.random.default_rng(1).standard_normal((len(spectrum),) * 2))[0]
    return symmetric((Q * np.asarray(spectrum)) @ Q.T)


def test_a_function_that_hardly_distinguishes_near_pairs():
    """Σ tr(P xxᵀ) + c (single densities), at gaps where a small c matters."""
    for dtype, gaps in (("float64", (5e-6, 1e-9)), ("float32", (1e-3, 4e-3))):
        program = Program("Hermitian", dtype, 3)
        for gap in gaps:
            A = hermitian([1.0, 1.0 + gap, 2.0, 3.0, 4.0, 5.0])
            found = judge(case(program, A, {"density": 1.0, "densities": 1.5e-6}))
            assert found.name in (RIGHT, WARNED_RIGHT), (dtype, gap, found)


def test_second_derivatives_of_small_singular_values():
    program = Program("Singular", "float64", 3, order="second")
    U, V = (np.linalg.qr(RNG.standard_normal((3, 3)))[0] for _ in range(2))
    for condition in (1e4, 1e8, 1e10, 1e12):
        A = (U * np.array([1.0, 0.5, 1 / condition])) @ V.T
        for name in ("values", "densities"):
            found = judge(case(program, A, {name: 1.0}))
            assert found.name in (RIGHT, WARNED, WARNED_RIGHT), (condition, name, found)
            assert found.name == RIGHT or condition > 1e4


def test_second_derivatives_next_to_an_exceptional_point():
    """Of the sum of two eigenvalues that nearly merge, which is smooth."""
    program = Program("General", "float64", 2, order="second")
    for split in (1e-2, 6.3e-5, 2e-5, 6e-6, 1e-7):
        A = np.array([[1.0, 1.0, 0.3], [split**2 / 4, 1.0, 0.1], [0.2, 0.4, 5.0]])
        found = judge(case(program, A, {"sum": 1.0}))
        assert found.name in (RIGHT, WARNED, WARNED_RIGHT), (split, found)
        assert found.name == RIGHT or split < 1e-2


def test_a_defective_pair_that_lapack_splits_is_refused():
    jordan = jnp.asarray([[3.0, 1.0, 0.2], [0.0, 3.0, 0.5], [0.0, 0.0, 7.0]])
    T = jnp.asarray([[1.0, 2.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 2.0]])
    solve = ie.eigensolver(first_two(np.linalg.eig), ie.General(2))
    for A in (jordan, jnp.linalg.solve(T, jordan @ T)):
        with pytest.raises(ie.EigensolverError, match="or the value is defective"):
            jax.grad(lambda A: jnp.sum(solve(A).values.real))(A)


def first_two(solver):
    def of_smallest(A):
        values, X = solver(A)
        order = np.argsort(values.real)[:2]
        return values[order], X[:, order]

    return of_smallest


def test_a_cluster_that_k_cuts_on_a_diagonal():
    """Where the right side of the adjoint is zero, or lies in one block: by a random one."""
    loss = lambda solve: lambda A: jnp.sum(jnp.arange(6.0) * solve(A).vectors[:, -1] ** 2)
    lowest = ie.eigensolver(lambda A: tuple(p[..., :2] for p in eigh(A)), ie.Hermitian(2))
    chain = -jnp.eye(3, k=1) - jnp.eye(3, k=-1)

    def of_one_chain(A):
        values, X = np.linalg.eigh(A[:3, :3])
        return values[:1], np.concatenate([X[:, :1], np.zeros((3, 1))])

    one = ie.eigensolver(of_one_chain, ie.Hermitian(1))
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(6)
        cut = jnp.diag(jnp.array([1.0, 2.0, 2.0, 3.0, 4.0, 5.0])[order])
        with pytest.raises(Exception, match="a cluster that k cuts"):
            jax.block_until_ready(jax.grad(loss(lowest))(cut))
    uncut = jnp.diag(jnp.array([1.0, 2.0, 2.5, 3.0, 4.0, 5.0]))
    assert not jnp.any(jax.grad(loss(lowest))(uncut))
    with pytest.raises(Exception, match="a cluster that k cuts"):
        jax.block_until_ready(jax.grad(loss(one))(jax.scipy.linalg.block_diag(chain, chain)))


def test_a_subspace_that_cuts_a_cluster():
    A = jnp.asarray(hermitian([1.0, 2.0, 2.0, 3.0]))
    solve = ie.eigensolver(np.linalg.eigh, ie.Subspace(2))
    with pytest.raises(ie.EigensolverError, match="a k between clusters"):
        solve(A)


def test_what_uses_values_and_vectors_of_a_cluster():
    """A mixture is warned about in any basis, a sum of two functions where it proves nothing."""
    form = jnp.asarray(symmetric(RNG.standard_normal((3, 3))))
    aligned, turned = jnp.diag(jnp.array([1.0, 1.0, 2.0])), jnp.asarray(hermitian([1.0, 1.0, 2.0]))
    solve = ie.eigensolver(eigh, ie.Hermitian(3))

    def mixture(A, P):
        values, X = solve(A)
        return jnp.sum(jnp.exp(values) * jnp.sum(X * (P @ X), axis=0))

    def apart(A, P):
        values, X = solve(A)
        return values[0] + values[1] + jnp.sum(X[:, :2] * (P @ X[:, :2]))

    couples = jnp.zeros((3, 3)).at[0, 1].set(1.0).at[1, 0].set(1.0)
    either = lambda A, P, mix: mixture(A, P) if mix else apart(A, P)
    gradient = jax.jit(jax.grad(either), static_argnums=2)
    for A, P, mix, words in (
        (aligned, couples, True, "one that uses both"),
        (turned, form, True, "treats the values of a cluster alike"),
        (aligned, couples, False, "one that uses both"),
    ):
        with pytest.warns(ie.GaugeWarning, match=words):
            jax.block_until_ready(gradient(A, P, mix))
    jax.block_until_ready(gradient(turned, form, False))


def test_pairs_so_near_that_rounding_turns_them():
    A = jnp.asarray(hermitian([1.0, 1.0 + 1e-12, 2.0, 3.0]))
    D = jnp.asarray(hermitian([1.0, -1.0, 0.5, 2.0])[::-1, ::-1])
    solve = ie.eigensolver(eigh, ie.Hermitian(3))
    single = lambda A: solve(A).vectors[0, 0] ** 2
    space = lambda A: jnp.sum(solve(A).vectors[0, :2] ** 2)
    with pytest.warns(ie.GaugeWarning, match="does not distinguish near pairs"):
        jax.block_until_ready(jax.grad(single)(A))
    with pytest.warns(ie.GaugeWarning, match="far enough apart"):
        jax.block_until_ready(jax.jvp(space, (A,), (D,)))
    jax.block_until_ready(jax.grad(space)(A))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "kinds"),
    [(seed, None) for seed in (1591, 100256, 101836, 103358, 107782, 200751, 205454)]
    + [(30125, ["General"])],
)
def test_problems_that_random_search_found(seed, kinds):
    """Exceptional points, a cut by a small gap, a B that is nearly singular, stiff rows."""
    found = judge(draw(seed, kinds))
    assert found.name in (RIGHT, WARNED, WARNED_RIGHT), found


def test_a_nearly_singular_metric():
    """The smallest eigenvalue of B, by cancellation; a small diagonal entry is no loss."""
    A = jnp.diag(jnp.array([1.0, 2.0, 3.0]))
    t = 0.3
    Q = jnp.array([[np.cos(t), -np.sin(t), 0.0], [np.sin(t), np.cos(t), 0.0], [0.0, 0.0, 1.0]])
    solve = ie.eigensolver(ie.solvers.lapack(), ie.Hermitian(3))
    small = jnp.diag(jnp.array([1.0, 1e-14, 1.0]))
    turned = Q @ small @ Q.T
    turned = (turned + turned.T) / 2
    with pytest.warns(ie.ExceptionalPointWarning, match="a B far enough from a singular one; got"):
        jax.block_until_ready(solve(A, turned).values)
    solve(A, small)
    solve(A, Q @ jnp.diag(jnp.array([1.0, 1e-8, 1.0])) @ Q.T)


def test_a_matrix_function_near_an_exceptional_point():
    """Its second derivatives lose κ³; the first κ²."""
    P = jnp.asarray(RNG.standard_normal((4, 4)))
    J = jnp.diag(jnp.array([1.0, 1.0 + 1e-5, 2.0, 3.0])).at[0, 1].set(1.0)
    A = P @ J @ jnp.linalg.inv(P)
    policy = ie.Policy(gauge=ie.Action.IGNORE)
    solve = ie.eigensolver(ie.solvers.lapack(), ie.General(4, left=True), policy=policy)
    f = lambda A: jnp.sum(P * ie.matrix_function(solve(A), jnp.exp).as_matrix().real)
    gradient, exact = (jax.grad(g)(A) for g in (f, lambda A: jnp.sum(P * jax.scipy.linalg.expm(A))))
    assert jnp.linalg.norm(gradient - exact) < 1e-3 * jnp.linalg.norm(exact)
    with pytest.warns(ie.ExceptionalPointWarning, match="next to another one, so that second"):
        jax.block_until_ready(jax.jvp(jax.grad(f), (A,), (P,)))
