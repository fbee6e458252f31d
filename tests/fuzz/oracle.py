"""Derivatives of functions of eigenpairs to a hundred digits, by differences in ball arithmetic.

The operators are the rounded ones, taken as exact numbers, on the line A + tȦ. Their eigenpairs are
enclosed at t = ±h, ±2h with h = 2⁻¹²⁰, where repeated eigenvalues have split and none of the gaps
that a floating-point matrix can have is small. A function that has a derivative shows slopes that
agree on both sides of 0 and for another h; one that has none, a single eigenvalue at a crossing
say, shows slopes that do not.

Source: Johansson (2017) Arb, IEEE Trans. Comput. 66, 1281, for the arithmetic and the enclosures.
"""

import dataclasses

import flint
import numpy as np

DIGITS_IN_BITS = 800
STEP = 2.0**-120
# Slopes that agree to this, relative to the largest of them or to 1, are those of one derivative.
AGREEMENT = 1e-9


class UnknownError(Exception):
    """The eigenvalues could not be told apart, even next to t = 0."""


@dataclasses.dataclass
class Truth:
    """The first and the second derivative of each feature by t; NaN where there is none."""

    first: dict[str, float]
    second: dict[str, float]


def exact(array):
    """The array as a matrix of exact numbers."""
    array = np.asarray(array)
    parts = zip(array.real.ravel().tolist(), array.imag.ravel().tolist(), strict=True)
    return flint.acb_mat(*array.shape, [flint.acb(*part) for part in parts])


def adjoint(M):
    return M.transpose().conjugate()


def spectrum(M):
    """Eigenvalues, right eigenvectors as columns, left eigenvectors as rows."""
    try:
        lam, left, right = M.eig(left=True, right=True)
    except ValueError as error:
        raise UnknownError from error
    return lam, columns(right), [[left[i, j] for j in range(len(lam))] for i in range(len(lam))]


def columns(M):
    return [[M[i, j] for i in range(M.nrows())] for j in range(M.ncols())]


def column(v):
    return flint.acb_mat(len(v), 1, list(v))


def entries(M):
    return [M[i, 0] for i in range(M.nrows())]


def dot(u, v):
    """Σ ūᵢ vᵢ."""
    return sum((a.conjugate() * b for a, b in zip(u, v, strict=True)), flint.acb(0))


def squares(v):
    return [(a * a.conjugate()).real for a in v]


def scaled(v, c):
    return [a * c for a in v]


def hermitian(A, B=None):
    """(λ, x, x) with xᴴBx = 1."""
    lam, X, _ = spectrum(A if B is None else B.solve(A))
    out = []
    for value, x in zip(lam, X, strict=True):
        Bx = x if B is None else entries(B * column(x))
        x = scaled(x, 1 / dot(x, Bx).real.sqrt())
        out.append((value, x, x))
    return out


def general(A, B=None):
    """(λ, x, y) with ‖x‖ = 1, yᴴBx = 1; where B is singular, without the infinite eigenvalues."""
    n = A.nrows()
    if B is None:
        lam, X, Y = spectrum(A)
        pairs = zip(lam, X, Y, strict=True)
    else:
        # by μ = 1/(λ − σ) of (A − σB)⁻¹B, with a σ that no matrix of floats has
        sigma = (
            flint.acb(flint.arb(2).sqrt() / 3, flint.arb(5).sqrt() / 7) * size_of(A) / size_of(B)
        )
        M = A - B * sigma
        mu, X, Z = spectrum(M.solve(B))
        finite = [i for i in range(n) if abs(mu[i]).mid() > flint.arb(2) ** -60]
        pairs = []
        for i in finite:
            # zᴴM⁻¹B = μzᴴ, so that yᴴ = zᴴM⁻¹
            y = entries(M.transpose().solve(column(Z[i])))
            pairs.append((sigma + 1 / mu[i], X[i], y))
    out = []
    for value, x, left in pairs:
        x = scaled(x, 1 / sum(squares(x)).sqrt())
        y = [a.conjugate() for a in left]
        Bx = x if B is None else entries(B * column(x))
        out.append((value, x, scaled(y, 1 / dot(y, Bx).conjugate())))
    return out


def size_of(M):
    return max(abs(a).mid() for a in M.entries())


def singular(A):
    """(σ, v, u)."""
    out = []
    for value, v, _ in hermitian(adjoint(A) * A):
        sigma = value.real.sqrt()
        out.append((flint.acb(sigma), v, scaled(entries(A * column(v)), 1 / sigma)))
    return out


def quadratic(K, C, M):
    """(λ, x, y) with ‖x‖ = 1, yᴴT'(λ)x = 1, from the companion matrix."""
    n = K.nrows()
    lower = [M.solve(K), M.solve(C)]
    companion = [
        [
            flint.acb(int(j == i + n)) if i < n else -lower[j // n][i - n, j % n]
            for j in range(2 * n)
        ]
        for i in range(2 * n)
    ]
    lam, Z, U = spectrum(flint.acb_mat(companion))
    out = []
    for value, z, u in zip(lam, Z, U, strict=True):
        x = scaled(z[:n], 1 / sum(squares(z[:n])).sqrt())
        y = [a.conjugate() for a in entries(M.transpose().solve(column(u[n:])))]
        slope = entries((C + M * (2 * value)) * column(x))
        out.append((value, x, scaled(y, 1 / dot(y, slope).conjugate())))
    return out


PAIRS = {
    "Hermitian": hermitian,
    "Subspace": hermitian,
    "Singular": singular,
    "General": general,
    "Polynomial": quadratic,
    "Nonlinear": quadratic,
}


def features(case, pairs):
    """Every feature of the chosen pairs, in the order of the solver; see `programs.features`."""
    w = [flint.arb(a) for a in case.w.tolist()]
    P, Q = exact(case.P), exact(case.Q)
    scale = flint.arb(1.0 if case.unit_free else case.scale)
    lam = [value / scale for value, _, _ in pairs]
    values = [value.real + value.imag / 2 for value in lam]
    decay = [(-value).exp() for value in lam]
    form = lambda y, M, x: dot(y, entries(M * column(x)))
    density = [form(x, P, x).real for _, x, _ in pairs]
    left = [form(y, Q, y).real for _, _, y in pairs]
    square = len(pairs[0][1]) == len(pairs[0][2])
    cross = [form(y, P, x) if square else flint.acb(0) for _, x, y in pairs]
    total = lambda parts: sum(parts, flint.arb(0))
    weighted = lambda parts: total(a * b for a, b in zip(w, parts, strict=True))
    return {
        "values": weighted(values),
        "sum": total(values),
        "densities": weighted(density),
        "density": total(density),
        "mixed": total((a * b).real for a, b in zip(decay, density, strict=True)),
        "left": weighted(left),
        "cross": total(a.real for a in cross),
        "function": total((a * b).real for a, b in zip(decay, cross, strict=True)),
    }


def at(case, operators, directions, t):
    moved = [A + dA * flint.acb(t) for A, dA in zip(operators, directions, strict=True)]
    pairs = PAIRS[case.kind](*moved)
    return features(case, case.choose(pairs))


def truth(case, operators=None, directions=None):
    """The derivatives of all features along the line; NaN for a feature that has none."""
    operators = [exact(A) for A in (case.operators if operators is None else operators)]
    directions = [exact(D) for D in (case.directions if directions is None else directions)]
    before, flint.ctx.prec = flint.ctx.prec, DIGITS_IN_BITS
    try:
        # enclosures are found for a first operator of size 1
        unit = flint.acb(1 / flint.arb(case.scale)) if case.unit_free else flint.acb(1)
        operators[0], directions[0] = operators[0] * unit, directions[0] * unit
        slopes = [slopes_at(case, operators, directions, STEP * part) for part in (1.0, 2.0**-20)]
    finally:
        flint.ctx.prec = before
    first, second = {}, {}
    for name in slopes[0]:
        (f, bends), (g, other) = (each[name] for each in slopes)
        size = max(map(abs, (*f, *g)))
        smooth = max(f + g) - min(f + g) <= AGREEMENT * max(size, 1)
        first[name] = f[0] if smooth else np.nan
        curved = smooth and abs(bends - other) <= 1e-6 * max(abs(bends), abs(other), 1)
        second[name] = bends if curved else np.nan
    return Truth(first, second)


def slopes_at(case, operators, directions, h):
    """Slopes between -2h, -h, h, 2h, and the second difference; for each feature."""
    f = [at(case, operators, directions, t * h) for t in (-2.0, -1.0, 1.0, 2.0)]
    out = {}
    for name in f[0]:
        a, b, c, d = (each[name] for each in f)
        slopes = [(c - b) / (2 * h), (d - c) / h, (b - a) / h, (d - a) / (4 * h)]
        bends = (d - c - b + a) / (3 * h * h)
        out[name] = [number(s) for s in slopes], number(bends)
    return out


def number(ball):
    """The middle of a ball that is known to ten digits; NaN for another."""
    middle = float(ball.mid())
    return middle if float(ball.rad()) <= 1e-10 * max(abs(middle), 1) else np.nan
