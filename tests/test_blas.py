"""BLAS has one thread beside sparse solves, and its own number before and after."""

import threading

import jax
import jax.numpy as jnp
import pytest
import scipy.linalg  # noqa: F401
from problems import grid_pencil
from threadpoolctl import ThreadpoolController

import implicit_eig as ie
from implicit_eig.host.blas import blas_beside_solves

FEW = 2


@pytest.fixture(autouse=True)
def blas():
    """The numbers of threads, which are more than one, as a function."""
    controller = ThreadpoolController()
    counts = lambda: {library["num_threads"] for library in controller.info()}
    with controller.limit(limits=FEW, user_api="blas"):
        if counts() != {FEW}:
            pytest.skip("this BLAS has one thread")
    # outside of the context, because a thread that sets the number keeps others from it
    before = counts()
    yield counts
    assert counts() == before


def test_threads_that_overlap(blas):
    """Whichever ends first, the number is restored."""
    before, barrier, leave = blas(), threading.Barrier(2), threading.Event()

    def other():
        with blas_beside_solves():
            barrier.wait(10)
            leave.wait(10)

    for first in (True, False):
        leave.clear()
        thread = threading.Thread(target=other)
        with blas_beside_solves():
            assert blas() == {1}
            thread.start()
            barrier.wait(10)
            if first:
                leave.set()
                thread.join()
        leave.set()
        thread.join()
        assert blas() == before


def test_after_an_error(blas):
    before = blas()
    with pytest.raises(RuntimeError), blas_beside_solves():
        raise RuntimeError
    assert blas() == before


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "eager"])
@pytest.mark.parametrize(
    ("make", "problem"),
    [(ie.solvers.arpack, ie.Hermitian(3)), (ie.solvers.arpack_general, ie.General(3))],
    ids=["arpack", "arpack_general"],
)
def test_during_solves(make, problem, compiled, blas):
    """In the forward solve and in those of the derivatives, on whichever thread they run."""
    (pencil, p), seen = grid_pencil(5), []

    def factorize(M):
        factors = ie.factorize(M)

        def solve(b):
            seen.append(blas())
            return factors(b)

        return solve

    solve = ie.eigensolver(make(3, 0.05, factorize=factorize), problem)
    gradient = jax.grad(lambda p: jnp.sum(jnp.abs(solve(*pencil(p)).vectors[:9]) ** 4))
    (jax.jit(gradient) if compiled else gradient)(p).block_until_ready()
    assert len(seen) > 3
    assert all(counts == {1} for counts in seen)
