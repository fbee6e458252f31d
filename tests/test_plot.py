"""Pictures of branches, spectra, sensitivities and linear solves."""

import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ie
from implicit_eig.plot._branches import crossings

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")


def followed(parameters=(0.0, 0.3, 0.9)):
    values = jnp.array([[0.0, 1.0, 2.0], [0.3, 0.7, 2.0], [0.9, 0.1, 2.0]])
    order = jnp.array([[0, 1, 2], [0, 1, 2], [1, 0, 2]])
    overlap = jnp.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.2], [1.0, 1.0, 1.0]])
    return ie.Followed(parameters, values, order, overlap)


def test_branches_crossings_and_lost_modes():
    ax = ie.plot.branches(followed())
    assert [line.get_ydata().tolist() for line in ax.lines] == followed().values.T.tolist()
    crossing, lost = (points.get_offsets() for points in ax.collections)
    # the lines 0.3 + s and 0.7 − s, s from 0.3 to 0.9 in the parameter, meet at 0.5
    np.testing.assert_allclose(crossing, [[0.5, 0.5]], atol=1e-12)
    np.testing.assert_allclose(lost, [[0.3, 2.0]])
    plt.close("all")


def test_on_given_axes_with_parameters_that_are_no_numbers():
    figure, ax = plt.subplots()
    assert ie.plot.branches(followed([{"a": 1}] * 3), ax) is ax
    assert ax.lines[0].get_xdata().tolist() == [0, 1, 2]
    plt.close(figure)


def test_branches_that_touch_cross_where_they_touch():
    order = np.array([[0, 1], [1, 0]])
    values = np.array([[1.0, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(crossings(np.array([0.0, 2.0]), values, order), [[1.0, 1.0]])


@pytest.fixture
def drawn():
    """Axes whose figure can be laid out and drawn without a warning."""
    figure, ax = plt.subplots(layout="constrained")
    yield ax
    figure.canvas.draw()
    plt.close(figure)


def legend(ax):
    return [] if ax.get_legend() is None else [t.get_text() for t in ax.get_legend().get_texts()]


def diagnosis(solver, problem, A, **figures):
    found = ie.diagnose(ie.eigensolver(solver, problem), jnp.asarray(A))
    for name, figure in figures.items():
        found = eqx.tree_at(lambda d, name=name: vars(d)[name], found, np.array(figure))
    return found


class TestSpectrum:
    REPEATED = np.diag([1.0, 2.0, 2.0, 5.0])

    def test_real_eigenvalues_stand_against_their_index(self, drawn):
        solution = ie.eigensolver(np.linalg.eigh, ie.Hermitian(3))(jnp.asarray(self.REPEATED))
        assert ie.plot.spectrum(solution, drawn) is drawn
        points = drawn.collections[0].get_offsets()
        np.testing.assert_allclose(points, [[0, 1], [1, 2], [2, 2]])
        assert (drawn.get_xlabel(), drawn.get_ylabel()) == ("index", "eigenvalue")
        (ring,) = drawn.lines
        np.testing.assert_allclose(ring.get_xydata(), [[1, 2], [2, 2]])
        assert [text.get_text() for text in drawn.texts] == ["1, 2"]
        assert drawn.get_title() == ""

    def test_condition_numbers_are_colours(self, drawn):
        A = np.array([[1.0, 100.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
        found = diagnosis(np.linalg.eig, ie.General(3), A)
        ie.plot.spectrum(found, drawn)
        colours = drawn.collections[0]
        np.testing.assert_allclose(colours.get_array(), found.condition_numbers)
        assert colours.get_clim()[0] == 1
        assert drawn.get_xlabel() == "index"
        bar = drawn.figure.axes[1]
        assert bar.get_ylabel() == "condition number"
        assert drawn.get_title().startswith("largest residual: ")

    def test_hermitian_problems_need_no_colours(self, drawn):
        ie.plot.spectrum(diagnosis(np.linalg.eigh, ie.Hermitian(3), self.REPEATED), drawn)
        assert len(drawn.figure.axes) == 1

    def test_complex_eigenvalues_are_in_the_plane(self, drawn):
        rotation = np.kron(np.eye(2), [[2.0, 3.0], [-3.0, 2.0]])
        found = diagnosis(np.linalg.eig, ie.General(4), rotation)
        ie.plot.spectrum(found, drawn)
        assert drawn.get_ylabel() == "imaginary part"
        points = np.asarray(drawn.collections[0].get_offsets())
        np.testing.assert_allclose(points[:, 0], 2)
        assert sorted(points[:, 1].round(9)) == [-3, -3, 3, 3]
        assert sorted(text.get_text() for text in drawn.texts) == ["0, 2", "1, 3"]

    def test_rounding_is_no_imaginary_part(self, drawn):
        ie.plot.spectrum(ie.Solution(jnp.array([1 + 1e-16j, 2.0]), jnp.eye(2)), drawn)
        assert drawn.get_xlabel() == "index"

    def test_doubtful_gradients_and_what_is_not_finite(self, drawn):
        found = diagnosis(
            np.linalg.eig,
            ie.General(4),
            np.diag([1.0, 2.0, 3.0, 4.0]),
            values=[1.0, np.nan, np.inf, 4.0],
            condition_numbers=[2.0, 1.0, 1.0, np.inf],
            gradient_errors=[1e-9, 1e-9, np.nan, 1.0],
        )
        ie.plot.spectrum(found, drawn)
        regular, unknown, doubtful = (c.get_offsets().tolist() for c in drawn.collections)
        assert (regular, unknown, doubtful) == ([[0, 1]], [[3, 4]], [[3, 4]])
        assert legend(drawn) == ["no finite condition number", "gradient in doubt"]
        assert "2 of 4 are not finite" in drawn.get_title()
        assert "gradient: unknown" in drawn.get_title()

    @pytest.mark.parametrize("values", [[2.5], [np.nan] * 3])
    def test_one_or_none(self, values, drawn):
        ie.plot.spectrum(ie.Solution(jnp.array(values), jnp.eye(len(values))), drawn)
        assert len(drawn.collections[0].get_offsets()) == np.isfinite(values).sum()

    def test_long_clusters_and_many(self, drawn):
        spectrum = lambda values, near: ie.Solution(values, np.eye(len(values)), _near=near)
        ie.plot.spectrum(spectrum(np.ones(5), np.ones((5, 5))), drawn)
        ie.plot.spectrum(spectrum(np.full(6, 1j), np.kron(np.ones((3, 3)), np.eye(2))), drawn)
        near = np.kron(np.ones((2, 2)), np.eye(3))
        near[0, 1] = 1
        ie.plot.spectrum(spectrum(np.full(6, 1j), near), drawn)
        named = [text.get_text() for text in drawn.texts]
        assert named[:3] == ["0 to 4", "0, 2, 4", "1, 3, 5"]
        assert named[3] == "0, 1, 3 and 1 more"
        drawn.clear()
        pairs = np.kron(np.eye(20), np.ones((2, 2)))
        ie.plot.spectrum(spectrum(np.repeat(np.arange(20.0), 2), pairs), drawn)
        assert not drawn.texts
        assert len(drawn.lines) == 20
        assert legend(drawn) == ["counted as one"]

    def test_of_a_subspace_and_of_singular_values(self, drawn):
        solution = ie.eigensolver(np.linalg.eigh, ie.Subspace(3))(jnp.asarray(self.REPEATED))
        ie.plot.spectrum(solution, drawn)
        np.testing.assert_allclose(drawn.collections[0].get_offsets()[:, 1], [1, 2, 2], atol=1e-12)
        found = diagnosis(np.linalg.eigh, ie.Hermitian(3), self.REPEATED)
        ie.plot.spectrum(eqx.tree_at(lambda d: d.problem, found, "Singular"), drawn)
        assert drawn.get_ylabel() == "singular value"

    def test_a_batch_is_refused(self):
        solve = ie.eigensolver(np.linalg.eigh, ie.Hermitian(1))
        batch = jax.vmap(solve)(jnp.stack([jnp.asarray(self.REPEATED)] * 2))
        with pytest.raises(ie.InputError, match=r"one solution; got a batch, .* \(2, 1\)"):
            ie.plot.spectrum(batch)
        plt.close("all")


POINTS = np.array([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
TRIANGLES = np.array([[0, 1], [1, 2], [2, 3]])
MESH = POINTS, TRIANGLES


class TestSensitivity:
    def test_a_grid_with_both_signs(self, drawn):
        field, extent = np.array([[1.0, -4.0, 2.0], [0.0, 0.5, 1.0]]), (0, 6, 0, 4)
        given = jnp.asarray(field)
        ie.plot.sensitivity(given, None, drawn, extent=extent, label="dλ/dh in 1/m")
        (image,) = drawn.images
        np.testing.assert_array_equal(image.get_array(), field)
        assert image.get_clim() == (-4, 4)
        assert tuple(image.get_extent()) == extent
        assert image.origin == "lower"
        assert drawn.get_aspect() == 1
        assert image.colorbar.ax.get_ylabel() == "dλ/dh in 1/m"

    @pytest.mark.parametrize(
        ("field", "limits"),
        [([[1.0, 3.0]], (0, 3)), ([[-1.0, -3.0]], (-3, 0)), ([[0.0, 0.0]], (-1, 1))],
    )
    def test_limits(self, field, limits, drawn):
        image = ie.plot.sensitivity(np.array(field), ax=drawn).images[0]
        assert image.get_clim() == limits
        # white at 0 between signs, otherwise dark
        assert (sum(image.cmap(image.norm(0.0))[:3]) > 2.8) == (limits == (-1, 1))

    def test_what_is_not_finite_is_grey(self, drawn):
        field = np.array([[1.0, np.nan], [np.inf, -2.0]])
        image = ie.plot.sensitivity(field, ax=drawn).images[0]
        assert image.get_clim() == (-2, 2)
        assert image.get_array().mask.tolist() == [[False, True], [True, False]]
        assert np.ptp(image.cmap.get_bad()[:3]) == 0

    def test_a_mesh(self):
        tri = pytest.importorskip("matplotlib.tri").Triangulation(*POINTS, TRIANGLES.T)
        for mesh in ((POINTS, TRIANGLES), [jnp.asarray(POINTS), jnp.asarray(TRIANGLES)], tri):
            (of_triangles,) = ie.plot.sensitivity(np.array([1.0, -3.0]), mesh).collections
            np.testing.assert_array_equal(of_triangles.get_array(), [1, -3])
            corners = [path.vertices[:3] for path in of_triangles.get_paths()]
            np.testing.assert_array_equal(corners, POINTS.T[TRIANGLES.T])
            (of_vertices,) = ie.plot.sensitivity(np.arange(4.0), mesh).collections
            np.testing.assert_array_equal(of_vertices.get_array(), np.arange(4.0))
        plt.close("all")

    def test_a_mesh_of_as_many_triangles_as_vertices(self, drawn):
        points = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        mesh = points, np.array([[0, 0, 0], [1, 1, 1], [2, 2, 2]])
        with pytest.raises(ie.InputError, match=r"as many tri.*on_triangles=True"):
            ie.plot.sensitivity(np.ones(3), mesh, drawn)
        names = []
        for on_triangles in (True, False):
            ie.plot.sensitivity(np.ones(3), mesh, drawn, on_triangles=on_triangles)
            names.append(type(drawn.collections[-1]).__name__)
        assert names == ["PolyCollection", "TriMesh"]

    @pytest.mark.parametrize(
        ("field", "options", "match"),
        [
            (np.ones((2, 2), complex), {}, r"real field; got dtype complex128.*imaginary part"),
            (np.ones(4), {}, r"\(ny, nx\) over a grid; got shape \(4,\)"),
            (np.ones((2, 2)), {"on_triangles": True}, r"a mesh; got none"),
            (np.ones(3), {"mesh": MESH}, r"2 triangles or 4 vertices; .* \(3,\)"),
            (np.ones(2), {"mesh": MESH, "on_triangles": False}, r"got shape"),
            (np.ones(2), {"mesh": (POINTS.T, TRIANGLES.T)}, r"\(4, 2\), \(2, 3\).*transposes"),
            (np.ones(2), {"mesh": "circle"}, r"as a tuple.*got str"),
            (
                np.ones(2),
                {"mesh": MESH, "extent": (0, 1, 0, 1)},
                r"a grid; got a mesh",
            ),
            (np.ones(2), {"mesh": (POINTS, TRIANGLES + 9)}, r"from 0 to 3; got 9 to 12"),
        ],
    )
    def test_refusals(self, field, options, match):
        with pytest.raises(ie.InputError, match=match):
            ie.plot.sensitivity(field, **options)
        plt.close("all")


def report(solver, steps, residuals, errors):
    return ie.SolveReport(solver, *map(np.array, (steps, residuals, errors)))


class TestConvergence:
    def test_a_marker_for_each_system(self, drawn):
        reports = [
            report("MINRES", [7, 9], [1e-9, 2e-9], [1e-8, 1e-7]),
            report("MINRES", [8], [3e-9], [1e-8]),
        ]
        assert ie.plot.convergence(reports, drawn) is drawn
        residuals, errors = drawn.lines
        assert residuals.get_xdata().tolist() == [-0.125, 0.125, 1]
        assert residuals.get_ydata().tolist() == [1e-9, 2e-9, 3e-9]
        assert errors.get_ydata().tolist() == [1e-8, 1e-7, 1e-8]
        assert drawn.get_yscale() == "log"
        (right,) = (ax for ax in drawn.figure.axes if ax is not drawn)
        assert right.lines[0].get_ydata().tolist() == [7, 9, 8]
        assert right.get_ylim()[0] == 0
        assert drawn.get_xlabel() == "linear solve, by MINRES (iterative)"
        assert legend(drawn) == ["residual", "estimated error", "steps (right)"]

    def test_zero_and_infinity_are_on_the_edges(self, drawn):
        reports = [report("LU", [0, 0, 0], [0.0, 1e-16, np.nan], [0.0, 1e-15, np.inf])]
        ie.plot.convergence(reports, drawn)
        heights = {line.get_label(): line.get_ydata().tolist() for line in drawn.lines}
        assert heights == {
            "residual": [1e-16],
            "residual, exactly 0": [0],
            "residual, not finite": [1],
            "estimated error": [1e-15],
            "estimated error, exactly 0": [0],
            "estimated error, not finite": [1],
        }
        for line in drawn.lines:
            if "," in line.get_label():  # in units of the axes
                assert line.get_transform() == drawn.get_xaxis_transform()

    def test_direct_solvers_and_those_that_do_not_tell_have_no_steps(self, drawn):
        silent = report("host solver", [-1, -1], [1e-9, 1e-9], [1e-8, 1e-8])
        direct = report("LU", [0, 0], [1e-16, 1e-16], [1e-15, 1e-15])
        ie.plot.convergence([silent, direct], drawn)
        assert len(drawn.figure.axes) == 1
        names = "host solver (steps not known), LU (direct)"
        assert drawn.get_xlabel() == f"linear solve, by {names}"
        # an iteration that had nothing to solve for took no step
        ie.plot.convergence([silent, report("CG", [5, 0], [1e-9, 0], [1e-9, 0]), direct], drawn)
        assert drawn.figure.axes[1].lines[0].get_ydata().tolist() == [5, 0]

    def test_exact_solves_alone(self, drawn):
        ie.plot.convergence([report("LU", [0], [0.0], [0.0])], drawn)
        assert legend(drawn) == ["residual, exactly 0", "estimated error, exactly 0"]

    def test_refusals(self):
        with pytest.raises(ie.InputError, match=r"list of `SolveReport`; got none.*monitor"):
            ie.plot.convergence([])
        with pytest.raises(ie.InputError, match=r"list of `SolveReport`; got a SolveReport of oth"):
            ie.plot.convergence(report("LU", [0], [0.0], [0.0]))

    def test_what_a_monitor_collects(self, drawn):
        reports = []
        policy = ie.Policy(monitor=reports.append)
        solve = ie.eigensolver(np.linalg.eigh, ie.Hermitian(2), policy=policy)
        A = jnp.diag(jnp.arange(1.0, 5.0))
        jax.block_until_ready(jax.grad(lambda A: jnp.sum(solve(A).vectors[:2, :] ** 4))(A + 0.1))
        ie.plot.convergence(reports, drawn)
        assert drawn.lines[0].get_label().startswith("residual")
        assert "LU (direct)" in drawn.get_xlabel()


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for name, given in (
        ("branches", followed()),
        ("spectrum", ie.Solution(jnp.ones(1), jnp.ones((2, 1)))),
        ("sensitivity", np.ones((2, 2))),
        ("convergence", [report("LU", [0], [1e-16], [1e-15])]),
    ):
        with pytest.raises(ie.InputError, match=rf"plot.{name}\(...\).*pip install matplotlib"):
            vars(ie.plot)[name](given)


def test_the_package_imports_without_it():
    code = "import sys, implicit_eig; assert not {'matplotlib', 'tqdm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
