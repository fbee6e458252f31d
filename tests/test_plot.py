"""Pictures of branches."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import implicit_eig as ie
from implicit_eig.plot import crossings

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


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ie.InputError, match=r"pip install matplotlib"):
        ie.plot.branches(followed())


def test_the_package_imports_without_it():
    code = "import sys, implicit_eig; assert not {'matplotlib', 'tqdm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
