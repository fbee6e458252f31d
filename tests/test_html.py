"""What notebooks show."""

from html.parser import HTMLParser

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import eigh

import implicit_eig as ie

A = np.diag([1.0, 1.0, 3.0, 4.0])


class Reader(HTMLParser):
    """Checks that tags are closed in order, and collects the cells of rows and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.scopes, self.bold, self.text = [], [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag == "br":
            return
        self.open.append(tag)
        self.scopes += [dict(attrs)["scope"]] if tag == "th" else []
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "tr" in self.open and data.strip():
            self.rows[-1].append(data)
        if "strong" in self.open:
            self.bold.append(data)


def solution(values, residuals=None, **others):
    stats = {} if residuals is None else {"residuals": np.array(residuals)}
    values = np.array(values)
    return ie.Solution(values, np.zeros((len(values), len(values))), stats=stats, **others)


def batch(*members):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *members)


def test_a_solution():
    shown = solution([1.0, 2 / 3], [1e-16, 2e-3], left_vectors=np.zeros((2, 2)))
    shown = eqx.tree_at(lambda s: s.stats, shown, shown.stats | {"steps": np.array(12)})
    html = shown._repr_html_()
    read = Reader(html)
    head = ["pair", "value", "residual"]
    assert read.rows == [head, ["0", "1", "1.0e-16"], ["1", "0.666667", "2.0e-03"]]
    assert read.scopes == ["col"] * 3 + ["row"] * 2
    assert read.bold == ["2.0e-03"]
    assert "<caption>Solution, k = 2</caption>" in html
    for note in ("vectors: f64[2,2]", "left vectors: f64[2,2]", "steps: 12", "In bold: residuals"):
        assert note in read.text
    assert "\n\n" not in html
    for unwanted in ("color", "http", "<style", "<script"):
        assert unwanted not in html


def test_nothing_in_bold_needs_no_explanation():
    assert "In bold" not in solution([1.0], [1e-16])._repr_html_()
    assert Reader(solution([1.0], [np.nan])._repr_html_()).bold == ["nan"]


def test_residuals_may_be_missing():
    assert Reader(solution([1.0])._repr_html_()).rows == [["pair", "value"], ["0", "1"]]


def test_many_eigenpairs_are_counted():
    residuals = np.where(np.arange(50) % 10 == 9, 1.0, 0.0)
    read = Reader(solution(np.arange(50.0), residuals)._repr_html_())
    assert len(read.rows) == 21
    assert "30 more eigenpairs are left out, 3 of them with figures in bold." in read.text
    assert "5 more eigenpairs are left out." in solution(np.arange(25.0))._repr_html_()


def test_a_batch_is_named_by_its_members():
    members = (solution([2.0 * i, 2.0 * i + 1], np.zeros(2)) for i in range(3))
    read = Reader(batch(*members)._repr_html_())
    assert read.rows[0][0] == "member, pair"
    assert read.rows[4] == ["1, 1", "3", "0.0e+00"]
    assert "k = 2; batch of 3" in read.text


@pytest.mark.parametrize("residuals", [True, False])
def test_a_square_batch_is_no_block(residuals):
    figures = np.zeros(2) if residuals else None
    square = batch(solution([1.0, 2.0], figures), solution([3.0, 4.0], figures))
    assert "batch of 2" in square._repr_html_()


@pytest.mark.parametrize("residuals", [True, False])
def test_of_a_subspace_the_eigenvalues_are_shown(residuals):
    S, X = np.array([[0.0, 2.0], [1.0, 1.0]]), np.zeros((5, 2))
    stats = {"residuals": np.zeros(2)} if residuals else {}
    read = Reader(ie.Solution(S, X, stats=stats)._repr_html_())
    assert [row[1] for row in read.rows] == ["value", "-1", "2"]
    assert "batch" not in read.text
    bad = ie.Solution(np.full((2, 2), np.nan), X, stats=stats)
    read = Reader(batch(ie.Solution(S, X, stats=stats), bad)._repr_html_())
    assert [row[1] for row in read.rows] == ["value", "-1", "2", "nan", "nan"]


def test_solutions_of_a_solver():
    solve = ie.eigensolver(eigh, ie.Hermitian(2))
    read = Reader(solve(jnp.asarray(A))._repr_html_())
    assert [row[1] for row in read.rows] == ["value", "1", "1"]
    several = jax.vmap(solve)(jnp.stack([jnp.asarray(A)] * 2))
    names = [row[0] for row in Reader(several._repr_html_()).rows[1:]]
    assert names == ["0, 0", "0, 1", "1, 0", "1, 1"]


def test_the_plain_text_where_figures_are_not_known():
    plain = ie.Solution(jnp.ones(2), jnp.eye(2))
    texts = []

    def loss(values):
        traced = eqx.tree_at(lambda s: s.values, plain, values)
        texts.append((repr(traced), traced._repr_html_()))
        return jnp.sum(values)

    jax.jit(loss)(plain.values)
    jax.grad(loss)(plain.values)
    jax.vmap(loss)(jnp.ones((3, 2)))
    for unknown in (
        jax.eval_shape(lambda: plain),
        jax.tree.map(lambda leaf: None, plain),
        jax.tree.map(lambda leaf: "<b>", plain),
    ):
        texts.append((repr(unknown), unknown._repr_html_()))
    gone = ie.Solution(jnp.ones(2), jnp.eye(2))
    gone.values.delete()
    texts.append((repr(gone), gone._repr_html_()))
    assert len(texts) == 7
    for text, html in texts:
        assert html.startswith("<pre>")
        assert Reader(html).text == text
        assert "<b>" not in html


class TestDiagnosis:
    def test_table(self):
        found = ie.diagnose(ie.eigensolver(eigh, ie.Hermitian(3)), jnp.asarray(A))
        read = Reader(found._repr_html_())
        # the same words as in the text
        lines = repr(found).splitlines()
        assert read.rows[0] == [part.strip() for part in lines[1].split("  ") if part]
        assert [row for row in read.rows[1:]] == [line.split() for line in lines[2:5]]
        for line in (lines[0], *lines[5:]):
            assert line in read.text
        assert read.scopes == ["col"] * 9 + ["row"] * 3
        assert read.bold == []

    def test_figures_that_deserve_attention(self):
        found = ie.diagnose(ie.eigensolver(eigh, ie.Hermitian(3)), jnp.asarray(A))
        for name, figure in (
            ("residuals", 1e-7),
            ("condition_numbers", 1e8),
            ("solve_residuals", 1e-4),
            ("gradient_errors", 1e-3),
            ("gradient_errors", np.nan),
        ):
            figures = vars(found)[name].copy()
            figures[1] = figure
            bad = eqx.tree_at(lambda d, name=name: vars(d)[name], found, figures)
            read = Reader(bad._repr_html_())
            assert read.bold == [f"{figure:.1e}"]
            assert "In bold: figures that may leave a gradient too few" in read.text

    def test_names_are_escaped(self):
        found = ie.diagnose(ie.eigensolver(eigh, ie.Hermitian(3)), jnp.asarray(A))
        named = eqx.tree_at(lambda d: d.linear_solver, found, "<lambda> & co")
        assert "derivatives by &lt;lambda&gt; &amp; co" in named._repr_html_()

    def test_shapes_have_a_plain_text(self):
        found = ie.diagnose(ie.eigensolver(eigh, ie.Hermitian(3)), jnp.asarray(A))
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), jnp.float64), found)
        assert repr(shapes).startswith("Diagnosis(")
        assert Reader(shapes._repr_html_()).text == repr(shapes)
