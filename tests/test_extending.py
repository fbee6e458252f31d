"""The page "Extending" runs, by public names alone, and what it adds has the same derivatives."""

import functools
import re

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from pages import ROOT, sections

import implicit_eig as ie

SECTIONS = sections(ROOT / "docs" / "extending.md")


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@functools.cache
def run(section):
    found = {}
    exec(compile(SECTIONS[section], "docs/extending.md", "exec"), found)
    return found


def test_the_page_has_four_sections_that_run():
    assert len(SECTIONS) == 4
    for section in SECTIONS:
        run(section)


def test_by_public_names_alone():
    for code in SECTIONS.values():
        assert not re.search(r"implicit_eig\.\w*\._|\bie\._|\._[a-z]", code)
        imported = set(re.findall(r"from (implicit_eig[\w.]*) import", code))
        assert imported <= {"implicit_eig.extending"}


class TestAProblem:
    """Complex symmetric eigenpairs, against those of a general matrix: the same up to scaling."""

    A = np.random.default_rng(3).standard_normal((4, 4)) + 1j * np.diag([1.0, -2.0, 3.0, 0.5])
    A = jnp.asarray(A + A.T)
    E = jnp.asarray(np.random.default_rng(4).standard_normal((2, 4, 4)))

    def losses(self, **options):
        found = run("A kind of problem")
        kind, smallest = found["ComplexSymmetric"], found["smallest"]
        ours = ie.eigensolver(smallest, kind(2), **options)
        other = ie.eigensolver(lambda A: smallest(A)[:2], ie.General(2))

        def loss(solve):
            def of(t):
                A = self.A + jnp.tensordot(t, self.E + jnp.swapaxes(self.E, 1, 2), 1)
                lam, X = solve(A)
                x = X[:, 0] / jnp.sqrt(jnp.sum(X[:, 0] ** 2))  # xᵀx = 1
                return jnp.sum(lam.real) + jnp.sum(jnp.abs(x) ** 4) + jnp.abs(lam[1]) ** 2

            return of

        return loss(ours), loss(other)

    @pytest.mark.slow
    @pytest.mark.parametrize("derivative", [jax.grad, jax.jacfwd, jax.hessian])
    def test_derivatives(self, derivative):
        found, expected = (jax.jit(derivative(f))(jnp.zeros(2)) for f in self.losses())
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)

    def test_by_an_iterative_solver(self):
        loss, expected = self.losses(linear_solver=lx.GMRES(1e-12, 1e-12, restart=40))
        found, expected = (jax.grad(f)(jnp.zeros(2)) for f in (loss, expected))
        np.testing.assert_allclose(found, expected, rtol=1e-8)

    def test_wrong_pairs_are_refused(self):
        kind = run("A kind of problem")["ComplexSymmetric"]
        solve = ie.eigensolver(lambda A: tuple(map(np.real, np.linalg.eig(A))), kind(4))
        with pytest.raises(ie.EigensolverError, match=r"ComplexSymmetric\(\.\.\.\)\)`: a solution"):
            solve(self.A)

    def test_a_form_that_it_does_not_have_is_refused(self):
        loss, _ = self.losses(system=ie.Deflated())
        message = r"ComplexSymmetric\(...\), system=Deflated\(\)\)`: the Jacobian"
        with pytest.raises(ie.InputError, match=message):
            jax.grad(loss)(jnp.zeros(2))

    def test_a_missing_condition_is_named(self):
        found = run("A kind of problem")

        class Unnormalised(found["ComplexSymmetric"]):
            def conditions(self, state, A):
                return found["ComplexSymmetric"].conditions(self, state, A)[:1]

        solve = ie.eigensolver(found["smallest"], Unnormalised(2))
        with pytest.raises(ie.InputError, match=r"got 16 conditions for 20 unknowns"):
            jax.grad(lambda A: solve(A).values[0].real)(self.A)


class TestALinearSolver:
    def test_it_is_a_lineax_solver_too(self):
        solver = run("A linear solver that takes all systems at once")["BatchedLU"]()
        M = lx.MatrixLinearOperator(jnp.array([[2.0, 1.0], [0.0, 4.0]]))
        x = lx.linear_solve(M, jnp.array([4.0, 8.0]), solver).value
        np.testing.assert_allclose(x, [1.0, 2.0], rtol=1e-14)

    def test_its_failure_is_seen(self):
        base = run("A linear solver that takes all systems at once")["BatchedLU"]

        class Wrong(base):
            def solve_systems(self, systems, b):
                U, outcome = base.solve_systems(self, systems, b)
                return 0.9 * U, outcome

        A = jnp.diag(jnp.arange(1.0, 7.0)) + 0.1
        solve = ie.eigensolver(np.linalg.eigh, ie.Hermitian(2), linear_solver=Wrong())
        with pytest.raises(RuntimeError, match=r"`linear_solver=Wrong`: .* got 1\.0e-01"):
            jax.grad(lambda A: jnp.sum(solve(A).vectors[0] ** 4))(A)


def test_a_check_warns_and_names_the_member_of_a_batch():
    found = run("A check with its policy")
    batch = jnp.stack([jnp.diag(jnp.array([1.0, 2.0, 3.0])), found["close"]])
    warned = jax.vmap(lambda A: found["checked"](A, ie.Action.WARN).values)
    with pytest.warns(found["GapWarning"], match=r"1 and 2 are too close This is member 1"):
        jax.block_until_ready(warned(batch))
