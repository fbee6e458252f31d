"""Branches keep their identity across crossings, and derivatives with them."""

import io
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import eigh, random_definite, random_hermitian

import implicit_eig as ie

N = 6
SLOPES = np.array([1.0, -1.0, 0.3, 0.7, -0.2, 0.0])
START = np.array([0.0, 0.9, 0.35, -0.2, 1.0, 0.5])


def crossing(dtype=np.float64, seed=4):
    """t -> (A(t), B): the branches START + t SLOPES, of vectors that turn slowly with t."""
    B = random_definite(N, dtype, seed)
    R = random_hermitian(N, dtype, seed + 1) * (0.2 if dtype == np.float64 else 0.2j)
    R = R - R.conj().T if dtype != np.float64 else jnp.triu(R, 1) - jnp.triu(R, 1).T
    L = jnp.linalg.cholesky(B)

    def pencil(t):
        Q = jax.scipy.linalg.expm(t.astype(dtype) * R)
        values = jnp.asarray(START) + t * jnp.asarray(SLOPES)
        LQ = L @ Q
        A = (LQ * values[None, :].astype(dtype)) @ LQ.conj().T
        return (A + A.conj().T) / 2, B

    return pencil


def scrambled(A, B=None):
    """LAPACK, with phases of its own and random bases of exact clusters."""
    values, X = eigh(A, B)
    rng = np.random.default_rng(int(1e6 * abs(values.sum())) % 1000)
    X = X * np.sign(rng.standard_normal(X.shape[1]))
    for i in range(len(values) - 1):
        if values[i + 1] - values[i] < 1e-10:
            angle = rng.uniform(0, 2 * np.pi)
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            X[:, i : i + 2] = X[:, i : i + 2] @ turn
    return values, X


SOLVE = ie.eigensolver(scrambled, ie.Hermitian(N))


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_follow_finds_the_straight_branches(dtype):
    pencil = crossing(dtype)
    at = jax.jit(lambda t: SOLVE(*pencil(t)))
    # 0.45 is a crossing of the first two branches, exactly
    parameters = jnp.linspace(0.0, 0.9, 19)
    followed = ie.follow(at, parameters, B_at=lambda t: pencil(t)[1])
    exact = START[None, :] + np.asarray(parameters)[:, None] * SLOPES[None, :]
    np.testing.assert_allclose(followed.values, exact[:, np.argsort(START)], atol=1e-10)
    assert followed.order.shape == followed.overlap.shape == (19, N)
    assert jnp.all(followed.order[0] == jnp.arange(N))
    assert jnp.any(followed.order[-1] != followed.order[0])
    assert jnp.min(followed.overlap) > 0.99
    # sorted values are what they were: the test would see a sweep that does not follow
    assert np.abs(np.sort(exact, axis=1) - exact[:, np.argsort(START)]).max() > 0.1


def test_track_under_jit_and_its_order_there():
    pencil = crossing()
    one, two = (SOLVE(*pencil(jnp.asarray(t))) for t in (0.3, 0.6))
    B = pencil(jnp.asarray(0.0))[1]
    eager = ie.track(one, two, B)
    compiled = jax.jit(ie.track)(one, two, B)
    np.testing.assert_array_equal(eager.order, compiled.order)
    np.testing.assert_allclose(eager.overlap, compiled.overlap, atol=1e-14)
    np.testing.assert_array_equal(jnp.sort(eager.order), np.arange(N))
    exact = START[None, :] + np.array([[0.3], [0.6]]) * SLOPES[None, :]
    branch = np.argsort(exact[0])
    np.testing.assert_allclose(two.values[eager.order], exact[1][branch], atol=1e-10)


def test_a_rotated_basis_of_a_cluster_lowers_no_overlap():
    A = jnp.diag(jnp.array([1.0, 2.0, 2.0, 2.0, 5.0]))
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))

    def rotated(A):
        X = np.eye(5)
        X[1:4, 1:4] = turn
        return np.array([1.0, 2.0, 2.0, 2.0, 5.0]), X

    straight = ie.eigensolver(eigh, ie.Hermitian(5))(A)
    other = ie.eigensolver(rotated, ie.Hermitian(5))(A)
    for previous, current in ((straight, other), (other, straight)):
        order, overlap = ie.track(previous, current)
        np.testing.assert_allclose(overlap, 1.0, atol=1e-12)
        assert order[0] == 0
        assert order[4] == 4
    # a cluster that splits along vectors of its own
    split = ie.eigensolver(eigh, ie.Hermitian(5))(A + jnp.diag(jnp.array([0, 0.1, 0.2, 0.3, 0])))
    np.testing.assert_allclose(ie.track(other, split).overlap, 1.0, atol=1e-12)
    # without a declared cluster the single vectors count
    bare = ie.Solution(jnp.arange(5.0), other.vectors)
    assert jnp.min(ie.track(bare, split).overlap) < 0.99


def test_more_pairs_now_than_before():
    vectors = jnp.eye(4)
    before = ie.Solution(jnp.array([1.0, 2.0]), vectors[:, :2])
    now = ie.Solution(jnp.array([0.5, 1.0, 2.0]), vectors[:, jnp.array([3, 0, 1])])
    assert ie.track(before, now).order.tolist() == [1, 2]
    # a branch that leaves the first two of the solver's order is followed among the three
    sweep = [ie.Solution(jnp.array([1.0, 2.0, 3.0]), vectors[:, jnp.array([0, 1, 2])]), now]
    followed = ie.follow(lambda i: sweep[i], [0, 1], count=2)
    assert followed.values.tolist() == [[1.0, 2.0], [1.0, 2.0]]
    assert followed.order.tolist() == [[0, 1], [1, 2]]


def test_values_reordered_keep_their_gradients():
    pencil = crossing()
    reference = SOLVE(*pencil(jnp.asarray(0.3)))

    def branch(t, i):
        solution = SOLVE(*pencil(t))
        return solution.values[ie.track(reference, solution).order[i]]

    t = jnp.asarray(0.6)
    branch_of = np.argsort(START + 0.3 * SLOPES)
    for i in range(3):
        assert abs(jax.grad(branch)(t, i) - SLOPES[branch_of[i]]) < 1e-10

    def sweep(scale):
        at = lambda t: SOLVE(*pencil(scale * t))
        return jnp.sum(ie.follow(at, [0.3 * one, 0.6 * one]).values[-1][:1])

    one = jnp.ones(())
    slope = jax.grad(sweep)(one)
    assert abs(slope - 0.6 * SLOPES[branch_of[0]]) < 1e-10


def test_general_pairs_are_tracked_without_a_metric():
    T = jnp.asarray(np.random.default_rng(3).standard_normal((4, 4))) + 2 * jnp.eye(4)
    solve = ie.eigensolver(np.linalg.eig, ie.General(4))
    at = lambda values: solve(T @ jnp.diag(jnp.asarray(values)) @ jnp.linalg.inv(T))
    one, two = at([1.0, 2.0, 3.0, 4.0]), at([1.0, 2.5, 2.4, 4.0])
    order, overlap = ie.track(one, two)
    expected = dict(zip([1.0, 2.0, 3.0, 4.0], [1.0, 2.5, 2.4, 4.0], strict=True))
    for before, now in zip(one.values, two.values[order], strict=True):
        assert abs(now - expected[round(float(before.real), 6)]) < 1e-9
    np.testing.assert_allclose(overlap, 1.0, atol=1e-9)


def test_a_lost_mode_is_called_out():
    two = lambda i: ie.Solution(jnp.array([1.0, 2.0]), jnp.eye(4)[:, jnp.array([0, i])])
    at = lambda p: two(1 if p < 1 else 3)
    with pytest.warns(ie.TrackingWarning, match=r"overlap of 0.00 of branch 1 at parameter 2"):
        followed = ie.follow(at, [0.0, 0.5, 1.0])
    assert followed.overlap[2].tolist() == [1.0, 0.0]
    assert followed.parameters == [0.0, 0.5, 1.0]


def test_short_sweeps_are_silent_and_tqdm_is_optional(monkeypatch, capfd):
    at = lambda p: ie.Solution(jnp.array([1.0, 2.0]), jnp.eye(2))
    with_tqdm = ie.follow(at, [0.0, 1.0])
    longer = ie.follow(at, np.linspace(0, 1, 21))  # standard error is no terminal
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    without = ie.follow(at, [0.0, 1.0])
    np.testing.assert_array_equal(with_tqdm.values, without.values)
    without = ie.follow(at, np.linspace(0, 1, 21))
    np.testing.assert_array_equal(longer.values, without.values)
    assert capfd.readouterr() == ("", "")


def test_a_long_sweep_shows_its_progress(monkeypatch):
    bars = []

    def bar(items, **options):
        bars.append(options)
        return items

    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=bar))
    at = lambda p: ie.Solution(jnp.array([1.0, 2.0]), jnp.eye(2))
    ie.follow(at, np.linspace(0, 1, 20))
    assert not bars
    assert ie.follow(at, np.linspace(0, 1, 21)).values.shape == (21, 2)
    (options,) = bars
    assert options["total"] == 21
    assert options["desc"] == "following branches"
    assert options["disable"] is None  # where there is no terminal


def test_in_a_terminal_the_bar_is_drawn(monkeypatch, capsys):
    pytest.importorskip("tqdm")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("implicit_eig._optional.DELAY", 0)
    at = lambda p: ie.Solution(jnp.array([1.0, 2.0]), jnp.eye(2))
    for terminal, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", terminal)
        ie.follow(at, np.linspace(0, 1, 21))
        assert ("following branches" in terminal.getvalue()) == shown


def test_refusals():
    two = ie.Solution(jnp.array([1.0, 2.0]), jnp.eye(4)[:, :2])
    one = ie.Solution(jnp.array([1.0]), jnp.eye(4)[:, :1])
    with pytest.raises(ie.InputError, match=r"at least as many now.*\(4, 2\) and \(4, 1\)"):
        ie.track(two, one)
    with pytest.raises(ie.InputError, match=r"xᴴBx > 0; got others"):
        ie.track(two, two, jnp.zeros((4, 4)))
    with pytest.raises(ie.InputError, match=r"at least one parameter; got none"):
        ie.follow(lambda p: two, [])
    with pytest.raises(ie.InputError, match=r"from 1 to the number of pairs, 2; got 3"):
        ie.follow(lambda p: two, [0.0], count=3)
