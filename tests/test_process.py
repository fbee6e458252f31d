"""Interrupts and forks, in processes of their own: none is lost, and nothing hangs."""

import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.core,
    pytest.mark.skipif(sys.platform == "win32", reason="signals and forks are those of Unix"),
]

# far above what they take: a program that hangs never ends
LIMIT = 120

START = """
import multiprocessing
import os
import signal
import threading
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np

import implicit_eig as ie

A = np.diag(np.arange(1.0, 5.0, dtype=np.float32))


def eigh(A):
    return np.linalg.eigh(A)


def largest(solver):
    solve = ie.eigensolver(solver, ie.Hermitian(4))
    return lambda A: solve(A).values[-1]
"""


def run(tmp_path, code):
    script = tmp_path / "script.py"
    script.write_text(START + code)
    done = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"XLA_FLAGS": ""},
        timeout=LIMIT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


INTERRUPTED = """
def sleeps(A):
    if asleep:
        begun.append(time.time())  # what precedes it may have to be compiled
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        time.sleep(10)
    return np.linalg.eigh(A)


def is_interrupted(f):
    try:
        try:
            f(A).block_until_ready()
        except Exception as error:  # JAX's own, which the interrupt follows
            assert "KeyboardInterrupt" in str(error)
            time.sleep(5)
            return False
    except KeyboardInterrupt:
        return time.time() - begun[-1] < 5
    return False


eager, asleep, begun = largest(sleeps), True, []
jitted, untried = jax.jit(jax.grad(eager)), jax.jit(eager)
assert is_interrupted(eager)
assert is_interrupted(untried)
asleep = False
assert jitted(A)[3, 3] == 1
asleep = True
assert is_interrupted(jitted)
asleep = False
assert jitted(A)[3, 3] == 1  # as before
"""


def test_ctrl_c_in_host_code_is_an_interrupt_for_the_caller(tmp_path):
    run(tmp_path, INTERRUPTED)


FORKED = """
def in_a_fork(code):
    warnings.simplefilter("ignore")  # JAX's own, of any fork
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    signal.alarm(60)  # ends it if it hangs
    status = 1
    try:
        status = code()
    finally:
        os._exit(status)


def solves():
    return int(largest(eigh)(A) != 4)


def is_refused():
    root = ie.implicit_function(np.sqrt, lambda z, a: z**2 - a)
    refused = 0
    for code in (jax.grad(largest(eigh)), jax.jit(largest(eigh)), lambda A: root(A + 1)):
        try:
            code(A)
        except ie.ImplicitEigError as error:
            refused += 'multiprocessing.get_context("spawn")' in str(error)
    return 3 - refused


if __name__ == "__main__":
    assert in_a_fork(solves) == 0  # nothing has run yet
    assert largest(eigh)(A) == 4
    assert in_a_fork(is_refused) == 0
    assert in_a_fork(lambda: 0) == 0
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(solves) == 0
"""


def test_a_forked_process_is_refused_and_a_spawned_one_solves(tmp_path):
    run(tmp_path, FORKED)
