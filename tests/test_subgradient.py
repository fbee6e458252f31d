"""The least-norm subgradient of an extreme value, against its own definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg as sla
from problems import eigh, random_definite, random_hermitian

import implicit_eig as ie
from implicit_eig.crossings import subgradient

N = 6
P = 8
SPECTRUM = np.array([1.0, 2.0, 3.0, 7.0, 7.0, 7.0])


def family(dtype, size, seed=0):
    """p -> (A(p), B(p)) whose largest value is `size`-fold at p = 0, and the pieces ∂ₚ there."""
    spectrum = SPECTRUM.astype(np.finfo(dtype).dtype)
    spectrum[3 : 6 - size] = [3.5, 4.0, 5.0][: 3 - size]
    B = np.asarray(random_definite(N, dtype, seed))
    _, X = sla.eigh(np.asarray(random_hermitian(N, dtype, seed + 1)), B)
    BX = B @ X
    A = (BX * spectrum) @ BX.conj().T
    A, B = jnp.asarray((A + A.conj().T) / 2), jnp.asarray(B)
    As = jnp.stack([random_hermitian(N, dtype, seed + 10 + i) for i in range(P)])
    Bs = jnp.stack([0.1 * random_hermitian(N, dtype, seed + 20 + i) for i in range(P)])
    X = X[:, N - size :]
    pieces = [
        X.conj().T @ (np.asarray(a) - 7 * np.asarray(b)) @ X for a, b in zip(As, Bs, strict=True)
    ]

    def pencil(p):
        p = p.astype(dtype)
        return A + jnp.tensordot(p, As, 1), B + jnp.tensordot(p, Bs, 1)

    return pencil, np.stack(pieces)


def random_weights(rng, size, dtype):
    L = rng.standard_normal((size, size))
    if np.issubdtype(dtype, np.complexfloating):
        L = L + 1j * rng.standard_normal((size, size))
    rank = rng.integers(1, size + 1)
    V = L[:, :rank] @ L[:, :rank].conj().T
    return V / np.trace(V).real


def check_optimal(g, pieces, rtol, dtype):
    """⟨g, G(V)⟩ ≥ ‖g‖² for all V, and g is one of the G(V)."""
    K = np.tensordot(g, pieces, 1)
    assert np.linalg.eigvalsh(K)[0] >= (1 - rtol) * (g @ g)
    rng = np.random.default_rng(0)
    for _ in range(200):
        V = random_weights(rng, pieces.shape[1], dtype)
        other = np.einsum("pij,ji->p", pieces, V).real
        assert g @ other >= (1 - rtol) * (g @ g)
    # nothing separates g from the convex set: its support function is at least ⟨d, g⟩ for all d
    for _ in range(200):
        d = rng.standard_normal(len(g))
        assert np.linalg.eigvalsh(np.tensordot(d, pieces, 1))[-1] >= d @ g - 1e-9


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_the_definition(dtype, size):
    pencil, pieces = family(dtype, size)
    solve = ie.eigensolver(eigh, ie.Hermitian(N))
    f = jax.jit(lambda p: solve(*pencil(p)))
    zero = jnp.zeros(P)
    g = ie.minimum_norm_subgradient(f, zero)
    check_optimal(np.asarray(g), pieces, 1e-8, dtype)
    if size == 1:
        np.testing.assert_allclose(g, jax.grad(lambda p: f(p).values[-1])(zero), atol=1e-14)

    # the slope of the largest value along −g is −‖g‖², and no other direction is steeper
    ops, dots = jax.jvp(pencil, (zero,), (-g,))
    slope = ie.directional_derivatives(solve, ops, dots)[-1]
    assert abs(slope + g @ g) < 1e-8 * (g @ g)


def test_the_smallest_value_in_descending_order_and_single_precision():
    pencil, pieces = family(np.float32, 2)

    def descending(A, B):
        values, X = eigh(-A, B)
        return -values[2:], X[:, 2:]

    solve = ie.eigensolver(descending, ie.Hermitian(4))
    f = lambda p: solve(*(sign * M for sign, M in zip((-1, 1), pencil(p), strict=True)))
    g = ie.minimum_norm_subgradient(f, jnp.zeros(P, jnp.float32), index=-1)
    assert g.dtype == jnp.float32
    check_optimal(-np.asarray(g, np.float64), pieces, 1e-5, np.float32)


def test_zero_at_a_minimiser():
    rng = np.random.default_rng(2)
    V = random_weights(rng, 3, np.float64) + np.eye(3) / 10
    pencil, _ = family(np.float64, 3)
    A, B = map(np.asarray, pencil(jnp.zeros(P)))
    X = eigh(A, B)[1][:, 3:]
    pieces = rng.standard_normal((P, 3, 3))
    pieces = pieces + pieces.transpose(0, 2, 1)
    pieces -= np.einsum("pij,ji->p", pieces, V)[:, None, None] / np.trace(V) * np.eye(3)
    As = jnp.asarray(np.stack([B @ X @ piece @ X.T @ B for piece in pieces]))
    solve = ie.eigensolver(eigh, ie.Hermitian(N))
    f = lambda p: solve(A + jnp.tensordot(p, As, 1), jnp.asarray(B))
    size = np.linalg.norm(pieces)
    assert jnp.linalg.norm(ie.minimum_norm_subgradient(f, jnp.zeros(P))) < 1e-6 * size


def test_params_are_a_tree_and_may_be_the_matrix():
    A = jnp.diag(jnp.array([1.0, 2.0, 4.0, 4.0]))
    solve = ie.eigensolver(eigh, ie.Hermitian(4))
    g = ie.minimum_norm_subgradient(lambda t: solve(t["A"] * t["s"][0]), {"A": A, "s": [1.0]})
    # ∂s of any weighting is 4; the least norm of V itself is that of V = I/2
    np.testing.assert_allclose(g["A"], np.diag([0, 0, 0.5, 0.5]), atol=1e-7)
    np.testing.assert_allclose(g["s"][0], 4.0, atol=1e-12)


def test_a_looser_cluster_bundles_near_values():
    crossing = lambda p: jnp.array([[1.0, 0.0], [0.0, -1.0]]) * p + 10 * jnp.eye(2)
    for rtol, expected in ((None, 1.0), (1e-2, 0.0)):
        policy = ie.Policy(degeneracy_rtol=rtol)
        solve = ie.eigensolver(eigh, ie.Hermitian(2), policy=policy)
        g = ie.minimum_norm_subgradient(lambda p, s=solve: s(crossing(p)), jnp.array(1e-3))
        assert abs(g - expected) < 1e-6


def test_refusals(monkeypatch):
    A = jnp.diag(jnp.array([1.0, 2.0, 4.0, 4.0]))
    subgradient_of = ie.minimum_norm_subgradient
    solve = ie.eigensolver(eigh, ie.Hermitian(4))
    with pytest.raises(ie.InputError, match=r"0 or −1; got 1"):
        subgradient_of(solve, A, 1)
    with pytest.raises(ie.InputError, match=r"got no `Solution`"):
        subgradient_of(lambda A: solve(A).values, A)
    general = ie.eigensolver(np.linalg.eig, ie.General(2))
    with pytest.raises(ie.InputError, match=r"got that of another problem.*`Singular\(k\)`"):
        subgradient_of(general, A)
    with pytest.raises(ie.InputError, match=r"concrete params.*Call it outside `jit`"):
        jax.jit(lambda A: subgradient_of(solve, A))(A)
    turned = lambda A: (np.array([1.0, 4.0, 4.0, 2.0]), np.eye(4)[:, [0, 2, 3, 1]])
    with pytest.raises(ie.InputError, match=r"largest or smallest of the values.*Sort"):
        subgradient_of(ie.eigensolver(turned, ie.Hermitian(4)), A)
    top = lambda A: (np.array([4.0, 4.0]), np.eye(4)[:, 2:])
    with pytest.raises(ie.InputError, match=r"known to be complete; got all k = 2"):
        subgradient_of(ie.eigensolver(top, ie.Hermitian(2)), A)
    infinite = lambda A: solve(A + jnp.sqrt(jnp.sum(A - A)) * A)
    with pytest.raises(ie.InputError, match=r"finite derivatives of the values; got NaN"):
        subgradient_of(infinite, A)
    monkeypatch.setattr(subgradient, "STEPS", 1)
    pencil, _ = family(np.float64, 2)
    pairs = ie.eigensolver(eigh, ie.Hermitian(N))
    with pytest.raises(ie.ImplicitEigError, match=r"the least norm to 1e-09; got a duality gap"):
        subgradient_of(lambda p: pairs(*pencil(p)), jnp.zeros(P))
