"""The derivatives of the package in NumPy, PyTorch and HIPS autograd."""

import functools
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse as sp
from pages import ROOT, sections
from problems import EPS, eigh, random_hermitian, with_spectrum
from test_compiled import COMPILED

import implicit_eig as ie
from implicit_eig import bridges
from implicit_eig.bridges import _torch

N, K = 7, 3
DOUBLE = EPS[np.dtype(float)]
SPECTRUM = [1.0, 2.0, 3.5, 5.0, 7.0, 8.0, 10.0]
GAP = 1.0
# rounding of the vectors, by the largest eigenvalue over the gap, and of their derivatives again
EXACT = 100 * DOUBLE * (SPECTRUM[-1] / GAP) ** 2
# central differences with the step eps^(1/3) have a relative error of eps^(2/3)
STEP = DOUBLE ** (1 / 3)
DIFFERENCES = 100 * STEP**2

solve = ie.eigensolver(eigh, ie.Hermitian(K))
C, S = np.random.default_rng(1).standard_normal((2, N))


def pairs(A):
    """Eigenvalues, and squares of vectors, which depend on no sign."""
    values, X = solve(A)
    return values, jnp.abs(X) ** 2


def loss(A):
    values, squares = pairs(A)
    return jnp.sum(jnp.asarray(C[:K]) * values) + jnp.sum(jnp.asarray(S) * squares[:, 0])


def dense_loss(A, eigh):
    """The same of the library that `eigh` belongs to, which differentiates its own `eigh`."""
    values, X = eigh(A)
    return (C[:K] * values[:K]).sum() + (S * abs(X[:, 0]) ** 2).sum()


def matrix(dtype=float):
    return np.array(with_spectrum(SPECTRUM, dtype))


def difference(f, x, direction):
    """The derivative of f along a direction."""
    return (f(x + STEP * direction) - f(x - STEP * direction)) / (2 * STEP)


def hermitian_direction(dtype):
    return np.array(random_hermitian(N, dtype, seed=5))


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def autograd():
    return pytest.importorskip("autograd")


# NumPy


@pytest.mark.parametrize("dtype", [float, complex])
def test_numpy_pulls_back_what_differences_give(dtype):
    value_of = bridges.numpy(loss)
    A, A_dot = matrix(dtype), hermitian_direction(dtype)
    value, pullback = value_of(A)
    (A_bar,) = pullback(2.0)
    assert isinstance(value, np.float64)
    assert isinstance(A_bar, np.ndarray)
    assert A_bar.flags.writeable
    assert A_bar.dtype == A.dtype
    expected = 2 * difference(lambda A: value_of(A)[0], A, A_dot)
    # not conjugated: the pairing of JAX
    np.testing.assert_allclose(np.sum(A_bar * A_dot).real, expected, atol=DIFFERENCES)
    value, X = scipy.linalg.eigh(A)
    (A_bar,) = bridges.numpy(lambda A: solve(A).values[0])(A)[1](1.0)
    np.testing.assert_allclose(A_bar, np.outer(X[:, 0], X[:, 0].conj()).conj(), atol=EXACT)


def test_the_cotangent_of_a_complex_number_is_that_of_jax():
    f = lambda z: jnp.real(z**3) + 2 * jnp.imag(z)
    z = 1.5 - 0.5j
    _, pullback = bridges.numpy(f)(z)
    x, y = difference(f, z, 1.0), difference(f, z, 1j)
    np.testing.assert_allclose(pullback(1.0)[0], x - 1j * y, rtol=DIFFERENCES)
    # and the conjugate is the direction in which f rises
    assert f(z + 1e-3 * np.conj(pullback(1.0)[0])) > f(z)


FORMATS = ["csr", "csc", "coo", "bsr", "dia", "dok", "lil"]
KINDS = [sp.csr_array, sp.csr_matrix]


def pattern(kind=sp.csr_array):
    """A symmetric matrix with an explicit zero as its first entry."""
    i = np.arange(6)
    rows, cols = np.concatenate([i, i[1:], i[:-1]]), np.concatenate([i, i[:-1], i[1:]])
    data = np.concatenate([[0.0, 1.0, 3.0, 4.0, 6.0, 7.0], -np.ones(10)])
    return kind((data, (rows, cols)), (6, 6))


@pytest.mark.parametrize("kind", [sp.csr_array, sp.csr_matrix])
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia", "dok", "lil"])
def test_scipy_matrices_come_back_on_their_pattern(form, kind):
    M = pattern(kind).asformat(form)
    _, pullback = bridges.numpy(lambda A: solve(A).values)(M)
    (M_bar,) = pullback(np.array([1.0, 0.0, 0.0]))
    assert type(M_bar) is type(M)
    assert M_bar.nnz == M.nnz
    x = np.linalg.eigh(M.toarray())[1][:, 0]
    # the derivative in an entry that is zero is not, unless the format does not store it
    stored = M.toarray() != 0
    stored[0, 0] = form != "dok" or (0, 0) in M
    np.testing.assert_allclose(M_bar.toarray(), np.where(stored, np.outer(x, x), 0), atol=EXACT)


def test_entries_keep_their_order_and_duplicates():
    full = pattern().tocoo()
    order = np.random.default_rng(0).permutation(2 * full.nnz)
    rows, cols = (np.tile(part, 2)[order] for part in full.coords)
    data = np.concatenate([0.25 * full.data, 0.75 * full.data])[order]
    M = sp.coo_array((data, (rows, cols)), full.shape)
    _, pullback = bridges.numpy(lambda A: solve(A).values[1])(M)
    (M_bar,) = pullback(1.0)
    assert (M_bar.row == rows).all()
    assert (M_bar.col == cols).all()
    x = np.linalg.eigh(full.toarray())[1][:, 1]
    # every copy has the whole derivative, as in finite-element assembly
    np.testing.assert_allclose(M_bar.data, x[rows] * x[cols], atol=EXACT)


def test_a_matrix_with_room_for_more_entries():
    M = pattern()
    spare = M.copy()
    spare.data = np.append(M.data, 9.0)
    spare.indices = np.append(M.indices, 0).astype(M.indices.dtype)
    (M_bar,) = bridges.numpy(lambda A: solve(A).values[0])(spare)[1](1.0)
    assert M_bar.data.shape == M.data.shape


def test_what_the_caller_changes_afterwards_does_not_matter():
    A, M = matrix(), pattern()
    # squares, of which the pullback reads the arguments themselves
    f = bridges.numpy(lambda A, M: jnp.sum(A**2) * jnp.sum(M.data**2))
    expected = f(A.copy(), M.copy())[1](1.0)
    _, pullback = f(A, M)
    A += 1.0
    M.data[:] = 0.0
    M.indices[:] = 0
    A_bar, M_bar = pullback(1.0)
    np.testing.assert_array_equal(A_bar, expected[0])
    np.testing.assert_array_equal(M_bar.toarray(), expected[1].toarray())
    A_bar[:] = 0.0
    np.testing.assert_array_equal(pullback(1.0)[0], expected[0])


def test_pytrees_numbers_and_integers():
    def f(parts, t, n):
        values = solve(parts["A"] * t + parts["B"][0] * n.astype(float)).values
        return {"values": values, "count": n + 1, "none": None}

    parts = {"A": matrix(), "B": [np.eye(N)]}
    value, pullback = bridges.numpy(f)(parts, 2.0, np.arange(3)[2])
    np.testing.assert_allclose(value["values"], 2 * np.array(SPECTRUM[:K]) + 2, rtol=EXACT)
    assert value["count"] == 3
    bar = {"values": np.array([1, 0, 0]), "count": None, "none": None}
    parts_bar, t_bar, n_bar = pullback(bar)
    np.testing.assert_allclose(np.trace(parts_bar["A"]), 2.0, rtol=EXACT)
    np.testing.assert_allclose(np.trace(parts_bar["B"][0]), 2.0, rtol=EXACT)
    np.testing.assert_allclose(t_bar, SPECTRUM[0], rtol=EXACT)
    assert n_bar is None
    nothing = pullback({"values": None, "count": None, "none": None})
    assert not nothing[0]["A"].any()


def test_a_whole_solution_is_returned():
    solution, _ = bridges.numpy(solve)(matrix())
    assert isinstance(solution, ie.Solution)
    assert isinstance(solution.values, np.ndarray)
    np.testing.assert_allclose(solution.values, SPECTRUM[:K], rtol=EXACT)


def test_other_byte_orders_and_layouts():
    f = bridges.numpy(loss)
    expected = f(matrix())[1](1.0)[0]
    for A in (matrix().astype(">f8"), np.asfortranarray(matrix()), matrix()[::-1][::-1]):
        np.testing.assert_array_equal(f(A)[1](1.0)[0], expected)


# Precision


@pytest.fixture
def single_precision():
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", True)


SINGLE = r"which JAX would keep single precision alone. Run `jax.config.update\(\"jax_enable_x64\""


@pytest.mark.usefixtures("single_precision")
@pytest.mark.parametrize(
    "given", [np.ones(3), np.ones(3, complex), 0.5, np.float64(0.5), np.array([2**40]), pattern()]
)
def test_double_precision_is_refused_where_jax_drops_it(given):
    with pytest.raises(ie.InputError, match=SINGLE):
        bridges.numpy(lambda x: x)(given)


@pytest.mark.usefixtures("single_precision")
def test_single_precision_needs_no_setting():
    A = matrix().astype(np.float32)
    value, pullback = bridges.numpy(lambda A, n: solve(A).values[n])(A, np.array(1))
    assert (value.dtype, pullback(1.0)[0].dtype) == (np.float32, np.float32)
    rtol = 100 * EPS[np.dtype(np.float32)] * SPECTRUM[-1] / GAP
    np.testing.assert_allclose(value, SPECTRUM[1], rtol=rtol)
    np.testing.assert_allclose(np.trace(pullback(1.0)[0]), 1.0, rtol=rtol)


@pytest.mark.usefixtures("single_precision")
def test_tensors_in_double_precision_are_refused_too():
    torch = pytest.importorskip("torch")
    with pytest.raises(ie.InputError, match=SINGLE):
        bridges.torch(lambda x: x)(torch.ones(3, dtype=torch.float64))


@pytest.mark.usefixtures("single_precision")
def test_arrays_of_autograd_in_double_precision_are_refused_too():
    autograd = pytest.importorskip("autograd")
    with pytest.raises(ie.InputError, match=SINGLE):
        autograd.grad(bridges.autograd(jnp.sum))(np.ones(3))


# Bad input

f1 = bridges.numpy(lambda x: (2 * x, x > 0))
PULL = lambda bar: f1(np.ones(2))[1](bar)
CASES = {
    "no function": (
        lambda: bridges.numpy(np.eye(2)),
        r"`bridges.numpy\(fn\)`: a JAX function; got",
    ),
    "text": (lambda: f1("csr"), r"numbers, arrays and sparse matrices; got str. Bind whatever"),
    "objects": (lambda: f1(np.array([None])), r"got an array of object"),
    "texts": (lambda: f1(np.array(["a"])), r"got an array of <U1"),
    "masked": (lambda: f1(np.ma.masked_array([1.0])), r"arrays without a mask; got a masked"),
    "half": (lambda: f1(np.ones(2, np.float16)), r"in single or double precision; got float16"),
    "long": (lambda: f1(np.ones(2, np.longdouble)), r"in single or double precision; got (f|long)"),
    "sparse vector": (lambda: f1(sp.coo_array(np.ones(3))), r"got a sparse array of shape \(3,\)"),
    "sparse integers": (lambda: f1(sp.eye_array(3, dtype=int)), r"floating-point entries; got int"),
    "tracer": (
        lambda: jax.jit(lambda x: f1(x)[0])(jnp.ones(2)),
        r"got a tracer of JAX. Inside JAX call `fn` itself",
    ),
    "bar structure": (lambda: PULL(1.0), r"a cotangent for each array of the value, in its struct"),
    "bar shape": (lambda: PULL((np.ones(3), None)), r"of shape \(2,\) and dtype float64, those of"),
    "bar dtype": (lambda: PULL((np.ones(2, complex), None)), r"got \(2,\) and complex128. Give"),
    "bar text": (lambda: PULL((["a", "b"], None)), r"got \(2,\) and <U1"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name):
    call, message = CASES[name]
    with pytest.raises(ie.InputError, match=message):
        call()


@pytest.mark.parametrize("package", ["torch", "autograd"])
def test_a_missing_package_is_reported(package, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    bridge = {"torch": bridges.torch, "autograd": bridges.autograd}[package]
    install = re.escape(f'Run `pip install "implicit_eig[{package}]"`')
    with pytest.raises(ie.InputError, match=f"the package {package}; got .* {install}"):
        bridge(loss)


def test_importing_the_bridges_imports_neither_library():
    code = """
        import sys, implicit_eig.bridges
        assert not {"torch", "autograd"} & {name.split(".")[0] for name in sys.modules}
    """
    subprocess.run([sys.executable, "-c", code.replace("        ", "")], check=True, timeout=100)


# Errors and warnings

careless = lambda A: (np.array([50.0]), np.eye(len(A))[:, :1])


def caller(name):
    """A function of an array that calls fn and differentiates by the bridge of that name."""
    if name == "torch":
        torch = pytest.importorskip("torch")

        def gradient(fn, A):
            tensor = torch.tensor(A, requires_grad=True)
            bridges.torch(fn)(tensor).backward()
            return tensor.grad.numpy()

        return gradient
    if name == "autograd":
        autograd = pytest.importorskip("autograd")
        return lambda fn, A: autograd.grad(bridges.autograd(fn))(A)
    return lambda fn, A: bridges.numpy(fn)(A)[1](1.0)[0]


BRIDGES = ["numpy", "torch", "autograd"]


@pytest.mark.parametrize("name", BRIDGES)
def test_errors_keep_their_type(name):
    wrong = ie.eigensolver(careless, ie.Hermitian(1))
    fn = lambda A: wrong(A).values[0]
    gradient = caller(name)
    for _ in range(2):  # of the second call of a program JAX makes another error
        with pytest.raises(ie.EigensolverError, match=r"^`eigensolver.* residual .*rtol=...\)`\.$"):
            gradient(fn, matrix())


@pytest.mark.parametrize("name", BRIDGES)
def test_errors_of_the_pullback_keep_their_type(name):
    policy = ie.Policy(linear_solve=ie.Action.RAISE)
    singular = ie.host_linear_solver(lambda A, b: np.zeros_like(b))
    unsolved = ie.eigensolver(eigh, ie.Hermitian(K), linear_solver=singular, policy=policy)
    with pytest.raises(ie.LinearSolveError, match="residual"):
        caller(name)(lambda A: unsolved(A).vectors[0, 0] ** 2, matrix())


@pytest.mark.parametrize("name", BRIDGES)
def test_warnings_reach_the_caller(name):
    solve = ie.eigensolver(eigh, ie.Hermitian(2))
    fn = lambda A: solve(A).values[0]
    with pytest.warns(ie.GaugeWarning, match="a function that treats the values"):
        caller(name)(fn, np.eye(2))
    # here they are errors
    with pytest.raises(ie.GaugeWarning, match="a function that treats the values"):
        caller(name)(fn, np.eye(2))


def test_what_the_solver_raises_is_told():
    def broken(A):
        raise ArithmeticError("the Fortran code has diverged")

    fn = lambda A: ie.eigensolver(broken, ie.Hermitian(1))(A).values[0]
    with pytest.raises(jax.errors.JaxRuntimeError, match="the Fortran code has diverged"):
        caller("numpy")(fn, matrix())


# Compilation


@pytest.mark.parametrize("name", BRIDGES)
def test_everything_is_compiled_once(name):
    traced = []

    def fn(A):
        traced.append(A.shape)
        return solve(A).values[0]

    gradient = caller(name)
    first = gradient(fn, matrix())
    gradient(fn, matrix())
    COMPILED.clear()
    again = gradient(fn, matrix() + 0.0)  # with another bridge to the same function
    assert traced == [(N, N)]
    assert not [event for event in COMPILED if "trace" in event or "compile" in event]
    np.testing.assert_array_equal(first, again)
    gradient(fn, matrix()[:6, :6])
    assert "trace" in " ".join(COMPILED)  # what is traced is seen


def test_a_pullback_is_one_program():
    x = np.ones((3, 5, 1, 7))  # a shape that nothing else here has
    _, pullback = bridges.numpy(lambda x: jnp.sum(jnp.sin(x) * jnp.tanh(x)))(x)
    COMPILED.clear()
    pullback(1.0)
    assert len([event for event in COMPILED if "backend_compile" in event]) == 1


def test_the_value_alone_is_computed_where_no_gradient_is_asked(torch, autograd):
    differentiated = []

    @jax.custom_jvp
    def seen(x):
        return x**2

    seen.defjvps(lambda x_dot, _, x: (differentiated.append(x.shape), x_dot)[1])
    A = torch.ones(3).double().requires_grad_()
    with torch.no_grad():
        bridges.torch(seen)(A)
    bridges.torch(seen)(A.detach())
    bridges.autograd(seen)(np.ones(3))
    assert not differentiated
    bridges.torch(seen)(A)
    assert differentiated


def test_a_pullback_solves_nothing_forward():
    calls = []

    def counted(A):
        calls.append(A)
        return eigh(A)

    solve = ie.eigensolver(counted, ie.Hermitian(K))
    _, pullback = bridges.numpy(lambda A: solve(A).values)(matrix())
    for i in range(K):
        pullback(np.eye(K)[i])
    assert len(calls) == 1


# The page

SECTIONS = sections(ROOT / "docs" / "bridges.md")


@pytest.mark.parametrize("section", [name for name, code in SECTIONS.items() if code])
def test_the_examples_of_the_page_run(section):
    for library in ("torch", "autograd"):
        if f"import {library}" in SECTIONS[section]:
            pytest.importorskip(library)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(SECTIONS[section], "docs/bridges.md", "exec"), {})


def test_the_page_has_an_example_for_each_bridge():
    assert sum(bool(code) for code in SECTIONS.values()) == len(BRIDGES)


# Optimisation: the lowest frequency of a chain of springs between two walls

LINKS = 6
ENDS = np.eye(LINKS, LINKS - 1) - np.eye(LINKS, LINKS - 1, -1)  # elongation of each spring


def chain(k):
    """The stiffness of the chain, sparse, with the entries of each spring by themselves."""
    rows, cols, data = [], [], []
    for i, b in enumerate(ENDS):
        ends = np.flatnonzero(b)
        r, c = (part.ravel() for part in np.meshgrid(ends, ends))
        rows, cols = [*rows, *r], [*cols, *c]
        data.append(k[i] * jnp.asarray(b[r] * b[c]))
    shape = (LINKS - 1, LINKS - 1)
    return ie.SparseOperator(jnp.concatenate(data), np.array(rows), np.array(cols), shape)


one = ie.eigensolver(eigh, ie.Hermitian(1))
lowest_frequency = lambda k: jnp.sqrt(one(chain(k)).values[0])


@pytest.mark.parametrize("name", BRIDGES)
def test_a_chain_of_springs_is_tuned(name):
    gradient = caller(name)
    frequency = lambda k: np.sqrt(np.linalg.eigvalsh(ENDS.T @ np.diag(k) @ ENDS)[0])
    k = np.linspace(0.5, 1.5, LINKS)  # their mean remains
    found = [frequency(k)]
    for _ in range(25):
        step = gradient(lowest_frequency, k)
        k = k + 4.0 * (step - step.mean())
        found.append(frequency(k))
    assert np.all(np.diff(found) > -EXACT)
    assert found[0] < 0.9 * found[-1]
    # at the optimum all springs are stretched alike: x = (1, 2, 3, 2, 1), and ω² = 6/19
    np.testing.assert_allclose(found[-1], np.sqrt(6 / 19), rtol=1e-8)


# PyTorch


def tensor(torch, array):
    return torch.tensor(array, requires_grad=True)


@pytest.mark.parametrize("dtype", [float, complex])
def test_torch_agrees_with_its_own_eigh_and_differences(torch, dtype):
    c, weights = torch.tensor(C[:K]), torch.tensor(S)

    def theirs(A):
        values, X = torch.linalg.eigh(A)
        return (c * values[:K]).sum() + (weights * X[:, 0].abs() ** 2).sum()

    A = tensor(torch, matrix(dtype))
    # made Hermitian, because libraries read different triangles
    both = [f((A + A.mH) / 2) for f in (bridges.torch(loss), theirs)]
    found, expected = (torch.autograd.grad(value, A)[0] for value in both)
    np.testing.assert_allclose(found, expected, atol=EXACT)
    two = bridges.torch(pairs)
    small = tensor(torch, np.array(with_spectrum([1.0, 2.0, 4.0, 7.0], dtype)))
    assert torch.autograd.gradcheck(lambda A: two((A + A.mH) / 2), small)


@pytest.mark.slow
def test_second_derivatives_agree_with_differences(torch):
    two = bridges.torch(pairs)
    first = lambda A: tuple(part[..., 0] for part in two((A + A.mH) / 2))
    small = np.array(with_spectrum([1.0, 2.0, 4.0, 7.0], complex))
    assert torch.autograd.gradgradcheck(first, tensor(torch, small))


def test_the_gradient_in_a_complex_number_is_that_of_torch(torch):
    f = bridges.torch(lambda z: (jnp.real(z**3) + 2 * jnp.imag(z), z**2))
    g = lambda z: ((z**3).real + 2 * z.imag, z**2)
    z = torch.tensor(1.5 - 0.5j, dtype=torch.complex128, requires_grad=True)
    bars = torch.tensor(1.0).double(), torch.tensor(0.3 + 2j, dtype=torch.complex128)
    found, expected = (torch.autograd.grad(h(z), z, bars)[0] for h in (f, g))
    np.testing.assert_allclose(found, expected, rtol=10 * DOUBLE)
    (again,) = torch.autograd.grad(f(z), z, bars, create_graph=True)
    np.testing.assert_allclose(again.detach(), expected, rtol=10 * DOUBLE)
    assert torch.autograd.gradcheck(f, z)
    assert torch.autograd.gradgradcheck(f, z)


def sparse_tensor(torch, layout):
    """The pattern with its explicit zero."""
    M = pattern()
    if layout == "sparse_csr":
        parts = map(torch.tensor, (M.indptr, M.indices, M.data))
        return torch.sparse_csr_tensor(*parts, M.shape)
    coo = M.tocoo()
    return torch.sparse_coo_tensor(torch.tensor(np.array(coo.coords)), torch.tensor(coo.data))


# What PyTorch says of its sparse tensors, once in a process.
OF_TORCH = [
    pytest.mark.filterwarnings(f"ignore:{text}:UserWarning")
    for text in ("Sparse .* tensor support is in beta", "Sparse invariant checks are implicitly")
]


def sparse_test(test):
    return functools.reduce(lambda test, mark: mark(test), OF_TORCH, test)


@sparse_test
@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr"])
def test_sparse_tensors_have_sparse_gradients(torch, layout):
    M = sparse_tensor(torch, layout).requires_grad_()
    bridges.torch(lambda A: solve(A).values[0])(M).backward()
    assert M.grad.layout == M.layout
    x = np.linalg.eigh(pattern().toarray())[1][:, 0]
    stored = pattern().toarray() != 0
    stored[0, 0] = True
    dense = M.grad.to_dense()
    np.testing.assert_allclose(dense, np.where(stored, np.outer(x, x), 0.0), atol=EXACT)


@sparse_test
def test_gradients_reach_what_a_sparse_tensor_is_made_of(torch):
    M = pattern()
    places, entries = np.array(M.tocoo().coords), tensor(torch, M.data)
    # each entry in two parts, which PyTorch sums
    parts = torch.cat([0.25 * entries, 0.75 * entries])
    coo = torch.sparse_coo_tensor(torch.tensor(np.tile(places, 2)), parts, M.shape)
    csr = torch.sparse_csr_tensor(*map(torch.tensor, (M.indptr, M.indices)), entries, M.shape)
    x = np.linalg.eigh(M.toarray())[1][:, 0]
    for A in (coo, csr):
        (bar,) = torch.autograd.grad(bridges.torch(lambda A: solve(A).values[0])(A), entries)
        np.testing.assert_allclose(bar, x[places[0]] * x[places[1]], atol=EXACT)


@sparse_test
@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr"])
def test_second_derivatives_in_sparse_tensors_are_refused(torch, layout):
    M = sparse_tensor(torch, layout).requires_grad_()
    value = bridges.torch(lambda A: solve(A).values[0])(M)
    with pytest.raises(ie.InputError, match=r"dense tensors for second derivatives; got a sparse"):
        torch.autograd.grad(value, M, create_graph=True)


@pytest.mark.slow
def test_second_derivatives_in_the_entries(torch):
    """What the refusal recommends."""
    rows, cols = pattern().tocoo().coords
    f = bridges.torch(lambda data: solve(ie.SparseOperator(data, rows, cols, (6, 6))).values[0])
    # symmetric, because each parameter is perturbed by itself
    upper = torch.tensor(np.minimum(rows, cols) + 6 * (rows != cols))
    p = np.concatenate([np.arange(6.0), -np.ones(5)])
    assert torch.autograd.gradgradcheck(lambda p: f(p[upper]), tensor(torch, p))


def test_tensors_share_their_memory(torch):
    A = torch.tensor(matrix())
    for x in (A, A.reshape(-1), A[:0]):
        assert _torch._shared(x).unsafe_buffer_pointer() == x.data_ptr()


LAYOUTS = {
    "unaligned": lambda A: A.new_zeros(N * N + 1)[1:].reshape(N, N).copy_(A),
    "strided": lambda A: A.new_zeros(2 * N, 2 * N)[::2, ::2].copy_(A),
    "transposed": lambda A: A.T.contiguous().T,
    "conjugate": lambda A: A.conj().resolve_conj().conj(),
    "negative": lambda A: (-1j * A).conj().imag,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_tensors_of_any_memory_layout(torch, name):
    A = torch.tensor(matrix(complex))
    if name == "negative":
        A = torch.tensor(matrix())
    B = LAYOUTS[name](A).requires_grad_()
    expected = bridges.numpy(loss)(A.numpy())
    value = bridges.torch(loss)(B)
    (bar,) = torch.autograd.grad(value, B)
    np.testing.assert_allclose(value.detach(), expected[0], rtol=EXACT)
    np.testing.assert_allclose(bar, expected[1](1.0)[0].conj(), atol=EXACT)


def test_a_number_with_pending_sign(torch):
    z = torch.tensor(1.0 + 2.0j, dtype=torch.complex128).conj()
    assert z.imag.is_neg()
    assert bridges.torch(lambda x: x**3)(z.imag) == -8.0


def test_a_tensor_that_was_changed_is_noticed(torch):
    A, B = torch.tensor(matrix()), torch.tensor(matrix())
    A.requires_grad_()
    value = bridges.torch(lambda A, B: solve(A + B).values[0] ** 2)(A, B)
    B += 1.0  # its memory is that which the pullback reads
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_results_can_be_written_into(torch):
    A = tensor(torch, matrix())
    outputs = bridges.torch(lambda A: (A, A, jnp.exp(A), jnp.sum(A)))(A)
    pointers = {x.data_ptr() for x in (A, *outputs)}
    assert len(pointers) == 5
    for x in outputs[:3]:
        x.detach().zero_()
    (bar,) = torch.autograd.grad(outputs[2].sum() + outputs[3], A)
    np.testing.assert_allclose(bar, np.exp(matrix()) + 1.0, rtol=10 * DOUBLE)
    np.testing.assert_array_equal(A.detach(), matrix())


def test_gradients_share_no_memory(torch):
    x, y = (tensor(torch, np.ones(3)) for _ in range(2))
    bar = torch.ones(3, dtype=torch.float64)
    gradients = torch.autograd.grad(bridges.torch(lambda x, y: x + y)(x, y), (x, y), bar)
    assert len({part.data_ptr() for part in (bar, *gradients)}) == 3


def test_constants_and_outputs_of_all_kinds(torch):
    def fn(parts, t, n, M):
        values = solve(parts[0] + t * parts[1]["B"] + M.as_matrix()).values
        return {"values": values, "many": (n + 1, values > 2.0)}

    A, t = tensor(torch, matrix()[:6, :6]), torch.tensor(2.0, dtype=torch.float64)
    out = bridges.torch(fn)((A, {"B": np.eye(6)}), t, torch.tensor([1, 2]), pattern())
    assert out["many"][0].tolist() == [2, 3]
    assert not out["many"][0].requires_grad
    assert out["many"][1].dtype == torch.bool
    (bar,) = torch.autograd.grad(out["values"][0], A)
    np.testing.assert_allclose(np.trace(bar), 1.0, rtol=EXACT)
    assert t.grad is None
    with torch.no_grad():
        quiet = bridges.torch(fn)((A, {"B": np.eye(6)}), 2.0, torch.tensor([1, 2]), pattern())
    assert not quiet["values"].requires_grad
    np.testing.assert_array_equal(quiet["values"], out["values"].detach())


def test_only_what_requires_a_gradient_is_differentiated(torch):
    moved = []

    @jax.custom_jvp
    def seen(x):
        return x

    seen.defjvps(lambda x_dot, _, x: (moved.append(x.shape), x_dot)[1])
    fn = lambda A, b: jnp.sum(seen(A)) + jnp.sum(seen(b))
    A, b = torch.ones(2, 2).double(), tensor(torch, np.ones(3))
    bridges.torch(fn)(A, b).backward()
    assert set(moved) == {(3,)}


def test_single_precision_and_mixed(torch):
    A = torch.tensor(matrix(np.float32), requires_grad=True)
    t = tensor(torch, np.array(1.0))
    f = bridges.torch(lambda A, t: solve(A.astype(float) * t).values[0])
    f(A, t).backward()
    assert (A.grad.dtype, t.grad.dtype) == (torch.float32, torch.float64)


def test_graphs_as_torch_treats_them(torch):
    A = tensor(torch, matrix())
    value = bridges.torch(loss)(A)
    (one,) = torch.autograd.grad(value, A, retain_graph=True)
    (two,) = torch.autograd.grad(value, A)
    np.testing.assert_array_equal(one, two)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(value, A)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_transformations_of_torch_are_refused(torch):
    A = torch.tensor(matrix())
    f = bridges.torch(loss)
    with pytest.raises(ie.InputError, match="tensors that hold numbers; got one inside a transf"):
        torch.func.grad(f)(A)
    with (
        torch.autograd.forward_ad.dual_level(),
        pytest.raises(RuntimeError, match="jvp"),
    ):
        f(torch.autograd.forward_ad.make_dual(A.requires_grad_(), A.detach()))


TENSORS = {
    "device": (lambda t: t.ones(2, device="meta"), r"on the CPU; got one on the device meta. Move"),
    "half": (lambda t: t.ones(2).half(), r"single or double precision; got torch.float16. Convert"),
    "brain": (lambda t: t.ones(2).bfloat16(), r"single or double precision; got torch.bfloat16"),
    "CSC": (lambda t: t.eye(2).to_sparse_csc(), r"in COO or CSR layout; got torch.sparse_csc"),
    "BSR": (
        lambda t: t.eye(2).to_sparse_bsr((1, 1)),
        r"in COO or CSR layout; got torch.sparse_bsr",
    ),
    "vector": (lambda t: t.ones(2).to_sparse(), r"sparse matrices; got a sparse tensor of shape"),
    "hybrid": (lambda t: t.ones(2, 2).to_sparse(1), r"shape \(2, 2\) with 1 dense dimensions"),
    "integers": (lambda t: t.eye(2).int().to_sparse(), r"floating-point entries; got int32"),
    "text": (lambda t: "csr", r"`bridges.torch\(fn\)\(...\)`: numbers, arrays and sparse"),
}


@sparse_test
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_do_not_fit(torch, name):
    make, message = TENSORS[name]
    with pytest.raises(ie.InputError, match=message):
        bridges.torch(lambda x: x)(make(torch))


# HIPS autograd


@pytest.mark.parametrize("dtype", [float, complex])
def test_autograd_agrees_with_its_own_eigh(autograd, dtype):
    anp = autograd.numpy
    theirs = lambda A: dense_loss(A, anp.linalg.eigh)
    ours = lambda A: bridges.autograd(loss)(A)
    half = lambda f: lambda A: f((A + anp.conj(A.T)) / 2)
    A = matrix(dtype)
    found, expected = (autograd.grad(half(f))(A) for f in (ours, theirs))
    np.testing.assert_allclose(found, expected, atol=EXACT)


def test_the_gradient_in_a_complex_number_is_that_of_autograd(autograd):
    anp = autograd.numpy
    f = bridges.autograd(lambda z: (jnp.real(z**3) + 2 * jnp.imag(z), z**2))
    g = lambda z: (anp.real(z**3) + 2 * anp.imag(z), z**2)
    of = lambda f: lambda z: f(z)[0] + anp.real((0.3 + 2j) * f(z)[1])
    found, expected = (autograd.grad(of(h))(1.5 - 0.5j) for h in (f, g))
    np.testing.assert_allclose(found, expected, rtol=10 * DOUBLE)
    again = lambda f: autograd.grad(lambda z: anp.imag(z * autograd.grad(of(f))(z)))
    found, expected = (again(h)(1.5 - 0.5j) for h in (f, g))
    np.testing.assert_allclose(found, expected, rtol=10 * DOUBLE)


def test_jacobians(autograd):
    rest = 0.3 * hermitian_direction(float)
    values = bridges.autograd(lambda d: solve(jnp.diag(d) + jnp.asarray(rest)).values)
    X = np.linalg.eigh(np.diag(SPECTRUM) + rest)[1]
    jacobian = autograd.jacobian(values)(np.array(SPECTRUM))
    np.testing.assert_allclose(jacobian, X[:, :K].T ** 2, atol=EXACT)


@pytest.mark.slow
def test_second_derivatives_are_those_of_jax(autograd):
    rest = 0.3 * hermitian_direction(float)

    def parts(d):
        values, squares = pairs(jnp.diag(d) + jnp.asarray(rest))
        return values[0], squares[0, 0]

    product = lambda parts: parts[0] * parts[1]
    ours = bridges.autograd(parts)
    found = autograd.hessian(lambda d: product(ours(d)))(np.array(SPECTRUM))
    expected = jax.hessian(lambda d: product(parts(d)))(jnp.array(SPECTRUM))
    np.testing.assert_allclose(found, expected, atol=EXACT)


def test_derivatives_of_any_order(autograd):
    f = bridges.autograd(lambda x: x**4)
    third = autograd.grad(autograd.grad(autograd.grad(f)))
    np.testing.assert_allclose(third(2.0), 48.0, rtol=10 * DOUBLE)


def test_containers_and_constants(autograd):
    f = bridges.autograd(
        lambda p, M: {"v": solve(p["A"] * p["t"][0] + M.as_matrix()).values, "n": 1}
    )
    value = lambda p: f(p, pattern())["v"][0]
    p = {"A": matrix()[:6, :6], "t": [2.0, np.ones(3)]}
    bar = autograd.grad(value)(p)
    x = np.linalg.eigh(2 * p["A"] + pattern().toarray())[1][:, 0]
    np.testing.assert_allclose(bar["A"], 2 * np.outer(x, x), atol=EXACT)
    np.testing.assert_allclose(bar["t"][0], x @ p["A"] @ x, atol=EXACT)
    assert not bar["t"][1].any()
    separate = autograd.grad(lambda A, t: f({"A": A, "t": (t,)}, pattern())["v"][0], 1)
    np.testing.assert_allclose(separate(p["A"], 2.0), bar["t"][0], rtol=EXACT)
    assert isinstance(value(p), np.float64)  # without a gradient


def test_single_precision_in_autograd(autograd):
    f = bridges.autograd(lambda x: x**2)
    x = np.ones(3, np.float32)
    first = autograd.grad(lambda x: (f(x) * np.ones(3)).sum())
    assert first(x).dtype == np.float32
    np.testing.assert_array_equal(autograd.grad(lambda x: first(x).sum())(x), 2.0)


def test_what_autograd_cannot_do(autograd):
    with pytest.raises(ie.InputError, match=r"to differentiate in; got int64. Convert them, `x.as"):
        autograd.grad(bridges.autograd(lambda x: 1.0 * x.sum()))(np.arange(3))
    with pytest.raises(NotImplementedError, match="JVP of evaluation"):
        autograd.make_jvp(bridges.autograd(jnp.sum))(np.ones(3))(np.ones(3))
    with pytest.raises(ie.InputError, match=r"`bridges.autograd\(fn\)\(...\)`: numbers, arrays"):
        bridges.autograd(jnp.sum)("text")
