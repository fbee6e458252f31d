"""Draw eigenproblems: kinds, dtypes, forms of operators, spectra, functions, derivatives."""

import dataclasses
from typing import Any

import numpy as np

# The sizes are small, since what goes wrong does so at any size, and programs are few.
N, ROWS, DEGREES = 6, 8, 4
FEATURES = ("values", "sum", "densities", "density", "mixed", "left", "cross", "function")


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled: everything that shapes and dtypes depend on."""

    kind: str
    dtype: str
    k: int
    pencil: bool = False
    form: str = "dense"
    left: bool = False
    order: str = "grad"


@dataclasses.dataclass
class Case:
    """A problem, a direction, and the function c · features that is differentiated along it."""

    program: Program
    spectrum: str
    operators: list
    directions: list
    scale: float
    c: dict[str, float]
    w: Any
    P: Any
    Q: Any
    rest: bool
    seed: int = 0

    @property
    def kind(self):
        return self.program.kind

    @property
    def unit_free(self):
        """Whether the first operator's unit is that of the eigenvalues, and of nothing else."""
        return self.kind not in ("Polynomial", "Nonlinear")

    def choose(self, pairs):
        """The k pairs that the solver returns, in its order."""
        return sorted(pairs, key=lambda pair: order(self.kind, complex(pair[0])))[: self.program.k]


def order(kind, value):
    """What pairs are sorted by: a line in the plane that no conjugate pair lies across."""
    return -value.real if kind == "Singular" else value.real + 0.3 * value.imag


PROGRAMS = [
    ("Hermitian", "float64", 3, {}),
    ("Hermitian", "float64", 3, {"pencil": True}),
    ("Hermitian", "complex128", 3, {"pencil": True}),
    ("Hermitian", "float64", 3, {"form": "sparse"}),
    ("Hermitian", "float64", 3, {"form": "products"}),
    ("Hermitian", "float64", N, {}),
    ("Hermitian", "float32", 3, {}),
    ("Hermitian", "complex64", N, {"pencil": True}),
    ("Subspace", "float64", 3, {"pencil": True}),
    ("Subspace", "complex64", 3, {}),
    ("Singular", "float64", 3, {}),
    ("Singular", "complex128", N, {}),
    ("Singular", "float32", N, {}),
    ("General", "float64", 3, {}),
    ("General", "float64", 3, {"pencil": True, "left": True}),
    ("General", "float64", 3, {"form": "sparse"}),
    ("General", "complex128", N, {"left": True}),
    ("General", "float32", 3, {"left": True}),
    ("Polynomial", "float64", 3, {}),
    ("Polynomial", "complex64", 3, {"left": True}),
    ("Nonlinear", "float64", 2, {}),
]
ORDERS = ("grad", "jvp", "second", "twice")


def draw(seed, only=None):
    """The case of a seed; `only` names kinds."""
    rng = np.random.default_rng([20160, seed])
    programs = [p for p in PROGRAMS if only is None or p[0] in only]
    kind, dtype, k, options = programs[rng.integers(len(programs))]
    program = Program(kind, dtype, k, **options, order=ORDERS[rng.integers(4)])
    return of_program(program, rng, seed)


def of_program(program, rng, seed):
    """A case of the program."""
    kind, dtype = program.kind, np.dtype(program.dtype)
    n = DEGREES if kind in ("Polynomial", "Nonlinear") else N
    unit = 10.0 ** rng.choice([0, 0, 0, -4, 3, -150, 150] if eps(dtype) < 1e-10 else [0, 0, -9, 9])
    if kind in ("Polynomial", "Nonlinear"):
        unit = 1.0
    spectrum, operators = BUILD[kind](rng, program, n)
    operators = [
        np.ascontiguousarray((A * unit if i == 0 else A).astype(dtype))
        for i, A in enumerate(operators)
    ]
    scale = spread(operators, kind)
    directions = [direction(rng, A, kind) for A in operators]
    m = operators[0].shape[0]
    real = np.finfo(dtype).dtype
    names = [name for name in FEATURES if offered(program, name)]
    c = dict.fromkeys(FEATURES, 0.0)
    for name in rng.choice(names, 1 if rng.random() < 0.8 else 2, replace=False):
        c[name] = float(rng.choice([1.0, 1.0, 1.0, 1e-3, 1e-3]) if any(c.values()) else 1.0)
    # of values alone, which need no solve, nothing shows that k cuts a cluster but another value;
    # beside stiff entries, rounding makes one of values that differ
    of_values = not any(size for name, size in c.items() if name not in ("values", "sum"))
    return Case(
        program,
        spectrum,
        operators,
        directions,
        scale,
        c,
        (1 + rng.random(program.k)).astype(real),
        symmetric(rng.standard_normal((operators[0].shape[1],) * 2)).astype(real),
        symmetric(rng.standard_normal((m, m))).astype(real),
        bool(rng.random() < 0.5) or (of_values and spectrum.startswith(("cut", "stiff"))),
        seed,
    )


def offered(program, name):
    """Whether the solution of a program has a feature, and one that is not another's."""
    kind = program.kind
    if kind == "Subspace":
        return name in ("sum", "density")
    if name == "density" and program.k == N and not program.pencil and kind != "General":
        return False  # of all eigenvectors it is the trace of P
    if name == "left":
        return program.left or kind == "Singular"
    if name == "cross":
        return program.left and program.k < N  # of all pairs it is the trace of P
    if name == "function":
        return kind == "Hermitian" or (kind == "General" and program.left)
    return True


def eps(dtype):
    return float(np.finfo(dtype).eps)


def spread(operators, kind):
    """The unit of the eigenvalues, a power of two."""
    A = operators[0]
    if kind in ("Polynomial", "Nonlinear"):
        return 1.0
    size = np.max(np.abs(A)) / (1 if len(operators) == 1 else np.max(np.abs(operators[1])))
    return float(2.0 ** np.round(np.log2(float(size))))


def symmetric(G):
    return (G + G.conj().T) / 2


def noise(rng, shape, dtype):
    G = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        G = G + 1j * rng.standard_normal(shape)
    return G


def direction(rng, A, kind):
    """A direction of the size of A; in one case of five, of its entries."""
    G = noise(rng, A.shape, A.dtype)
    G = symmetric(G) if kind in ("Hermitian", "Subspace") else G
    size = np.abs(A) if rng.random() < 0.2 else np.max(np.abs(A))
    return (G * size).astype(A.dtype)


SPECTRA = ["separated", "graded", "zero", "stiff", "cut", "triple", *["near", "repeated"] * 2]


def spectra(rng, program, n):
    """A name and n eigenvalues of size about 1, ascending."""
    tiny = eps(np.dtype(program.dtype))
    lam = np.cumsum(0.3 + rng.random(n))
    name = rng.choice(SPECTRA)
    k = min(program.k, n - 1)
    if name in ("near", "repeated"):
        i = rng.integers(max(k - 1, 1))
        gap = 10.0 ** rng.uniform(np.log10(tiny) + 1, -2) if name == "near" else 0.0
        lam[i + 1] = lam[i] * (1 + gap)
    elif name == "triple":
        lam[:3] = lam[0]
    elif name == "graded":
        lam = lam * np.geomspace(tiny**0.75 * 10, 1, n)
    elif name == "zero":
        lam[rng.integers(2)] = 0.0
        lam = np.sort(lam)
    elif name == "cut" and program.k < n:
        gap = rng.choice([0.0, 0.0, 10.0 ** rng.uniform(np.log10(tiny) + 1, -2)])
        lam[program.k] = lam[program.k - 1] * (1 + gap)
    elif name == "stiff":
        lam[-1] *= 10.0 ** rng.uniform(3, -np.log10(tiny) - 3)
    return name, lam


def basis(rng, n, dtype):
    """A unitary matrix: random, exact up to signs and powers of two, or a permutation."""
    kind = rng.integers(3)
    if kind == 0:
        return np.linalg.qr(noise(rng, (n, n), dtype))[0]
    Q = np.eye(n)
    if kind == 1:
        Q[:4, :4] -= 0.5  # a reflection
    return Q[rng.permutation(n)]


def build_hermitian(rng, program, n):
    name, lam = spectra(rng, program, n)
    if rng.random() < 0.3:
        lam = lam - lam[rng.integers(n)] - 0.1
        name += ", indefinite"
    Q = basis(rng, n, np.dtype(program.dtype))
    A = symmetric((Q * lam) @ Q.conj().T)
    if not program.pencil:
        return name, [A]
    # the same spectrum for B = LLᴴ
    L = np.diag(2.0 ** rng.integers(-2, 3, n)).astype(Q.dtype)
    if rng.random() < 0.5:
        L = L + np.tril(noise(rng, (n, n), np.dtype(program.dtype)), -1)
    if rng.random() < 0.2:
        name, L[0] = name + ", B ill conditioned", L[0] * eps(np.dtype(program.dtype)) ** 0.25
    return name, [symmetric(L @ A @ L.conj().T), symmetric(L @ L.conj().T)]


def build_singular(rng, program, n):
    name, sigma = spectra(rng, program, n)
    sigma = np.sort(np.where(sigma == 0, 0.5, sigma))
    dtype = np.dtype(program.dtype)
    U, V = basis(rng, ROWS, dtype)[:, :n], basis(rng, n, dtype)
    if program.k < n and name in ("near", "repeated", "triple", "cut"):  # the largest count
        sigma = 2 * np.max(sigma) - sigma
        sigma = np.where(sigma <= 0, 0.3, sigma)
    return name, [(U * sigma) @ V.conj().T]


def build_general(rng, program, n):
    dtype = np.dtype(program.dtype)
    name, lam = spectra(rng, program, n)
    J = np.diag(lam).astype(np.result_type(dtype, float))
    if rng.random() < 0.3:  # a conjugate pair, or a complex number
        J = J + np.diag(noise(rng, n, dtype)).astype(J.dtype) / 2
        if not np.issubdtype(dtype, np.complexfloating):
            J[0, 1], J[1, 0] = 0.4, -0.4
        name = "complex, " + name
    elif rng.random() < 0.35:
        i = rng.integers(2)
        J[i + 1, i + 1], J[i, i + 1] = J[i, i], 1.0
        name = "defective"
        if rng.random() < 0.7:
            J[i + 1, i] = 10.0 ** rng.uniform(np.log10(eps(dtype)), -2)
            name = "near-defective"
    kind = rng.integers(4)
    if kind == 0:
        V = basis(rng, n, dtype)
    elif kind == 1:  # unimodular: the Jordan form of an integer matrix is exact
        V = np.eye(n) + np.triu(rng.integers(-1, 2, (n, n)), 1)
    else:
        V = noise(rng, (n, n), dtype)
        if kind == 3:
            name += ", non-normal"
            V = V * np.geomspace(1, eps(dtype) ** 0.25, n)
    inverse = np.round(np.linalg.inv(V)) if kind == 1 else np.linalg.inv(V)
    A = V @ J @ inverse
    if not program.pencil:
        return name, [A]
    B = np.eye(n) + 0.3 * noise(rng, (n, n), dtype)
    if rng.random() < 0.2:
        B, name = np.diag([1.0] * (n - 1) + [0.0]), name + ", B singular"
        return name, [A, B]
    return name, [B @ A, B]


def build_quadratic(rng, program, n):
    """K + λC + λ²M, from scalar equations when a spectrum is asked for."""
    dtype = np.dtype(program.dtype)
    if rng.random() < 0.3:
        return "random", [noise(rng, (n, n), dtype) for _ in range(2)] + [np.eye(n)]
    roots = np.sort(-(0.5 + 2 * rng.random((n, 2))), axis=0)
    name = rng.choice(["separated", "repeated", "defective", "near"])
    if name == "repeated":
        roots[1] = roots[0]
    elif name == "defective":
        roots[0, 1] = roots[0, 0]
    elif name == "near":
        roots[1, 0] = roots[0, 0] * (1 + 10.0 ** rng.uniform(np.log10(eps(dtype)) + 1, -2))
    K, C, M = np.diag(roots[:, 0] * roots[:, 1]), np.diag(-roots.sum(1)), np.eye(n)
    left, right = (basis(rng, n, dtype) for _ in range(2))
    return name, [left @ part @ right for part in (K, C, M)]


BUILD = {
    "Hermitian": build_hermitian,
    "Subspace": build_hermitian,
    "Singular": build_singular,
    "General": build_general,
    "Polynomial": build_quadratic,
    "Nonlinear": build_quadratic,
}
