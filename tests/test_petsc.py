"""Distributed matrices: derivatives are those of `ie.eigensolver`, and all ranks raise together."""

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

import implicit_eig as ie
from implicit_eig.petsc import _solver
from implicit_eig.solvers._slepc import library

pytestmark = pytest.mark.slow

SETUP = """
    import jax, jax.numpy as jnp, numpy as np, optax, scipy.linalg as sla, warnings
    from mpi4py import MPI
    jax.config.update("jax_enable_x64", True)
    import implicit_eig as ie

    comm = MPI.COMM_WORLD
    m, k, sigma = 12, 3, 0.01
    n, rng = m * m, np.random.default_rng(0)
    grid = np.arange(n).reshape(m, m)
    springs = np.concatenate([
        np.stack([grid[:-1].ravel(), grid[1:].ravel()], 1),
        np.stack([grid[:, :-1].ravel(), grid[:, 1:].ravel()], 1),
    ])
    p_all = 1 + 0.5 * rng.random(len(springs))
    w, g = rng.standard_normal(k), rng.standard_normal(n)
    mine = np.array_split(np.arange(len(springs)), comm.size)[comm.rank]

    def elements(which, skew=0.0, phase=1.0, pencil=True):
        a, b = springs[which].T
        def entries(p):
            turned = p * phase if isinstance(phase, complex) else p
            back = p * np.conj(phase) if isinstance(phase, complex) else p
            K = [p + 0.05, -turned + skew * p, -back - skew * p, p + 0.05]
            M = [0.1 * (1 + p), 0.03 * turned, 0.03 * back, 0.1 * (1 + p)]
            K, M = jnp.concatenate(K), jnp.concatenate(M)
            return (K, M) if pencil else K
        return np.concatenate([a, a, b, b]), np.concatenate([a, b, a, b]), entries

    def assembly(p, which, **options):
        rows, cols, entries = elements(which, **options)
        found = entries(p)
        dense = lambda e: jnp.zeros((n, n), e.dtype).at[rows, cols].add(e)
        return tuple(map(dense, found)) if isinstance(found, tuple) else (dense(found),)

    # the first rank has all parameters, which are the entries
    def of_matrix(A, problem, sigma, **options):
        N = len(A)
        where = np.indices((N, N)).reshape(2, -1) if comm.rank == 0 else np.zeros((2, 0), int)
        solve = ie.petsc.eigensolver(ie.petsc.Entries(lambda a: a, *where, N), problem,
                                     sigma=sigma, replicated=False, **options)
        return solve(A.ravel() if comm.rank == 0 else np.zeros(0))

    def whole(local):
        return np.concatenate(comm.allgather(local))

    def refused(error, text, fn):
        try:
            fn()
        except error as raised:
            assert text in str(raised), raised
        else:
            raise AssertionError(f"nothing was raised: {text}")

    def close(found, expected, tol=1e-9):
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error < tol, error
"""

DERIVATIVES = """
    def compare(problem, core, p_all=p_all, weights=np.ones(k), w=w, tol=1e-9, **options):
        rows, cols, entries = elements(mine, **options)
        solve = ie.petsc.eigensolver(
            ie.petsc.Entries(entries, rows, cols, n), problem, sigma=sigma, replicated=False
        )
        pairs, pullback = solve(p_all[mine])
        own = slice(*pairs.rows)
        vectors_bar = 2 * g[own, None] * weights * pairs.vectors
        found = whole(pullback(w, vectors_bar))

        def loss(p):
            values, X = core(*assembly(p, np.arange(len(springs)), **options))
            order = jnp.argsort(jnp.abs(values - sigma))
            values, X = values[order], X[:, order]
            return jnp.sum(w * values.real) + jnp.sum(g[:, None] * weights * jnp.abs(X) ** 2)

        close(found, jax.grad(loss)(jnp.asarray(p_all)), tol)
        # of the eigenvalues alone, and of the vectors alone
        close(found, whole(pullback(w)) + whole(pullback(None, vectors_bar)))
        return pairs

    eigh = ie.eigensolver(lambda *pencil: sla.eigh(*pencil), ie.Hermitian(k))
    compare(ie.Hermitian(k), eigh)
    compare(ie.Hermitian(k), eigh, phase=np.exp(0.3j))
    compare(ie.Hermitian(k), eigh, pencil=False)
    # a double eigenvalue, of which one Krylov space has one eigenvector; its projector
    equal = np.array([1.0, 0.5, 0.5])
    pairs = compare(ie.Hermitian(k), eigh, np.ones(len(springs)), equal, np.array([1.0, 2.0, 2.0]))
    assert abs(pairs.values[1] - pairs.values[2]) < 1e-12
    nearest = lambda A, B: (lambda lam, X: (lambda o: (lam[o], X[:, o]))(
        np.argsort(abs(lam - sigma))[:k]))(*sla.eig(A, B))
    compare(ie.General(k), ie.eigensolver(nearest, ie.General(k)), skew=0.3)
    compare(ie.General(k), ie.eigensolver(
        lambda A: nearest(A, np.eye(n)), ie.General(k)), skew=0.3, pencil=False)

    # replicated parameters, a contraction of the user's own, and a JAX function
    rows, cols, entries = elements(mine)
    spread = lambda t: entries(t[0] * p_all[mine] + t[1])
    t = np.array([1.0, 0.1])
    rank = ie.petsc.Entries(spread, rows, cols, n)

    def by_hand(t, given):
        X, W, V = given.at(rows), None, None
        (Xr, Wr, Vr), (Xc, _, _) = given.at(rows), given.at(cols)
        dK, dM = jax.jacfwd(spread)(jnp.asarray(t))
        of = lambda Y, d: np.einsum("ei,ei,ej->j", Y.conj(), Xc, d).real
        return of(Wr, np.asarray(dK)) + of(Vr, np.asarray(dM))

    bars = []
    for contract in (None, by_hand):
        solve = ie.petsc.eigensolver(rank, ie.Hermitian(k), sigma=sigma, contract=contract)
        pairs, pullback = solve(t)
        bars.append(pullback(w, 2 * g[slice(*pairs.rows), None] * pairs.vectors))
    close(bars[1], bars[0], 1e-11)

    f = ie.petsc.eigensolver(rank, ie.Hermitian(k), sigma=sigma).as_function()
    here = g[slice(*pairs.rows), None]
    local = lambda t: (lambda v, X: jnp.sum(w * v) + jnp.sum(here * jnp.abs(X) ** 2))(*f(t))
    close(jax.grad(local)(jnp.asarray(t)), bars[0], 1e-11)
    refused(ie.InputError, "outside of `jax.jit`", lambda: jax.jit(f)(jnp.asarray(t)))

    optimiser, u = optax.adam(0.02), jnp.asarray(t)
    misfit = lambda u: (f(u)[0][0] / pairs.values[0] - 1.1) ** 2
    state, losses = optimiser.init(u), []
    for _ in range(12):
        value, gradient = jax.value_and_grad(misfit)(u)
        updates, state = optimiser.update(gradient, state)
        u, losses = optax.apply_updates(u, updates), [*losses, float(value)]
    assert min(losses) < 0.05 * losses[0]
    assert comm.allgather(u.tolist()) == comm.size * [u.tolist()]

    # a double eigenvalue of a matrix that is not normal: the gradient is its projector
    S = np.eye(20) + 0.4 * rng.standard_normal((20, 20))
    A = S @ np.diag(np.r_[1.0, 1.0, np.arange(3, 21)]) @ np.linalg.inv(S)
    found = of_matrix(A, ie.General(2), 0.3)[1](np.ones(2))
    if comm.rank == 0:
        close(found.reshape(20, 20), (S[:, :2] @ np.linalg.inv(S)[:2]).T)

    # a scalar; and groups of ranks of their own
    single = ie.petsc.Entries(lambda t: entries(t * p_all[mine]), rows, cols, n)
    f = ie.petsc.eigensolver(single, ie.Hermitian(k), sigma=sigma).as_function()
    assert jax.grad(lambda t: f(t)[0][0])(jnp.asarray(1.5)).shape == ()
    alone = ie.petsc.Entries(lambda a: a, np.arange(4), np.arange(4), 4, comm=MPI.COMM_SELF)
    values = ie.petsc.eigensolver(alone, ie.Hermitian(1))(np.arange(1.0, 5) + comm.rank)[0].values
    close(values, [1.0 + comm.rank])

    # another preconditioner than the forward solve's factors, and an iterative method
    for options in ({"pc_type": "jacobi", "ksp_max_it": 4000, "ksp_gmres_restart": 200},
                    {"ksp_type": "minres", "pc_type": "jacobi", "ksp_max_it": 4000}):
        solve = ie.petsc.eigensolver(rank, ie.Hermitian(k), sigma=sigma, adjoint=options)
        pairs, pullback = solve(t)
        close(pullback(w, 2 * here * pairs.vectors), bars[0], 1e-8)
"""

REFUSALS = """
    warnings.simplefilter("error")
    rows, cols, entries = elements(mine)
    rank = ie.petsc.Entries(entries, rows, cols, n)
    make = lambda problem=ie.Hermitian(k), **o: ie.petsc.eigensolver(
        rank, problem, sigma=sigma, replicated=False, **o)
    p = p_all[mine]
    pairs, pullback = make()(p)

    refused(ie.GaugeWarning, "the phase of pair", lambda: pullback(None, 1j * pairs.vectors))
    refused(ie.InputError, "vectors_bar", lambda: pullback(None, np.ones((2, 2))))
    refused(ie.LinearSolveError, "adjoint systems", lambda: (lambda s: s[1](
        None, g[slice(*s[0].rows), None] * s[0].vectors))(
        make(adjoint={"pc_type": "jacobi", "ksp_max_it": 2})(p)))
    lost = make(adjoint={"pc_type": "jacobi", "ksp_max_it": 2}, policy=ie.Policy.nan())(p)
    assert np.all(np.isnan(lost[1](None, g[slice(*lost[0].rows), None] * lost[0].vectors)))
    refused(ie.EigensolverError, "converge", lambda: make(
        options={"eps_max_it": 1, "eps_ncv": 5, "eps_tol": 1e-30})(p))
    refused(ie.InputError, "eps_nvc", lambda: make(options={"eps_nvc": 5})(p))
    refused(ie.InputError, "at most n", lambda: make(ie.Hermitian(n + 1))(p))

    # a double eigenvalue: cut by k, or told apart by the loss
    ones = np.ones(len(mine))
    refused(ie.EigensolverError, "beyond the k", lambda: make(ie.Hermitian(2))(ones))
    refused(ie.ClusterWarning, "beyond the k", lambda: make(
        ie.Hermitian(2), policy=ie.Policy(cluster=ie.Action.WARN))(ones))
    pairs, pullback = make()(ones)
    refused(ie.GaugeWarning, "values 1 and 2", lambda: pullback(np.array([0.0, 1.0, 0.0])))
    own = g[slice(*pairs.rows), None] * pairs.vectors * np.array([0.0, 1.0, 0.0])
    refused(ie.GaugeWarning, "pairs 1 and 2", lambda: pullback(None, own))

    # eigenvalues so near that rounding mixes their vectors, and one that is nearly defective
    close_by = np.diag(np.r_[1.0, 1.0 + 1e-12, np.arange(3.0, 20.0)])
    pairs, pullback = of_matrix(close_by, ie.Hermitian(2), 0.3)
    refused(ie.GaugeWarning, "pairs 0 and 1", lambda: pullback(np.array([0.0, 1.0])))
    refused(ie.GaugeWarning, "pairs 0 and 1", lambda: pullback(
        None, g[slice(*pairs.rows), None] * pairs.vectors * np.array([0.0, 1.0])))
    pullback(np.ones(2), g[slice(*pairs.rows), None] * pairs.vectors)
    pairs, pullback = of_matrix(close_by, ie.Hermitian(1), 0.3)
    pullback(np.ones(1))
    refused(ie.GaugeWarning, "beyond the k", lambda: pullback(
        None, g[slice(*pairs.rows), None] * pairs.vectors))
    defective = close_by + 1e-14 * np.eye(19, k=-1)
    defective[:2, :2] = [[1.0, 1.0], [1e-14, 1.0]]
    refused(ie.ExceptionalPointWarning, "condition number", lambda: of_matrix(
        defective, ie.General(2), 0.3))
    refused(ie.ExceptionalPointWarning, "condition number", lambda: of_matrix(
        defective, ie.General(1), 0.3))
    of_matrix(defective, ie.General(2), 0.3, policy=ie.Policy(exceptional=ie.Action.IGNORE))

    # free springs: values that are 0 to rounding, and equal; a free chain; a rigid link
    for first in range(0, 9, 2):
        free = np.diag(5.0 + np.arange(14))
        for place in (first, first + 3):
            free[place : place + 2, place : place + 2] = [[1.0, -1.0], [-1.0, 1.0]]
        pairs, pullback = of_matrix(free, ie.Hermitian(2), -0.5)
        refused(ie.GaugeWarning, "values 0 and 1", lambda: pullback(np.array([0.0, 1.0])))
        pullback(None, g[slice(*pairs.rows), None] * pairs.vectors)
    chain = 200.0**2 * (np.diag(np.r_[1, 2 * np.ones(198), 1]) - np.eye(200, k=1)
                        - np.eye(200, k=-1))
    of_matrix(chain, ie.Hermitian(2), -1e-3)
    for place in range(3, 19, 2):
        link = np.diag(2 + 0.1 * np.arange(30)) - np.eye(30, k=1) - np.eye(30, k=-1)
        ends = np.ix_([place, place + 5], [place, place + 5])
        link[ends] += 1e10 * np.array([[1.0, -1.0], [-1.0, 1.0]])
        of_matrix(link, ie.Hermitian(2), 0.01)

    # an entry that fixes an unknown is no measure of rounding
    fixed = np.diag(np.r_[np.arange(1.0, 20.0), 1e10]) + 0.3 * (np.eye(20, k=1) + np.eye(20, k=-1))
    pairs, pullback = of_matrix(fixed, ie.Hermitian(2), 0.3)
    close(pairs.values, np.linalg.eigvalsh(fixed[:-1, :-1])[:2])
    bar = g[slice(*pairs.rows), None] * pairs.vectors
    found = pullback(None, bar)
    if comm.rank == 0:
        core = ie.eigensolver(np.linalg.eigh, ie.Hermitian(2))
        expected = jax.grad(lambda A: jnp.sum(g[:20, None] * core(A).vectors ** 2) / 2)(fixed)
        found = found.reshape(20, 20)
        close((found + found.T) / 2, (expected + expected.T) / 2, 1e-8)
    poor = {"pc_type": "none", "ksp_max_it": 1}
    refused(ie.LinearSolveError, "adjoint systems", lambda: of_matrix(
        fixed, ie.Hermitian(2), 0.3, adjoint=poor)[1](None, bar))

    # what a monitor sees, which not every rank has to have
    told = []
    solve = make(policy=ie.Policy(monitor=told.append if comm.rank == 0 else None))
    pairs, pullback = solve(p)
    pullback(None, g[slice(*pairs.rows), None] * pairs.vectors)
    report = comm.bcast(told[0] if told else None)
    assert report.solver == "KSP" and np.all(report.steps > 0)
    assert np.all(report.residuals < 1e-10) and np.all(report.errors < 1e-6)
    def broken_monitor(report):
        if comm.rank == comm.size - 1:
            raise ZeroDivisionError("no such file")
    kind = ZeroDivisionError if comm.rank == comm.size - 1 else ie.EigensolverError
    refused(kind, "no such file", lambda: make(policy=ie.Policy(monitor=broken_monitor))(p)[1](w))

    # what is not finite stays so
    lost = make()(p)[1](None, np.full((len(range(*pairs.rows)), k), np.nan))
    assert np.all(np.isnan(lost))
    pairs, pullback = make(ie.Hermitian(2), policy=ie.Policy.nan())(ones)
    assert np.all(np.isnan(pairs.values)) and np.all(np.isnan(pullback(np.ones(2))))

    # matrices that have changed, and options that do nothing or too much
    mats = rank(p)
    pullback = ie.petsc.eigensolver(lambda p: mats, ie.Hermitian(k), contract=rank.contract,
                                    sigma=sigma, replicated=False)(p)[1]
    mats[0].scale(2.0)
    refused(ie.InputError, "unchanged", lambda: pullback(w))
    mode = lambda solve: (lambda s: s[1](None, s[0].vectors))(solve(p))
    for options in ({"pc_tpye": "gamg"}, {"ksp_rtoll": 1}, {"pc_type": "nonsense"}):
        refused(ie.InputError, "adjoint", lambda: mode(make(adjoint=options)))
    refused(ie.InputError, "nearest to `sigma`", lambda: make(
        options={"eps_smallest_real": True, "st_type": "shift"})(p))

    # one rank alone: all raise, none waits
    last = comm.size - 1
    def failing(p):
        if comm.rank == last:
            raise ZeroDivisionError("no such material")
        return entries(p)
    broken = ie.petsc.Entries(failing, rows, cols, n)
    kind = ZeroDivisionError if comm.rank == last else ie.EigensolverError
    refused(kind, "no such material", lambda: ie.petsc.eigensolver(
        broken, ie.Hermitian(k), sigma=sigma, replicated=False)(p))
    def no_form(p, given):
        if comm.rank == last:
            raise ZeroDivisionError("no such form")
        given.at(np.arange(2))
    refused(kind, "no such form", lambda: make(contract=no_form)(p)[1](w))
    refused(ie.InputError, "vector of integers", lambda: make(
        contract=lambda p, given: given.at([n]))(p)[1](w))
    same = ie.petsc.eigensolver(rank, ie.Hermitian(k), sigma=sigma)
    if comm.size > 1:
        refused(ie.InputError, "on every rank", lambda: of_matrix(
            np.ones((1, 1)), ie.General(1), 0.3))
        refused(ie.InputError, "all ranks agree about", lambda: same(np.full(3, comm.rank)))
    refused(ie.InputError, "a value for each place", lambda: make()(p[:-1]))
    refused(ie.InputError, "petsc4py `Mat`", lambda: ie.petsc.eigensolver(
        lambda p: p, ie.Hermitian(k), contract=lambda p, given: p)(np.ones(2)))
    refused(ie.InputError, "integers in [0, 5)", lambda: ie.petsc.Entries(entries, rows, cols, 5))
    refused(ie.InputError, "`Hermitian(k)` or", lambda: make(ie.Singular(2)))
"""


def needed():
    """Skip where PETSc or MPI is not installed; return the command that starts ranks."""
    pytest.importorskip("mpi4py", reason="needs petsc4py")
    try:
        if not library().is_complex:
            pytest.skip("needs petsc4py with complex numbers")
    except Exception as error:
        pytest.skip(f"needs petsc4py: {error}")
    launcher = shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or shutil.which(
        "mpiexec"
    )
    if launcher is None:
        pytest.skip("needs petsc4py with mpiexec")
    return launcher


@pytest.mark.parametrize("code", [DERIVATIVES, REFUSALS], ids=["derivatives", "refusals"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_petsc_on_ranks(ranks, code):
    script = textwrap.dedent(SETUP) + textwrap.dedent(code) + '\nprint("DONE", flush=True)\n'
    done = subprocess.run(
        [needed(), "-n", str(ranks), sys.executable, "-m", "mpi4py", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert done.stdout.count("DONE") == ranks


def test_petsc_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "slepc4py", None)
    with pytest.raises(ie.InputError, match=r"`petsc\.eigensolver\(\.\.\.\)`: the packages"):
        ie.petsc.eigensolver(lambda p: p, ie.Hermitian(1))


def test_a_build_for_real_numbers_is_refused_where_complex_ones_are_needed(monkeypatch):
    class Real:
        is_complex = False

    monkeypatch.setattr(_solver, "library", lambda caller: Real)
    for problem, sigma in ((ie.General(1), 0.0), (ie.Hermitian(1), 1j)):
        with pytest.raises(ie.InputError, match="PETSc with complex numbers"):
            ie.petsc.eigensolver(abs, problem, contract=max, sigma=sigma)
