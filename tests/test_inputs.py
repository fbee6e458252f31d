"""Sparse problems as codes hold them: SciPy, CSR, element matrices, ties, batches, scikit-fem."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp
from problems import EPS, eigh, invariant_loss, jax_eigh, jitted
from test_operators import sizes

import implicit_eig as ie
from implicit_eig.operators._congruence import _terms

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]
FORMATS = ["csr", "csc", "coo", "bsr", "dia", "lil", "dok"]
E, K = 9, 2  # elements of a chain, and eigenpairs
SHIFT_INVERT = ie.solvers.arpack(K, sigma=0.0)
DOFS = np.stack([np.arange(E), np.arange(1, E + 1)], axis=1)
PLACES = DOFS[:, :, None], DOFS[:, None, :]
STIFF, MASS = np.array([[1.0, -1.0], [-1.0, 1.0]]), np.array([[2.0, 1.0], [1.0, 2.0]]) / 6


def small(dtype=np.float64, seed=0, shape=(4, 6)):
    """An array of small integers, two thirds of them zero, of which sums and products are exact."""
    rng = np.random.default_rng(seed)
    entries = rng.integers(1, 5, shape) * (rng.random(shape) < 0.35)
    if np.issubdtype(dtype, np.complexfloating):
        entries = entries * (1 + 1j * rng.integers(-4, 5, shape))
    return entries.astype(dtype)


def parameters(dtype=np.float64, seed=0, size=E):
    return jnp.asarray(1 + np.random.default_rng(seed).random(size), dtype)


def elements(p, one):
    """Element matrices, (E, 2, 2), scaled by the coefficients p (E,)."""
    return p[:, None, None] * jnp.asarray(one, p.dtype)[None]


def chain(p, q, **options):
    """Stiffness and mass of a chain."""
    pairs = (p, STIFF), (q, MASS)
    return [ie.SparseOperator.from_coo(elements(*pair), *PLACES, **options) for pair in pairs]


def assert_close(found, expected):
    """Equal to rounding: the gaps of the chains are no smaller than their lowest eigenvalues."""
    tol = 200 * EPS[np.dtype(expected.dtype)]
    assert jnp.max(jnp.abs(found - expected)) < tol * (1 + jnp.max(jnp.abs(expected)))


def compare(assemble, args, size, solver=eigh):
    """Derivatives of a function of the K lowest pairs against those of dense arrays.

    Both modes, and the product of the second derivatives with a direction.
    """
    solve = ie.eigensolver(solver, ie.Hermitian(K))
    loss = invariant_loss(K, size)
    sparsely = lambda *P: loss(*solve(*assemble(*P)))

    def densely(*P):
        pencil = [M.as_matrix() for M in assemble(*P)]
        common = np.result_type(*(M.dtype for M in pencil))
        return loss(*jax_eigh(*(M.astype(common) for M in pencil)))

    dots = ie.testing.random_like(args)
    both = tuple(range(len(args)))

    def derivatives(f):
        gradient = jax.grad(f, both)
        return lambda *P: (jax.jvp(f, P, dots), jax.jvp(gradient, P, dots))

    found, expected = jitted(derivatives(sparsely), derivatives(densely))(*args)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert_close(a, b)


# SciPy


@pytest.mark.parametrize("kind", ["matrix", "array"])
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_of_scipy(format, kind):
    for dtype in DTYPES:
        matrix = getattr(sp, f"{format}_{kind}")(small(dtype))
        found = ie.SparseOperator.from_scipy(matrix)
        assert found.data.dtype == dtype
        assert found.pattern is not None
        assert jnp.array_equal(found.as_matrix(), small(dtype))


def test_blocks_of_bsr_that_are_not_square():
    matrix = sp.bsr_array(small(), blocksize=(2, 3))
    assert jnp.array_equal(ie.SparseOperator.from_scipy(matrix).as_matrix(), small())


STORED = {
    "csr": (sp.csr_array(([0.0, 1.0, 2.0], [1, 0, 1], [0, 2, 3]), (2, 2)), [0.0, 1.0, 2.0]),
    "csc": (sp.csc_array(([0.0, 1.0, 2.0], [1, 0, 1], [0, 2, 3]), (2, 2)), [0.0, 1.0, 2.0]),
    "duplicates": (sp.coo_array(([1.0, 0.0, 2.0], ([0, 0, 0], [1, 1, 1])), (2, 2)), [1.0, 0, 2]),
    "bsr": (sp.bsr_array(np.diag([1.0, 2.0]), blocksize=(2, 2)), [1.0, 0.0, 0.0, 2.0]),
    "dia": (sp.dia_array(([[1.0, 0.0], [9.0, 5.0]], [0, 1]), (2, 2)), [1.0, 0.0, 5.0]),
}


@pytest.mark.parametrize("name", list(STORED))
def test_stored_entries_are_kept_as_they_are(name):
    """Zeros and duplicates too, so that the pattern, and a program, depend on no value."""
    matrix, entries = STORED[name]
    found = ie.SparseOperator.from_scipy(matrix)
    assert found.data.tolist() == entries
    assert jnp.array_equal(found.as_matrix(), matrix.toarray())


def altered(change, format="csr"):
    matrix = getattr(sp, f"{format}_array")(np.diag([1.0, 2.0, 3.0]) + np.eye(3, k=1))
    change(matrix)
    return matrix


def test_arrays_that_scipy_does_not_make_itself_are_read():
    expected = altered(lambda M: None).toarray()

    def spare(M):  # room for entries to come
        M.data, M.indices = (np.append(part, [7, 7]) for part in (M.data, M.indices))

    def wide(M):
        M.indices, M.indptr = M.indices.astype(np.int64), M.indptr.astype(np.int64)

    def swapped(M):
        M.data = M.data.astype(M.data.dtype.newbyteorder())

    for change in (spare, wide, swapped):
        found = ie.SparseOperator.from_scipy(altered(change))
        assert found.data.dtype == np.float64
        assert jnp.array_equal(found.as_matrix(), expected)


def set_item(name, place, value):
    return lambda M: getattr(M, name).__setitem__(place, value)


from_scipy = ie.SparseOperator.from_scipy
SCIPY = {
    "array": (lambda: from_scipy(np.eye(2)), "matrix or array; got ndarray. Pass an array to the"),
    "vector": (lambda: from_scipy(sp.coo_array(np.ones(3))), r"sparse array of shape \(3,\)"),
    "integers": (lambda: from_scipy(sp.eye_array(2, dtype=int)), r"int64.*`matrix.astype\(float\)"),
    "booleans": (lambda: from_scipy(sp.eye_array(2, dtype=bool)), "floating-point.* got bool"),
    "long": (lambda: from_scipy(sp.eye_array(2, dtype=np.longdouble)), r"`matrix.astype\(np.float"),
    "large": (
        lambda: from_scipy(sp.coo_array(([1.0], ([0], [2**40])), (1, 2**41))),
        r"rows and columns below 2³¹; got \(1, 2199023255552\)",
    ),
    "index": (lambda: from_scipy(altered(set_item("indices", 0, 7))), r"in \[0, 3\); got \[\d, 7"),
    "end of a row": (
        lambda: from_scipy(altered(set_item("indptr", 1, 9))),
        r"indices in \[0, 6\); got \[0, 9\]",
    ),
    "rows that fall": (
        lambda: from_scipy(altered(set_item("indptr", 1, 5), "csc")),
        r"`SparseOperator.from_scipy\(matrix\)`: an `indptr` that rises from 0 to 5.* steps of -2",
    ),
}


# compressed rows


@pytest.mark.parametrize("dtype", DTYPES)
def test_compressed_rows(dtype):
    matrix = sp.csr_array(small(dtype))
    x = jnp.asarray(small(dtype, 1, (6, 2)))

    def product(data, form):
        A = ie.SparseOperator.from_csr(data, matrix.indices, matrix.indptr, matrix.shape)
        return jnp.sum(jnp.abs((A if form is None else form(A)) @ x) ** 2)

    value_and_grad = lambda form: jax.value_and_grad(lambda data: product(data, form))
    found, expected = jitted(value_and_grad(None), value_and_grad(lambda A: A.as_matrix()))(
        jnp.asarray(matrix.data)
    )
    assert found[1].shape == (matrix.nnz,)
    for a, b in zip(found, expected, strict=True):
        assert jnp.max(jnp.abs(a - b)) <= 10 * EPS[np.dtype(dtype)] * jnp.max(jnp.abs(b))


def test_columns_of_a_row_in_any_order_and_repeated():
    found = ie.SparseOperator.from_csr([1.0, 2.0, 4.0], [1, 0, 1], np.array([0, 3, 3]), (2, 2))
    assert found.as_matrix().tolist() == [[2.0, 5.0], [0.0, 0.0]]


from_csr = lambda indices, indptr, data=(1.0, 2.0), shape=(2, 2): ie.SparseOperator.from_csr(
    jnp.asarray(data), indices, indptr, shape
)
CSR = {
    "length": (lambda: from_csr([0, 1], [0, 2]), r"of shape \(3,\); got shapes \(2,\) and \(2,\)"),
    "table": (lambda: from_csr([[0, 1]], [0, 1, 2]), r"got shapes \(1, 2\) and \(3,\)"),
    "column": (lambda: from_csr([0, 2], [0, 1, 2]), r"from_csr\(...\)`: indices in \[0, 2\); got"),
    "negative": (lambda: from_csr([0, -1], [0, 1, 2]), r"indices in \[0, 2\); got \[-1, 0\]"),
    "float": (lambda: from_csr([0.0, 1.0], [0, 1, 2]), "integers; got float64"),
    "start": (lambda: from_csr([0, 1], [1, 1, 2]), "rises from 0 to 2.* got one from 1 to 2"),
    "end": (lambda: from_csr([0, 1], [0, 1, 1]), "rises from 0 to 2.* got one from 0 to 1"),
    "falls": (lambda: from_csr([0, 1], [0, 2, 1, 2], shape=(3, 2)), "with steps of -1"),
    "unsigned": (
        lambda: from_csr([0, 1], np.array([0, 2, 1, 2], np.uint32), shape=(3, 2)),
        "with steps of -1",
    ),
    "entries": (lambda: from_csr([0, 1], [0, 1, 2], (1.0, 2.0, 3.0)), "three vectors of one len"),
    "shape": (lambda: from_csr([0, 1], [0, 1, 2], shape=(2.0, 2)), r"two numbers of rows and col"),
    "three axes": (lambda: from_csr([0, 1], [0, 1, 2], shape=(2, 2, 2)), r"got \(2, 2, 2\)"),
    "below zero": (lambda: ie.SparseOperator([1.0], [0], [0], (1, -1)), r"shape=...\)`.*\(1, -1\)"),
    "traced": (
        lambda: jax.jit(lambda i: from_csr(i, [0, 1, 2]).data)(jnp.array([0, 1])),
        r"from_csr\(indices=..., indptr=...\)`.*known when traced; got an array that JAX traces",
    ),
}


# element matrices and boundary conditions

KEEP = np.array([5, 1, 2, 8, 7, 4])
MASK = np.isin(np.arange(E + 1), KEEP)


@pytest.mark.parametrize("dtype", DTYPES)
def test_unknowns_that_are_kept(dtype):
    """Of raw element matrices, by numbers in any order or by a mask; gradients are those of rows
    and columns that are taken from the whole matrix."""
    entries = jnp.asarray(small(dtype, 0, (E, 2, 2)))
    whole = lambda data: ie.SparseOperator.from_coo(data, *PLACES)
    assert whole(entries).shape == (E + 1, E + 1)
    flat = [np.broadcast_to(index, entries.shape).ravel() for index in PLACES]
    dense = np.zeros((E + 1, E + 1), dtype)
    np.add.at(dense, tuple(flat), np.asarray(entries).ravel())
    assert jnp.array_equal(whole(entries).as_matrix(), dense)

    for keep in (KEEP, MASK, KEEP.tolist(), KEEP.astype(np.uint8)):
        order = np.flatnonzero(keep) if keep is MASK else KEEP
        part = ie.SparseOperator.from_coo(entries.ravel(), *flat, keep=keep)
        assert jnp.array_equal(part.as_matrix(), dense[np.ix_(order, order)])

    weights = jnp.asarray(small(dtype, 1, (6, 6)))
    sums = lambda M: jnp.sum(M * weights).real
    kept = lambda data: ie.SparseOperator.from_coo(data, *PLACES, keep=KEEP).as_matrix()
    taken = lambda data: whole(data).as_matrix()[np.ix_(KEEP, KEEP)]
    found, expected = jitted(
        jax.grad(lambda data: sums(kept(data))), jax.grad(lambda data: sums(taken(data)))
    )(entries)
    assert found.shape == entries.shape
    assert jnp.array_equal(found, expected)
    # the elements 5 and 8 have an end that is eliminated
    assert jnp.all(found[5, 1] == 0)
    assert jnp.all(found[8, :, 1] == 0)


@pytest.mark.parametrize(
    ("dtype", "solver"), [(np.float32, eigh), (np.float64, SHIFT_INVERT)], ids=["lapack", "arpack"]
)
def test_derivatives_of_a_chain_with_fixed_ends(dtype, solver):
    keep = np.arange(1, E)
    args = parameters(dtype), parameters(dtype, 1)
    assemble = lambda p, q: chain(p, q, keep=keep)
    compare(assemble, args, keep.size, solver)


def test_eigenvectors_of_all_unknowns():
    p = parameters()
    pencil, whole = chain(p, p, keep=KEEP), chain(p, p)
    values, vectors = ie.eigensolver(eigh, ie.Hermitian(K))(*pencil)
    X = jnp.zeros((E + 1, K)).at[KEEP].set(vectors)
    residual = (whole[0] @ X - whole[1] @ X * values[None, :])[KEEP]
    assert jnp.max(jnp.abs(residual)) < 100 * EPS[np.dtype(np.float64)] * values[-1]
    assert jnp.all(X[~MASK] == 0)
    masked = jnp.zeros((E + 1, K)).at[MASK].set(vectors[np.argsort(KEEP)])
    assert jnp.array_equal(X, masked)


def from_coo(data=None, rows=PLACES[0], cols=PLACES[1], **options):
    data = elements(parameters(), STIFF) if data is None else data
    return ie.SparseOperator.from_coo(data, rows, cols, **options)


COO = {
    "rows": (lambda: from_coo(rows=DOFS), r"from_coo\(rows=...\)`.*\(9, 2, 2\).*got \(9, 2\). Wri"),
    "axes": (lambda: from_coo(cols=DOFS[:, :, None, None]), r"cols=...\)`: the shape of `data`"),
    "one for all": (lambda: from_coo(jnp.ones(3), [0], [0, 1, 2]), r"rows=...\)`.*got \(1,\)"),
    "index": (lambda: from_coo(shape=(E, E)), r"from_coo\(rows=...\)`: indices in \[0, 9\)"),
    "below": (lambda: from_coo(jnp.ones(1), [-1], [-1]), r"rows=...\)`: indices in \[0, 0\)"),
    "float": (lambda: from_coo(cols=1.0 * PLACES[1]), r"from_coo\(cols=...\)`: integers; got floa"),
    "integers": (
        lambda: from_coo(np.ones((E, 2, 2), int)),
        r"from_coo\(data=...\)`: real or com",
    ),
    "nothing": (lambda: from_coo(jnp.ones(0), [], []), r"from_coo\(shape=...\)`: numbers of rows"),
    "mask": (lambda: from_coo(keep=MASK[:-1]), r"a mask of shape \(10,\); got bool of shape \(9,"),
    "table": (lambda: from_coo(keep=KEEP[:, None]), r"unknowns in a vector.*int64 of shape \(6, 1"),
    "as numbers": (
        lambda: from_coo(keep=MASK.astype(int)),
        "each unknown once; got 2 different ones in 10",
    ),
    "none": (lambda: from_coo(keep=[]), "at least one unknown; got none. Give those"),
    "empty mask": (lambda: from_coo(keep=0 * MASK > 0), "at least one unknown; got none"),
    "unknown": (
        lambda: from_coo(keep=[1, 10]),
        r"keep=...\)`: indices in \[0, 10\); got \[1, 10\]",
    ),
    "from the end": (
        lambda: from_coo(keep=[1, -1]),
        r"keep=...\)`: indices in \[0, 10\); got \[-1",
    ),
    "oblong": (
        lambda: from_coo(shape=(10, 11), keep=[1]),
        r"a square matrix; got shape \(10, 11\)",
    ),
    "traced keep": (
        lambda: jax.jit(lambda keep: from_coo(keep=keep).data)(KEEP),
        r"from_coo\(rows=..., cols=..., keep=...\)`: places of entries that are known when traced",
    ),
}


# ties


@pytest.mark.parametrize("ties", [np.float64, np.complex128, np.float32])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_congruence(dtype, ties):
    """Rows and columns of T that are empty or long, duplicates in both matrices."""
    A, T = small(dtype, 0, (7, 7)), small(ties, 3, (7, 5))
    A[3], T[2], T[:, 1], T[4] = 0, 0, 0, 2
    doubled = sp.coo_array(A)
    doubled = sp.coo_array(
        (np.tile(doubled.data, 2) / 2, np.tile(doubled.coords, 2)), doubled.shape
    )
    expected = T.conj().T @ A @ T
    unsigned = [part.astype(np.uint64) for part in T.nonzero()]
    forms = [
        sp.csr_array(T),
        from_scipy(sp.dia_matrix(T)),
        ie.SparseOperator(T[T.nonzero()], *unsigned, T.shape),
    ]
    for given in forms:
        found = from_scipy(doubled).congruence(given)
        assert type(found) is ie.SparseOperator
        assert found.pattern is not None
        assert found.data.dtype == np.result_type(dtype, ties)
        assert jnp.array_equal(found.as_matrix(), expected)
        rows, cols = found.places()
        assert np.unique(rows * 5 + cols).size == rows.size


@pytest.mark.parametrize("dtypes", [(np.float32, np.complex64), (np.complex128, np.float64)])
def test_derivatives_of_a_congruence(dtypes):
    """By the entries of either matrix, each in its dtype; the result is linear in those of A."""
    A, T = sp.coo_array(small(dtypes[0], 0, (7, 7))), sp.coo_array(small(dtypes[1], 3, (7, 5)))
    make = lambda data, like: ie.SparseOperator(data, *like.coords, like.shape)
    common = np.result_type(*dtypes)

    def dense(a, t):
        A_, T_ = (make(*pair).as_matrix().astype(common) for pair in ((a, A), (t, T)))
        return T_.conj().T @ A_ @ T_

    forms = lambda a, t: make(a, A).congruence(make(t, T)).as_matrix(), dense
    args = jnp.asarray(A.data), jnp.asarray(T.data)
    dots = ie.testing.random_like(args)

    def derivatives(form):
        loss = lambda a, t: jnp.sum(jnp.sin(jnp.abs(form(a, t)) ** 2 / 100))
        return lambda *P: (
            jax.jvp(loss, P, dots),
            jax.jvp(jax.grad(loss, (0, 1)), P, dots),
            jax.vmap(form, (None, 0))(P[0], jnp.stack([P[1], 2 * P[1]])),
        )

    found, expected = jitted(*map(derivatives, forms))(*args)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert a.dtype == b.dtype
        assert_close(a, b)


def bloch(k, cells=E):
    """T of a period: the last node is the first one times a phase."""
    nodes = np.arange(cells + 1)
    phases = jnp.concatenate([jnp.ones(cells, k.dtype), jnp.exp(1j * k)[None]])
    return ie.SparseOperator(phases, nodes, nodes % cells, (cells + 1, cells))


def waves(k, p, q):
    k = k.astype(np.result_type(k.dtype, np.complex64))
    return [M.congruence(bloch(k)) for M in chain(p, q)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bloch_waves_are_differentiable_in_their_wave_vector(dtype):
    """Real element matrices, complex phases; by k and by every coefficient, to second order."""
    args = jnp.asarray(0.7, dtype), parameters(dtype), parameters(dtype, 1)
    compare(waves, args, E)


def test_group_velocity_of_a_uniform_chain():
    """λ(k) is known, and so are λ' and λ''."""
    solve = ie.eigensolver(ie.solvers.arpack(K, sigma=-0.5), ie.Hermitian(K))
    p, k = jnp.ones(E), jnp.array(0.7)
    lowest = lambda k: solve(*waves(k, p, p)).values[0]
    known = lambda k: 6 * (1 - jnp.cos(k / E)) / (2 + jnp.cos(k / E))
    derivatives = lambda f: lambda k: (f(k), jax.grad(f)(k), jax.jacfwd(jax.grad(f))(k))
    found, expected = jitted(derivatives(lowest), derivatives(known))(k)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


@pytest.mark.slow
def test_ties_of_scipy_reach_a_solver_that_factorises():
    """Hanging nodes and periodicity together; phases of SciPy are complex constants."""
    seen = []

    def spy(*pencil):
        seen.extend(pencil)
        return eigh(*pencil)

    i = np.arange(E)
    phases = np.exp(0.4j * i)
    T = sp.csr_array((np.r_[phases, 0.5, 0.5], (np.r_[i, E, E], np.r_[i, 0, 1])), (E + 1, E))
    assemble = lambda p, q: [M.congruence(T) for M in chain(p, q)]
    args = parameters(), parameters(seed=1)
    compare(assemble, args, E, spy)
    assert all(sp.issparse(M) and M.dtype == complex for M in seen)
    compare(assemble, args, E, ie.solvers.arpack(K, sigma=-0.5))


def test_the_product_of_three_operators_is_a_composition():
    A, T = (
        from_scipy(sp.csr_array(small(shape=(7, 7)))),
        from_scipy(sp.csr_array(small(shape=(7, 4)))),
    )
    assert isinstance(T.T @ A @ T, lx.ComposedLinearOperator)
    assert jnp.array_equal((T.T @ A @ T).as_matrix(), A.congruence(T).as_matrix())


def test_terms_are_found_once():
    A, T = from_scipy(sp.csr_array(small(shape=(7, 7), seed=20))), sp.csr_array(small(shape=(7, 4)))
    A.congruence(T)
    before = _terms.cache_info()
    jax.jit(lambda data: A.with_data(data).congruence(2 * T).data)(A.data)
    after = _terms.cache_info()
    assert (after.misses, after.hits) == (before.misses, before.hits + 2)


A7 = from_scipy(sp.csr_array(small(shape=(7, 7))))
TIES = {
    "array": (lambda: A7.congruence(np.eye(7)), r"got ndarray. With an array T write `T.conj\(\)"),
    "dense": (lambda: A7.congruence(lx.MatrixLinearOperator(jnp.eye(7))), "got MatrixLinearOperat"),
    "rows": (
        lambda: A7.congruence(sp.eye_array(6)),
        r"got \(7, 7\) and \(6, 6\). Give T a row",
    ),
    "oblong": (
        lambda: from_scipy(sp.csr_array(small())).congruence(sp.eye_array(6)),
        r"A of shape \(n, n\) and T of shape \(n, m\); got \(4, 6\) and \(6, 6\)",
    ),
    "integers": (lambda: A7.congruence(sp.eye_array(7, dtype=int)), r"matrix\)`: real or complex"),
    "traced": (
        lambda: jax.jit(
            lambda i: A7.congruence(ie.SparseOperator(jnp.ones(7), i, np.arange(7), (7, 7))).data
        )(jnp.arange(7)),
        r"`A.congruence\(T\)`: patterns of A and T that are known when traced; got traced rows",
    ),
}


@pytest.mark.parametrize(
    ("call", "match"),
    [case for table in (SCIPY, CSR, COO, TIES) for case in table.values()],
    ids=[
        f"{name} {case}"
        for name, table in [("scipy", SCIPY), ("csr", CSR), ("coo", COO), ("ties", TIES)]
        for case in table
    ],
)
def test_refusals(call, match):
    with pytest.raises(ie.InputError, match=match):
        call()


# real and complex matrices of one pencil


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "solver"),
    [(np.complex64, eigh), (np.complex128, SHIFT_INVERT)],
    ids=["lapack", "arpack"],
)
def test_a_real_matrix_beside_a_complex_one(dtype, solver):
    """A real mass beside a complex stiffness, constant or not; its gradient is real."""
    real = np.finfo(dtype).dtype
    phase = np.exp(0.3j * (PLACES[0] - PLACES[1])).astype(dtype)

    def assemble(p, q):
        stiffness = elements(p, STIFF).astype(dtype) * phase
        return [
            ie.SparseOperator.from_coo(stiffness, *PLACES, keep=np.arange(1, E)),
            chain(p, q, keep=np.arange(1, E))[1],
        ]

    args = parameters(real), parameters(real, 1)
    compare(assemble, args, E - 1, solver)

    mass = sp.csr_array(np.asarray(assemble(*args)[1].as_matrix()))
    constant = lambda p, q: [assemble(p, q)[0], from_scipy(mass)]
    compare(constant, args, E - 1, solver)


# scikit-fem


def test_every_coefficient_of_a_mesh_of_scikit_fem():
    """dλ/dp of each element, and of its density, against differences of SciPy's eigenvalues."""
    skfem = pytest.importorskip("skfem")
    helpers = pytest.importorskip("skfem.helpers")
    mesh = skfem.MeshTri.init_tensor(np.linspace(0, 1.3, 5), np.linspace(0, 1, 4))
    basis = skfem.Basis(mesh, skfem.ElementTriP2())
    free = basis.complement_dofs(basis.get_dofs(lambda x: x[0] == 0))
    forms = [
        skfem.BilinearForm(lambda u, v, _: helpers.dot(helpers.grad(u), helpers.grad(v))),
        skfem.BilinearForm(lambda u, v, _: u * v),
    ]
    elemental = [form.coo_data(basis) for form in forms]

    def assemble(p, entries):
        data = entries.data.reshape(-1, mesh.nelements) * p[None, :]
        return ie.SparseOperator.from_coo(data.ravel(), *entries.indices, entries.shape, free)

    solve = ie.eigensolver(ie.solvers.arpack(K, sigma=0.0), ie.Hermitian(K))
    lowest = lambda p, q: solve(*map(assemble, (p, q), elemental)).values[K - 1]
    p, q = parameters(size=mesh.nelements), parameters(seed=1, size=mesh.nelements)
    gradients = jax.jit(jax.grad(lowest, (0, 1)))(p, q)

    # scikit-fem's own assembly, with the coefficients inside the forms
    constant = basis.with_element(skfem.ElementTriP0())
    weighted = [
        skfem.BilinearForm(lambda u, v, w, form=form: w.c * form.form(u, v, w)) for form in forms
    ]

    def reference(*coefficients):
        pencil = []
        for form, c in zip(weighted, coefficients, strict=True):
            matrix = form.assemble(basis, c=constant.interpolate(np.asarray(c)))
            pencil.append(matrix.toarray()[np.ix_(free, free)])
        return eigh(*pencil)[0][K - 1]

    assert abs(lowest(p, q) - reference(p, q)) < 1e-10 * abs(lowest(p, q))
    step = EPS[np.dtype(np.float64)] ** 0.2
    for e in range(0, mesh.nelements, 5):
        for which in range(2):
            direction = [np.zeros(mesh.nelements), np.zeros(mesh.nelements)]
            direction[which][e] = 1.0
            expected = ie.testing.finite_difference(
                reference, (np.asarray(p), np.asarray(q)), tuple(direction), step=step, order=4
            )
            # truncation of order four, and rounding over the step
            tol = 100 * step**4 * abs(lowest(p, q))
            assert abs(gradients[which][e] - expected) < tol


# batches


def symmetric(blocks):
    """What a loss says of symmetric element matrices."""
    return (blocks + blocks.swapaxes(-1, -2)) / 2


def test_a_batch_of_one_pattern():
    """By element matrices that each member has of its own; the mass is the same for all."""
    free = np.arange(1, E)
    mass = chain(parameters(), parameters(seed=9), keep=free)[1]
    data = jnp.stack([elements(parameters(seed=i), STIFF) for i in range(3)])
    invariant = invariant_loss(K, free.size)
    solve = ie.eigensolver(SHIFT_INVERT, ie.Hermitian(K))
    stiffness = lambda d: ie.SparseOperator.from_coo(d, *PLACES, keep=free)
    sparsely = lambda d: invariant(*solve(stiffness(d), mass))
    densely = lambda d: invariant(*jax_eigh(stiffness(d).as_matrix(), mass.as_matrix()))
    dots = symmetric(ie.testing.random_like(data))

    def derivatives(f):
        second = lambda d, v: jax.jvp(jax.grad(f), (d,), (v,))
        return lambda d, v: (jax.vmap(f)(d), jax.vmap(second)(d, v))

    found, expected = jitted(derivatives(sparsely), derivatives(densely))(data, dots)
    assert found[1][0].shape == data.shape
    assert_close(found[0], expected[0])
    for a, b in zip(found[1], expected[1], strict=True):
        assert_close(symmetric(a), b)


@pytest.mark.slow
def test_a_padded_batch_of_several_patterns():
    """Chains with none, one and two springs more; zeros at (0, 0) make them equally long."""
    n, springs = E + 1, [[], [(0, 5)], [(2, 8), (1, 6)]]
    flat = [np.broadcast_to(index, (E, 2, 2)).ravel() for index in PLACES]
    rows, cols = [], []
    for more in springs:
        ends = np.array(more, int).reshape(-1, 2)
        padding = np.zeros(8 - 4 * len(more), int)
        on, off = np.repeat(ends, 2, axis=1).ravel(), np.tile(ends, (1, 2)).ravel()
        rows.append(np.concatenate([flat[0], on, padding, np.arange(n)]))
        cols.append(np.concatenate([flat[1], off, padding, np.arange(n)]))
    rows, cols = (jnp.asarray(np.stack(part)) for part in (rows, cols))
    present = jnp.asarray([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])

    def entries(p, present):
        more = elements(p[E:] * present, STIFF)
        return jnp.concatenate([elements(p[:E], STIFF).ravel(), more.ravel(), jnp.ones(n)])

    invariant = invariant_loss(K, n)
    solve = ie.eigensolver(SHIFT_INVERT, ie.Hermitian(K))
    operator = lambda data, rows, cols: ie.SparseOperator(data, rows, cols, (n, n))
    sparsely = lambda *parts: invariant(*solve(operator(*parts)))
    densely = lambda *parts: invariant(*jax_eigh(operator(*parts).as_matrix()))

    def derivatives(f):
        loss = lambda p, present, rows, cols: f(entries(p, present), rows, cols)
        gradient = lambda p, *rest: jax.jvp(lambda p: jax.grad(loss)(p, *rest), (p,), (p,))
        by_data = lambda p, present, rows, cols: jax.grad(f)(entries(p, present), rows, cols)
        return lambda *args: (jax.vmap(gradient)(*args), jax.vmap(by_data)(*args))

    p = jnp.stack([parameters(seed=i, size=E + 2) for i in range(3)])
    (found, by_data), (expected, _) = jitted(derivatives(sparsely), derivatives(densely))(
        p, present, rows, cols
    )
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)
    assert jnp.all(found[0][0, E:] == 0)
    # the gradient of padding is that of the place (0, 0)
    assert by_data.shape == rows.shape
    for member, more in zip(by_data, springs, strict=True):
        padding = member[4 * E + 4 * len(more) : 4 * E + 8]
        assert jnp.max(jnp.abs(padding - member[0]), initial=0) < 10 * EPS[p.dtype]


# size


def test_nothing_of_size_n_by_n_of_20000_unknowns():
    """Element matrices, boundary conditions and ties; gradients are those of the formula."""
    m = 142
    corner = (np.arange(m)[:, None] * (m + 1) + np.arange(m)).ravel()
    dofs = corner[:, None] + np.array([0, 1, m + 1, m + 2])
    places = dofs[:, :, None], dofs[:, None, :]
    node = np.arange((m + 1) ** 2)
    free = node[(node % (m + 1) > 0) & (node < m * (m + 1))]
    ties = np.arange(free.size)
    ties[-m:] -= m  # the last row moves as the one before it
    T = sp.csr_array((np.ones(free.size), (np.arange(free.size), ties)))
    assert T.shape[1] > 20_000
    one = [np.kron(STIFF, MASS) + 1.3 * np.kron(MASS, STIFF), np.kron(MASS, MASS)]

    def pencil(p, q):
        data = (c[:, None, None] * jnp.asarray(M)[None] for c, M in zip((p, q), one, strict=True))
        return [ie.SparseOperator.from_coo(d, *places, keep=free).congruence(T) for d in data]

    solve = ie.eigensolver(SHIFT_INVERT, ie.Hermitian(K))
    args = parameters(size=m * m), parameters(seed=1, size=m * m)
    loss = lambda p, q: jnp.sum(solve(*pencil(p, q)).vectors[:9] ** 4)
    gradient = jax.grad(loss, (0, 1))
    for f in (gradient, lambda *P: jax.jvp(gradient, P, P)[1]):
        largest = max(sizes(jax.make_jaxpr(f)(*args).jaxpr))
        assert largest <= 2 * 16 * m * m, largest

    def lowest(p, q):
        values, vectors = solve(*pencil(p, q))
        return values[0], vectors[:, 0]

    (value, y), found = jax.jit(jax.value_and_grad(lowest, (0, 1), has_aux=True))(*args)
    x = np.zeros(node.size)
    x[free] = T @ np.asarray(y)
    energies = [np.einsum("ei,ij,ej->e", x[dofs], M, x[dofs]) for M in one]
    for a, b in zip(found, (energies[0], -float(value) * energies[1]), strict=True):
        assert a.shape == (m * m,)
        assert np.max(np.abs(a - b)) < 1e-8 * np.max(np.abs(b))
