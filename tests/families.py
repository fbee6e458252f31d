"""Matrices A(p) that host code assembles, with their derivatives, and the same as JAX code."""

import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from problems import EPS, random_definite, random_hermitian

import implicit_eig as ie

DTYPES = [np.float64, np.float32, np.complex128]
P = 5


class Family:
    """A(p) = Σ p_q² C_q + C_0, with counted host functions and as JAX code."""

    def __init__(self, C, sparse=True):
        self.C, self.sparse = np.asarray(C), sparse
        self.shape, self.dtype = self.C.shape[1:], self.C.dtype
        self.calls = {"assemble": 0, "contract": 0, "product": 0, "adjoint_product": 0}

    def assemble(self, p):
        self.calls["assemble"] += 1
        A = np.tensordot(p**2, self.C[1:], 1) + self.C[0]
        return sp.csc_matrix(A) if self.sparse else A

    def contract(self, p, y, x):
        self.calls["contract"] += 1
        assert y.ndim == x.ndim == 1
        return 2 * p * (y.conj() @ self.C[1:] @ x)

    def product(self, p, p_dot, x):
        self.calls["product"] += 1
        return np.tensordot(2 * p * p_dot, self.C[1:], 1) @ x

    def adjoint_product(self, p, p_dot, y):
        self.calls["adjoint_product"] += 1
        return np.tensordot(2 * p * p_dot, self.C[1:], 1).conj().T @ y

    def __call__(self, p, without=()):
        names = {"contract", "product", "adjoint_product"} - set(without)
        functions = {name: getattr(self, name) for name in names}
        return ie.host_operator(self.assemble, p, **functions, shape=self.shape, dtype=self.dtype)

    def as_array(self, p):
        p = p.astype(self.dtype)
        return jnp.tensordot(p**2, jnp.asarray(self.C[1:]), 1) + jnp.asarray(self.C[0])


def hermitian(n, dtype, sparse=True, definite=False):
    make = random_definite if definite else random_hermitian
    return Family([make(n, dtype, seed) for seed in range(P + 1)], sparse)


def rectangular(m, n, dtype, sparse=True, seed=0):
    rng = np.random.default_rng(seed)
    C = rng.standard_normal((P + 1, m, n))
    if np.issubdtype(dtype, np.complexfloating):
        C = C + 1j * rng.standard_normal(C.shape)
    return Family((C / np.sqrt(n)).astype(dtype), sparse)


def parameters(dtype, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(0.5 + rng.random(P), np.finfo(dtype).dtype)


def tolerance(dtype, expected, rtol=1e5):
    """Rounding, by a condition number of the vectors and the linear solver's tolerance."""
    eps = EPS[np.dtype(dtype)]
    return rtol * eps * float(jnp.max(jnp.abs(expected)))
