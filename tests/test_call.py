"""What a call carries besides matrices: a start, a shift, parameters, tensors and pytrees."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp
from problems import with_spectrum

import implicit_eig as ie
from implicit_eig import solvers

N, K = 40, 2


class Recording:
    """LAPACK, which remembers what it was called with."""

    def __init__(self):
        self.seen = []

    def __call__(self, A, *, start=None, sigma=None):
        self.seen.append((start, sigma))
        return np.linalg.eigh(A)


def shifted_grid(p):
    rows = np.arange(N)
    off = jnp.full(N - 1, -1.0)
    data = jnp.concatenate([2.0 + p, off, off])
    where = np.concatenate([rows, rows[:-1], rows[1:]]), np.concatenate([rows, rows[1:], rows[:-1]])
    return ie.SparseOperator(data, *where, (N, N))


def test_options_arrive_on_the_host_and_have_no_derivative():
    recording = Recording()
    solve = ie.eigensolver(recording, ie.Hermitian(K))
    A = with_spectrum([1.0, 2.0, 4.0, 8.0])
    previous = solve(A)
    lowest = lambda A, s: solve(A, start=previous, sigma=s).values[0]
    of_A, of_s = jax.jit(jax.grad(lowest, (0, 1)))(A, 0.5)
    start, sigma = recording.seen[-1]
    assert isinstance(start.vectors, np.ndarray)
    assert np.array_equal(start.vectors, previous.vectors)
    assert isinstance(sigma, np.ndarray)
    assert sigma == 0.5
    assert of_s == 0.0
    assert jnp.max(jnp.abs(of_A - jax.grad(lambda A: solve(A).values[0])(A))) == 0.0
    assert float(jax.jvp(lambda s: lowest(A, s), (0.5,), (1.0,))[1]) == 0.0


def test_a_start_is_the_carry_of_a_scan():
    solve = ie.eigensolver(solvers.lobpcg(maxiter=300), ie.Hermitian(K))
    p = jnp.linspace(0.1, 0.3, N)

    def values(t):
        def step(previous, t):
            found = solve(shifted_grid(t * p), start=previous)
            return found, found.values

        return jax.lax.scan(step, solve(shifted_grid(p)), t)[1]

    t = jnp.linspace(1.0, 1.2, 3)
    fresh = jax.vmap(lambda t: solve(shifted_grid(t * p)).values)(t)
    assert jnp.max(jnp.abs(jax.jit(values)(t) - fresh)) < 1e-9


@pytest.mark.parametrize("solver", [solvers.arpack(K), solvers.lobpcg(K)])
def test_a_start_saves_products(solver):
    grid = np.asarray(shifted_grid(jnp.linspace(0.1, 0.3, N)).as_matrix())
    counts = []
    for start in (None, np.linalg.eigh(grid)[1][:, :K]):
        products = []
        product = lambda x, products=products: (products.append(1), grid @ x)[1]
        A = sp.linalg.LinearOperator((N, N), product, matmat=product, dtype=grid.dtype)
        values = solver(A, start=start)[0]
        counts.append(len(products))
        assert np.max(np.abs(values[:K] - np.linalg.eigvalsh(grid)[:K])) < 1e-9
    assert counts[1] < counts[0]


@pytest.mark.parametrize(
    ("solver", "problem"),
    [
        (solvers.arpack(), ie.Hermitian(K)),
        (solvers.lapack(), ie.Hermitian(K)),
        (solvers.arpack_general(), ie.General(K)),
    ],
)
def test_a_shift_that_jax_traces(solver, problem):
    operator = shifted_grid(jnp.linspace(0.1, 0.3, N))
    exact = np.linalg.eigvalsh(np.asarray(operator.as_matrix()))
    solve = ie.eigensolver(solver, problem)
    near = jax.jit(lambda s: solve(operator, sigma=s).values.real)
    for s in (1.0, 2.5):
        expected = np.sort(exact[np.argsort(np.abs(exact - s))[:K]])
        assert np.max(np.abs(np.sort(near(s)) - expected)) < 1e-10


def test_a_black_box_that_wants_the_parameters():
    """It assembles its own matrix; the derivative comes from ours."""
    assemble = lambda p: np.diag(np.asarray(p)) + 0.1
    solve = ie.eigensolver(
        lambda p: np.linalg.eigh(assemble(p)),
        ie.Hermitian(K),
        operators=lambda p: jnp.diag(p) + 0.1,
    )
    p = jnp.array([1.0, 2.0, 4.0])
    plain = ie.eigensolver(np.linalg.eigh, ie.Hermitian(K))
    loss = lambda solution: solution.values[0] + jnp.sum(solution.vectors[:, 0] ** 4)
    found = jax.jit(jax.grad(lambda p: loss(solve(p))))(p)
    expected = jax.grad(lambda p: loss(plain(jnp.diag(p) + 0.1)))(p)
    assert jnp.max(jnp.abs(found - expected)) < 1e-14
    values = jax.vmap(lambda t: solve(t * p).values)(jnp.array([1.0, 2.0]))
    assert jnp.max(jnp.abs(values[0] - solve(p).values)) < 1e-14
    one_sided = ie.directional_derivatives(solve, (p,), (jnp.ones(3),))
    assert jnp.max(jnp.abs(one_sided - 1)) < 1e-14
    with pytest.raises(ie.InputError, match=r"operators=\.\.\.\)`: a function of the parameters"):
        ie.eigensolver(np.linalg.eigh, ie.Hermitian(K), operators=p)


def test_options_that_do_not_fit():
    A = jnp.eye(3)
    with pytest.raises(ie.InputError, match="a solver that takes `start`; got one that takes a"):
        ie.eigensolver(np.linalg.eigh, ie.Hermitian(K))(A, start=A)
    with pytest.raises(ie.InputError, match=r"`solve.shift=.*a solver that takes `shift`; got one"):
        ie.eigensolver(solvers.arpack(), ie.Hermitian(1))(A, shift=1.0)
    batched = ie.eigensolver(Recording(), ie.Hermitian(K), batched=True)
    with pytest.raises(ie.InputError, match="a solver of single matrices; got one with"):
        batched(A, sigma=0.0)
    lobpcg = ie.eigensolver(solvers.lobpcg(), ie.Hermitian(1))
    with pytest.raises(ie.InputError, match=r"vectors of shape \(3,\) or"):
        lobpcg(A, start=jnp.ones((4, 1)))


def stencil(c):
    """c times the five-point Laplacian on a tensor of shape (5, 6)."""

    def product(u):
        v = jnp.pad(u, 1)
        return c * (4 * u - v[2:, 1:-1] - v[:-2, 1:-1] - v[1:-1, 2:] - v[1:-1, :-2])

    like = jax.ShapeDtypeStruct((5, 6), jnp.result_type(float))
    return lx.FunctionLinearOperator(product, like, lx.symmetric_tag)


def test_vectors_are_tensors_where_operators_are():
    solve = ie.eigensolver(lambda A: np.linalg.eigh(A @ np.eye(30)), ie.Hermitian(K))
    found = solve(stencil(1.0))
    assert found.vectors.shape == (5, 6, K)
    modes = (
        jnp.sin(np.pi * np.arange(1, 6) / 6)[:, None] * jnp.sin(np.pi * np.arange(1, 7) / 7)[None]
    )
    overlap = jnp.sum(modes * found.vectors[..., 0]) / jnp.linalg.norm(modes)
    assert abs(abs(overlap) - 1) < 1e-12
    # values scale with c, and vectors do not depend on it
    gradient = jax.grad(
        lambda c: solve(stencil(c)).values[0] + solve(stencil(c)).vectors[2, 3, 0] ** 2
    )
    assert abs(gradient(1.0) - found.values[0]) < 1e-12
    again = ie.eigensolver(solvers.lobpcg(), ie.Hermitian(K))(stencil(2.0), start=found)
    assert jnp.max(jnp.abs(again.values - 2 * found.values)) < 1e-9


def test_vectors_are_pytrees_where_operators_are():
    like = {"a": jax.ShapeDtypeStruct((2,), float), "b": (jax.ShapeDtypeStruct((1, 2), float),)}
    like = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, jnp.result_type(float)), like)
    coupling = with_spectrum([1.0, 2.0, 4.0, 7.0])

    def operator(t):
        def product(x):
            flat = jnp.concatenate([x["a"], x["b"][0][0]])
            y = t * (coupling @ flat)
            return {"a": y[:2], "b": (y[None, 2:],)}

        return lx.FunctionLinearOperator(product, like, lx.symmetric_tag)

    solve = ie.eigensolver(lambda A: np.linalg.eigh(A @ np.eye(4)), ie.Hermitian(K))
    vectors = solve(operator(1.0)).vectors
    assert jax.tree.map(jnp.shape, vectors) == {"a": (2, K), "b": ((1, 2, K),)}
    share = lambda M: jnp.sum(solve(M).vectors["a"][:, 0] ** 2)
    plain = ie.eigensolver(np.linalg.eigh, ie.Hermitian(K))(coupling)
    assert abs(share(operator(1.0)) - jnp.sum(plain.vectors[:2, 0] ** 2)) < 1e-14
    assert abs(jax.grad(lambda t: solve(operator(t)).values[1])(1.0) - 2.0) < 1e-13
    structure = {"x": jax.ShapeDtypeStruct((4,), coupling.dtype)}
    tree = lx.PyTreeLinearOperator({"x": {"x": coupling}}, structure)
    found = ie.eigensolver(np.linalg.eigh, ie.Hermitian(K))(tree)
    assert found.vectors["x"].shape == (4, K)
    mixed = {"a": like["a"], "b": jax.ShapeDtypeStruct((2,), jnp.float32)}
    bad = lx.FunctionLinearOperator(lambda x: x, mixed, lx.symmetric_tag)
    with pytest.raises(ie.InputError, match="arrays of one dtype; got float32, float64"):
        solve(bad)
