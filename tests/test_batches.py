"""Batches of matrices: a host solver of stacks is called once, and each member is judged alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse as sp

import implicit_eig as ie
from implicit_eig._compiled import if_any

N, K, SIZE = 6, 2, 5


def stack(dtype, rng_seed=3):
    rng = np.random.default_rng(rng_seed)
    A = rng.standard_normal((SIZE, N, N)) + 1j * rng.standard_normal((SIZE, N, N))
    A = A + A.conj().swapaxes(1, 2)
    return jnp.asarray(A if np.iscomplexobj(np.zeros(0, dtype)) else A.real, dtype)


class Counted:
    """`numpy.linalg.eigh`, or SciPy's of a pencil, member by member, that keeps the shapes."""

    def __init__(self):
        self.shapes = []

    def __call__(self, A, B=None):
        self.shapes.append(A.shape)
        if B is None:
            return np.linalg.eigh(A)
        pairs = [sla.eigh(a, b) for a, b in zip(A, B, strict=True)]
        return tuple(map(np.stack, zip(*pairs, strict=True)))


def loss(solution):
    return jnp.sum(solution.values**2) + jnp.sum(jnp.abs(solution.vectors[0]) ** 4)


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_a_host_solver_of_stacks_is_called_once(dtype):
    A, counted = stack(dtype), Counted()
    solve = ie.eigensolver(counted, ie.Hermitian(K), batched=True)
    reference = ie.eigensolver(ie.traceable(jnp.linalg.eigh), ie.Hermitian(K))
    of = lambda solve: jax.jit(jax.vmap(jax.value_and_grad(lambda A: loss(solve(A)))))
    found, expected = of(solve)(A), of(reference)(A)
    assert counted.shapes == [A.shape]
    eps = jnp.finfo(dtype).eps
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=500 * eps * np.abs(theirs).max())


def test_nested_batches_and_one_operator_for_all():
    A, counted = stack(np.float64), Counted()
    solve = ie.eigensolver(counted, ie.Hermitian(K), batched=True)
    pairs = jnp.stack([A, A + jnp.eye(N)[None]])
    values = jax.vmap(jax.vmap(lambda A: solve(A).values))(pairs)
    assert counted.shapes == [pairs.shape]
    np.testing.assert_allclose(values, np.linalg.eigvalsh(pairs)[..., :K], rtol=1e-12)

    B = jnp.diag(jnp.arange(1.0, N + 1))
    values = jax.vmap(lambda A, B: solve(A, B).values, (0, None))(A, B)
    assert counted.shapes[1:] == [A.shape]
    expected = [sla.eigh(a, B, eigvals_only=True)[:K] for a in A]
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    # no batch: the solver sees matrices
    solve(A[0])
    assert counted.shapes[2:] == [A.shape[1:]]


def test_left_vectors_and_other_problems_of_stacks():
    A = jnp.asarray(np.random.default_rng(0).standard_normal((SIZE, N, N)))

    def svd(A):
        U, s, Vh = np.linalg.svd(A)
        return s, Vh.swapaxes(-1, -2), U

    solve = ie.eigensolver(svd, ie.Singular(K), batched=True)
    gradients = jax.vmap(jax.grad(lambda A: jnp.sum(solve(A).values)))(A)
    U, _, Vh = np.linalg.svd(A)
    np.testing.assert_allclose(gradients, U[:, :, :K] @ Vh[:, :K], atol=1e-12)


@pytest.mark.parametrize("batched", [False, True])
def test_a_bad_member_is_nan_alone(batched):
    A = stack(np.float64).at[2, 0, 0].set(jnp.nan)
    solve = ie.eigensolver(np.linalg.eigh, ie.Hermitian(K), policy=ie.Policy.nan(), batched=batched)
    both = jax.jit(jax.vmap(jax.value_and_grad(lambda A: loss(solve(A)))))(A)
    for part in both:
        bad = ~np.isfinite(np.asarray(part)).reshape(SIZE, -1).all(axis=1)
        assert bad.tolist() == [False, False, True, False, False]
    still = ie.eigensolver(np.linalg.eigh, ie.Hermitian(K), batched=batched)
    with pytest.raises(Exception, match=r"member 2 of the batch|did not converge"):
        jax.vmap(lambda A: still(A).values)(A)


def test_refusals():
    A = stack(np.float64)
    with pytest.raises(ie.InputError, match=r"`eigensolver\(batched=True\)`: a host solver"):
        ie.eigensolver(ie.traceable(jnp.linalg.eigh), ie.Hermitian(K), batched=True)(A[0])
    with pytest.raises(ie.InputError, match=r"of dense arrays, .* got PackedOperator"):
        ie.eigensolver(np.linalg.eigh, ie.Hermitian(K), batched=True)(sp.csr_array(A[0]))
    solve = ie.eigensolver(lambda A: np.linalg.eigh(A[0]), ie.Hermitian(K), batched=True)
    with pytest.raises(jax.errors.JaxRuntimeError, match="leading axes of its argument, \\(5,\\)"):
        jax.vmap(lambda A: solve(A).values)(A)


def test_work_that_no_member_of_a_batch_wants_is_not_done():
    done = []

    def work(x):
        like = jax.ShapeDtypeStruct((), x.dtype)
        twice = lambda x: (done.append(1), 2 * x)[1]
        return jax.pure_callback(twice, like, x, vmap_method="sequential")

    def chosen(wanted, x):
        return if_any(wanted, work, lambda x: -x, x)

    x = jnp.arange(6.0).reshape(2, 3)
    each = jax.jit(jax.vmap(jax.vmap(chosen)))
    for of_batch, value in ((chosen, x[0, 1]), (jax.vmap(chosen), x[0]), (each, x)):
        assert jnp.array_equal(of_batch(jnp.zeros(value.shape, bool), value), -value)
    assert not done
    one = jnp.zeros((2, 3), bool).at[1, 2].set(True)
    found = each(one, x)
    assert jnp.array_equal(found, jnp.where(one, 2 * x, -x))
    assert done
    # a batch of which only the operands are mapped
    found = jax.vmap(chosen, (None, 0))(jnp.asarray(True), x[0])
    assert jnp.array_equal(found, 2 * x[0])
