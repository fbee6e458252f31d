"""Pairs beyond k: a cluster that k cuts is seen, whatever the problem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg as sla
import scipy.sparse.linalg as spla
from problems import eigh, grid_pencil, jitted, with_spectrum
from test_pairs import eig_left, polyeig

import implicit_eig as ie

A = with_spectrum([1.0, 2.0, 2.0, 5.0, 7.0])


def svd(A):
    U, sigma, Vh = sla.svd(A, full_matrices=False)
    return sigma, Vh.conj().T, U


def quadratic():
    eye = jnp.eye(5)
    return A, -4 * eye, eye


# k = 2 cuts the doublet, counted in the solver's order
CASES = {
    "Hermitian": (eigh, ie.Hermitian, (A,), 2, 3),
    "General": (eig_left, ie.General, (A,), 3, 4),
    "Singular": (svd, ie.Singular, (A,), 3, 4),
    "Polynomial": (polyeig, ie.Polynomial, quadratic(), 2, 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_cut_cluster(name):
    solver, problem, operators, cut, whole = CASES[name]
    with pytest.raises(ie.EigensolverError, match=r"guard=1\)\)`: a k between clusters; got one"):
        ie.eigensolver(solver, problem(cut, guard=1))(*operators)
    warn = ie.Policy(cluster=ie.Action.WARN)
    with pytest.warns(ie.ClusterWarning, match="takes 1 of at least 2 pairs"):
        solution = ie.eigensolver(solver, problem(cut, guard=1), policy=warn)(*operators)
    assert solution.values.shape == (cut,)
    guarded = ie.eigensolver(solver, problem(whole, guard=1))(*operators)
    plain = ie.eigensolver(solver, problem(whole))(*operators)
    assert guarded.stats.keys() == plain.stats.keys()
    for one, other in zip(jax.tree.leaves(guarded), jax.tree.leaves(plain), strict=True):
        assert one.shape == other.shape
        assert jnp.max(jnp.abs(one.astype(complex) - other.astype(complex))) < 1e-12


def test_derivatives_are_those_without_guard():
    # of projectors, which no solver's choice of a basis changes
    M = with_spectrum(np.arange(5.0), seed=4)

    def loss(solve, A):
        X = solve(A).vectors
        return jnp.sum(X * (M @ X))

    gradients = jitted(
        *(
            jax.grad(lambda A, p=problem: loss(ie.eigensolver(eigh, p), A))
            for problem in (ie.Hermitian(3), ie.Hermitian(3, guard=2))
        )
    )(A)
    assert jnp.max(jnp.abs(gradients[0] - gradients[1])) < 1e-13


@pytest.mark.slow
@pytest.mark.parametrize(("generalised", "error"), [(False, 0.0), (True, 1e-5)])
def test_a_guard_spares_steps_and_changes_no_derivative(generalised, error):
    """Of both orders, by products alone: what lies along the guard pairs is known, or nearly."""
    m, products = 12, [0]
    pencil, p = grid_pencil(m)
    M = with_spectrum(np.arange(float(m * m)), seed=4)
    noise = error * np.random.default_rng(0).standard_normal((m * m, 6))

    def solver(A, B=None):
        values, X = eigh(A, B)
        X[:, 1:7] += noise * np.linalg.norm(X[:, 1])
        return values, X

    def minres(A, b):
        def counted(v):
            products[0] += 1
            return A @ v

        return spla.minres(spla.LinearOperator(A.shape, counted, dtype=b.dtype), b, rtol=1e-12)[0]

    def derivatives(guard):
        solve = ie.eigensolver(
            solver,
            ie.Hermitian(1, guard=guard),
            linear_solver=ie.host_linear_solver(minres),
            policy=ie.Policy(residual_rtol=1e-2),
        )

        def loss(p):
            x = solve(*pencil(p)[: 1 + generalised]).vectors[:, 0]
            return x @ M @ x

        products[0] = 0
        first = jax.block_until_ready(jax.jit(jax.grad(loss))(p))
        used = products[0]
        return first, jax.jit(lambda p: jax.jvp(jax.grad(loss), (p,), (p,))[1])(p), used

    plain, guarded = derivatives(0), derivatives(6)
    for one, other in zip(plain[:2], guarded[:2], strict=True):
        assert jnp.max(jnp.abs(one - other)) < 1e-8 * jnp.max(jnp.abs(one))
    # what is not exact costs a second solve
    assert guarded[2] < (0.8 if error == 0 else 2) * plain[2]


def test_the_advice_is_a_k_that_is_known_to_be_none_inside():
    A = jnp.diag(jnp.array([1.0, 2.0, 2.0, 3.0]))
    for k, guard, advice in (
        (2, 2, "ask for k = 1 or k = 3, or accept"),
        (2, 1, "ask for k = 1 or more pairs and a larger `guard`, or accept"),
    ):
        with pytest.raises(ie.EigensolverError, match=advice):
            ie.eigensolver(eigh, ie.Hermitian(k, guard=guard))(A)
    # a chain is one cluster
    loose, chain = ie.Policy(degeneracy_rtol=0.1), jnp.diag(jnp.array([1.0, 1.09, 1.18, 2.0]))
    with pytest.raises(ie.EigensolverError, match="ask for k = 3, or accept"):
        ie.eigensolver(eigh, ie.Hermitian(1, guard=3), policy=loose)(chain)
    with pytest.raises(ie.EigensolverError, match="ask for more pairs and a larger `guard`, or ac"):
        ie.eigensolver(eigh, ie.Hermitian(1, guard=1))(jnp.eye(3))


def test_a_member_of_a_batch_that_is_cut_is_nan_alone():
    solve = ie.eigensolver(eigh, ie.Hermitian(2, guard=1), policy=ie.Policy(cluster=ie.Action.NAN))
    batch = jnp.stack([jnp.diag(jnp.array([1.0, 2.0, c, 3.0])) for c in (2.0, 2.5)])
    loss = lambda A: jnp.sum(jnp.arange(4.0)[:, None] * solve(A).vectors ** 2)
    gradients, alone = jitted(jax.vmap(jax.grad(loss)), lambda batch: jax.grad(loss)(batch[1]))(
        batch
    )
    assert jnp.all(jnp.isnan(gradients[0]))
    assert jnp.max(jnp.abs(gradients[1] - alone)) < 1e-12


def test_refusals():
    with pytest.raises(
        ie.InputError, match=r"`Hermitian\(guard=...\)`: a number of pairs, 0 or more"
    ):
        ie.Hermitian(2, guard=-1)
    with pytest.raises(ie.InputError, match="at most n pairs"):
        ie.eigensolver(eigh, ie.Hermitian(4, guard=2))(A)


class TestUnasked:
    """What the solver returns beyond k is looked at, too."""

    @pytest.mark.slow
    @pytest.mark.parametrize("name", CASES)
    @pytest.mark.parametrize("dtype", [np.float64, np.complex64])
    def test_a_cut_cluster(self, name, dtype):
        solver, problem, operators, cut, whole = CASES[name]
        operators = tuple(M.astype(dtype) for M in operators)
        solve = ie.eigensolver(solver, problem(cut))
        message = rf"k={cut}.*got the value \S+ of pair {cut - 1} again .* for k = {cut - 1}"
        if name == "Polynomial" and dtype == np.complex64:
            pytest.skip("its values are too far apart in single precision")
        with pytest.raises(ie.EigensolverError, match=message):
            solve(*operators)
        # under transforms, and no error where k = whole
        nan = ie.Policy(cluster=ie.Action.NAN)
        batch = tuple(M[None] for M in operators)

        def gradient(k):
            values = ie.eigensolver(solver, problem(k), policy=nan).values
            return jax.vmap(jax.grad(lambda *P: jnp.sum(values(*P)).real))

        of_cut, of_whole = jitted(gradient(cut), gradient(whole))(*batch)
        assert jnp.all(jnp.isnan(of_cut))
        assert not jnp.all(jnp.isnan(of_whole))

    def test_of_a_traced_solver_that_does_not_sort(self):
        shuffled = ie.traceable(
            lambda A: tuple(part[..., jnp.array([4, 1, 0, 2, 3])] for part in jnp.linalg.eigh(A))
        )
        for k, cut in ((1, False), (2, True), (3, True), (4, False)):
            solve = jax.jit(ie.eigensolver(shuffled, ie.Hermitian(k)))
            if cut:
                with pytest.raises(Exception, match="again among those"):
                    jax.block_until_ready(solve(A))
            else:
                assert jnp.all(jnp.isfinite(solve(A).values))

    def test_a_conjugate_pair_is_two_values(self):
        rotation = jnp.asarray([[1.0, -1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 9.0]])
        solve = ie.eigensolver(lambda A: tuple(sla.eig(A)), ie.General(1))
        gradient = jax.jit(jax.grad(lambda A: solve(A).values[0].real))(rotation)
        assert jnp.max(jnp.abs(gradient - jnp.diag(jnp.asarray([0.5, 0.5, 0.0])))) < 1e-14

    def test_infinite_values_beyond_are_none(self):
        """Of a pencil with singular B; in reverse mode NaN would stay."""
        A, B = jnp.diag(jnp.asarray([1.0, 3.0, 1.0, 1.0])), jnp.diag(jnp.asarray([1.0, 1.0, 0, 0]))

        def solver(A, B):
            values, X = np.array([1.0, 3.0, np.inf, np.nan]), np.eye(4)
            return values, X

        solve = ie.eigensolver(solver, ie.General(2))
        assert solve(A, B).values.real.tolist() == [1.0, 3.0]

    def test_pairs_beyond_the_guard_concern_it_alone(self):
        solve = ie.eigensolver(eigh, ie.Hermitian(1, guard=1))
        assert solve(A).values.shape == (1,)  # the guard is in the doublet, k is not
        far = jnp.diag(jnp.asarray([3.0, 1.0, 2.0, 3.0]))
        unsorted = lambda A: (np.diag(A), np.eye(4))
        with pytest.raises(ie.EigensolverError, match="ask for a larger k, or accept"):
            ie.eigensolver(unsorted, ie.Hermitian(1, guard=2))(far)
