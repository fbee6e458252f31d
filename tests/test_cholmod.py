"""Cholesky factorisations by CHOLMOD, through each of the two packages that bring it."""

import importlib
import sys

import numpy as np
import pytest
import scipy.sparse as sp

import implicit_eig as ie
from implicit_eig.linear_solvers import cholmod

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]
N = 400


@pytest.fixture(params=["cvxopt", "sksparse"], autouse=True)
def package(request, monkeypatch):
    """Leave one of the two packages; the first is used only where the second is missing."""
    pytest.importorskip(request.param)
    if request.param == "cvxopt":
        monkeypatch.setitem(sys.modules, "sksparse", None)
    cholmod.analyses.clear()
    ie.factorization_cache.clear()
    return request.param


def grid(dtype, shift=0.0):
    """A matrix of a grid of 20 × 20 points, definite unless shifted."""
    one = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(20, 20))
    K = sp.kronsum(one, 1.3 * one)
    if np.issubdtype(dtype, np.complexfloating):
        K = K + 0.2j * (sp.triu(K, 1) - sp.tril(K, -1)) + 0.5 * sp.eye_array(N)
    return sp.csr_array(K - shift * sp.eye_array(N)).astype(dtype)


@pytest.mark.parametrize("mode", ["simplicial", "supernodal", "auto"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_solves(dtype, mode):
    M, rng = grid(dtype), np.random.default_rng(0)
    factors = ie.factorize(M, method=ie.Cholmod(mode=mode))
    for shape in ((N,), (N, 1), (N, 7)):
        b = rng.standard_normal(shape).astype(dtype)
        for x in (factors(b), factors.solve_adjoint(b)):
            assert (x.dtype, x.shape) == (dtype, shape)
            assert np.max(np.abs(M @ x - b)) < 1e3 * np.finfo(dtype).eps


@pytest.mark.parametrize("mode", ["simplicial", "supernodal", "auto"])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_an_indefinite_matrix_is_refused(dtype, mode):
    for shift in (1.0, 20.0):
        with pytest.raises(ie.LinearSolveError, match="a positive definite matrix"):
            ie.factorize(grid(dtype, shift), method=ie.Cholmod(mode=mode))


def test_one_factorisation_does_not_change_another():
    M, b = grid(np.float64), np.ones(N)
    first = ie.factorize(M, method=ie.Cholmod())
    second = ie.factorize(2 * M, method=ie.Cholmod())
    assert np.allclose(M @ first(b), b)
    assert np.allclose(2 * M @ second(b), b)


def test_one_analysis_for_each_pattern(package, monkeypatch):
    """An analysis of cvxopt is used up by its factorisation; one of scikit-sparse stays."""
    name, expected = {"cvxopt": ("symbolic", 3), "sksparse": ("analyze", 1)}[package]
    library, made = importlib.import_module(f"{package}.cholmod"), []
    analyse = getattr(library, name)
    monkeypatch.setattr(library, name, lambda *a, **k: made.append(1) or analyse(*a, **k))
    for factor in (1.0, 2.0, 3.0):
        ie.factorize(factor * grid(np.float64), method=ie.Cholmod())
    assert len(made) == expected


def test_unknown_options_are_refused():
    for method in (ie.Cholmod(mode="fast"), ie.Cholmod(speed=1)):
        with pytest.raises(ie.InputError, match=r"`Cholmod\(...\)`"):
            ie.factorize(grid(np.float64), method=method)


def test_the_options_of_cvxopt_itself_stay():
    options = importlib.import_module("cvxopt.cholmod").options
    before = dict(options)
    options["supernodal"] = 0
    ie.factorize(grid(np.float64), method=ie.Cholmod(mode="supernodal"))
    assert options == {"supernodal": 0}
    options.clear()
    options.update(before)


def test_neither_package_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "sksparse", None)
    monkeypatch.setitem(sys.modules, "cvxopt", None)
    with pytest.raises(ie.InputError, match=r"`pip install cvxopt`, or `pip install scikit-sparse"):
        ie.factorize(grid(np.float64), method=ie.Cholmod())
