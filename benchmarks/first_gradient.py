"""Measure the time to the first gradient of a dense problem, without import, with compilation.

python benchmarks/first_gradient.py
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

import implicit_eig as ie

n, k = 50, 3
jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
G = rng.standard_normal((n, n))
A, S = jnp.asarray(G + G.T), jnp.asarray(rng.standard_normal((n, k)))
jax.block_until_ready(A)


def loss(A):
    values, vectors = ie.eigensolver(np.linalg.eigh, ie.Hermitian(k))(A)
    return jnp.sum(values) + jnp.sum(S * vectors**2)


for name, gradient in (("eager", jax.grad(loss)), ("jit", jax.jit(jax.grad(loss)))):
    start = time.perf_counter()
    jax.block_until_ready(gradient(A))
    first = time.perf_counter() - start
    start = time.perf_counter()
    jax.block_until_ready(gradient(A))
    print(f"{name}: first {first:.2f} s, second {1e3 * (time.perf_counter() - start):.1f} ms")
