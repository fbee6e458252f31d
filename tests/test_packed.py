"""The layout of sparse matrices: products, transposes and derivatives against dense arrays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import EPS

import implicit_eig as ie
from implicit_eig.operators.packed import PADDING, UNROLLED, pack, pattern_of

# (shape, entries, how many of them lie in the first row): duplicates, empty rows, one long row
# that spills, more slots than are unrolled, a single row and column
CASES = [
    ((6, 9), 0, 0),
    ((6, 9), 40, 0),
    ((9, 30), 40, 25),
    ((1, 50), 60, 60),
    ((50, 1), 60, 0),
    ((4, 34), 400, 0),
]


def entries(shape, count, in_first, dtype=np.float64):
    rng = np.random.default_rng(count)
    rows, cols = (rng.integers(0, size, count) for size in shape)
    rows[:in_first] = 0
    data = rng.standard_normal(count)
    if np.issubdtype(dtype, np.complexfloating):
        data = data + 1j * rng.standard_normal(count)
    return jnp.asarray(data.astype(dtype)), rows, cols


def close(found, expected):
    size = max(1.0, float(jnp.max(jnp.abs(expected), initial=0)))
    tol = 1e3 * EPS[np.dtype(expected.dtype)] * size
    assert float(jnp.max(jnp.abs(found - expected), initial=0)) <= tol


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, np.float64) for case in CASES] + [(CASES[5], np.float32), (CASES[2], np.complex128)],
    ids=str,
)
def test_products(case, dtype):
    shape, *_ = case
    data, rows, cols = entries(*case, dtype)
    A = pack(data, pattern_of(rows, cols, shape))
    dense = jnp.zeros(shape, dtype).at[rows, cols].add(data)
    X, Y = (jnp.asarray(np.random.default_rng(n).random((n, 3)), dtype) for n in shape[::-1])
    close(A.mm(X), dense @ X)
    close(A.mv(X[:, 0]), dense @ X[:, 0])
    close(A.as_matrix(), dense)
    close(A.transpose().mm(Y), dense.T @ Y)
    close(A.transpose().as_matrix(), dense.T)


@pytest.mark.parametrize("case", [CASES[2], CASES[5]], ids=str)
def test_derivatives_of_both_orders(case):
    shape, *_ = case
    data, rows, cols = entries(*case)
    pattern = pattern_of(rows, cols, shape)
    X = jnp.asarray(np.random.default_rng(1).random((shape[1], 2)))
    packed = lambda d, X: jnp.sum(jnp.sin(pack(d, pattern).mm(X)))
    dense = lambda d, X: jnp.sum(jnp.sin(jnp.zeros(shape).at[rows, cols].add(d) @ X))
    v = ie.testing.random_like((data, X))

    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(f, data, X):
        push = lambda *a: jax.jvp(f, a, v)[1]
        stacks = jnp.stack([data, 2 * data]), jnp.stack([X, X])
        return (
            jax.jvp(jax.grad(f, (0, 1)), (data, X), v),
            jax.value_and_grad(push, (0, 1))(data, X),
            jax.vmap(jax.grad(f))(*stacks),
        )

    both = (jax.tree.leaves(derivatives(f, data, X)) for f in (packed, dense))
    for found, expected in zip(*both, strict=True):
        close(found, expected)


def test_the_cases_reach_every_part_of_the_layout():
    layouts = [pattern_of(*entries(*case)[1:], case[0]).layout for case in CASES]
    assert any(layout.spill_rows.size for layout in layouts)
    assert any(layout.slots.shape[0] > UNROLLED for layout in layouts)
    assert any(layout.order.size < layout.places.size for layout in layouts)
    for layout in layouts:
        assert layout.slots.size <= PADDING * (layout.order.size + layout.slots.shape[1])


def test_patterns_are_found_again_by_content():
    _, rows, cols = entries((6, 9), 40, 0)
    first = pattern_of(rows, cols, (6, 9))
    assert pattern_of(rows.copy(), cols.copy(), (6, 9)) is first
    rows[0] = (rows[0] + 1) % 6
    assert pattern_of(rows, cols, (6, 9)) != first
    assert pattern_of(rows, cols, (7, 9)) != pattern_of(rows, cols, (6, 9))


def test_a_long_row_costs_no_padding():
    """An arrow matrix: its dense row and column spill."""
    n = 200
    i = np.arange(1, n)
    rows = np.concatenate([np.arange(n), 0 * i, i])
    cols = np.concatenate([np.arange(n), i, 0 * i])
    assert pattern_of(rows, cols, (n, n)).layout.size <= (PADDING + 1) * rows.size + PADDING * n


def test_places_that_are_traced():
    """Known only when run, they give the same operator, by scatters."""
    data, rows, cols = entries((6, 6), 20, 0)
    x = jnp.arange(6.0)
    product = lambda rows: ie.SparseOperator(data, rows, cols, (6, 6)).mv(x)
    close(jax.jit(product)(jnp.asarray(rows)), product(rows))


def test_places_outside_the_shape_are_refused_in_jax_arrays_too():
    with pytest.raises(ie.InputError, match=r"SparseOperator\(rows=...\)`: indices in \[0, 2\)"):
        ie.SparseOperator(jnp.ones(1), jnp.array([-1]), jnp.array([0]), (2, 2))


@pytest.fixture
def band():
    """The pattern of a cyclic band, entries, and forty vectors."""
    n, k, width = 2000, 40, 9
    rows = np.repeat(np.arange(n), width)
    cols = (rows + np.tile(np.arange(width), n)) % n
    return pattern_of(rows, cols, (n, n)), jnp.ones(rows.size), jnp.ones((n, k))


def test_two_matrices_of_one_pattern_keep_nothing_that_they_gather(band):
    pattern, entries, X = band

    def products(a, b, X):
        A, B = pack(a, pattern), pack(b, pattern)
        return A.mm(X), B.mm(X)

    compiled = jax.jit(products).lower(entries, 2 * entries, X).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * X.nbytes


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="XLA kept them before JAX 0.12")
def test_a_product_that_is_read_more_than_once_keeps_nothing_that_it_gathers(band):
    """The second reading must not merge the last additions, and not the others, into its loop."""
    pattern, entries, X = band
    k = X.shape[1]

    def residual(data, values, X):
        A = pack(data, pattern)
        Y = A.mm(X) - X * values[None]
        return jnp.max(jnp.abs(Y), axis=0), jnp.abs(Y) @ jnp.ones(k), A.mm(Y)

    compiled = jax.jit(residual).lower(entries, jnp.ones(k), X).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 3 * X.nbytes
