"""The contestants: name -> function of a workload -> (forward, gradient), without arguments.

`forward()` returns the loss, `gradient()` the loss and its gradient, forward included. Each is
imported in a process, and perhaps an interpreter, of its own.
"""

import numpy as np
import scipy.linalg as sla
import scipy.sparse as sp
import scipy.sparse.linalg as spla


def superlu(A):
    options = {"SymmetricMode": True}
    return spla.splu(A.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)


def arpack(K, M, k, solve):
    inverse = spla.LinearOperator(K.shape, solve, dtype=K.dtype)
    return spla.eigsh(K, k=k, M=M, sigma=0, OPinv=inverse, v0=np.ones(K.shape[0]))


# ---------------------------------------------------------------- this package


def _multigrid(w):
    """LOBPCG and MINRES with one algebraic multigrid, of the first matrix for both."""
    import pyamg

    preconditioner = pyamg.smoothed_aggregation_solver(w.assemble(w.p)[0]).aspreconditioner()

    def minres(A, b):
        return spla.minres(A, b, rtol=1e-11, M=preconditioner)

    return _ours(
        lambda ie, k: ie.solvers.lobpcg(k, preconditioner=preconditioner),
        lambda ie: ie.host_linear_solver(minres),
    )(w)


def _ours(make_solver, linear_solver=None, vectors=True):
    def make(w):
        import jax
        import jax.numpy as jnp

        import implicit_eig as ie

        jax.config.update("jax_enable_x64", True)
        rows, cols, shape = w.rows, w.cols, (w.n, w.n)
        weights, g = jnp.asarray(w.w), jnp.asarray(w.g)
        options = {} if linear_solver is None else {"linear_solver": linear_solver(ie)}
        solve = ie.eigensolver(make_solver(ie, w.k), ie.Hermitian(w.k), **options)

        def loss(p):
            K = ie.SparseOperator(w.stiffness * p[w.cell], rows, cols, shape)
            M = ie.SparseOperator(w.mass * (0.5 + 0.5 * p)[w.cell], rows, cols, shape)
            values, X = solve(K, M)
            value = weights @ values
            return value + jnp.sum(g[:, None] * X**2) if vectors else value

        return _timed(ie, jax.jit(loss), jax.jit(jax.value_and_grad(loss)), jnp.asarray(w.p))

    return make


def _timed(ie, forward, gradient, *args):
    import jax

    def run(f):
        # as in an optimisation: each evaluation has matrices that were not seen before
        ie.factorization_cache.clear()
        return jax.block_until_ready(f(*args))

    return lambda: run(forward), lambda: run(gradient)


def _black_box(ie, k):
    return lambda K, M: arpack(K, M, k, superlu(K).solve)


# ---------------------------------------------------------------- W2 by hand and by peers


def projected_cg(K, M, lu, lam, X, B):
    """Z with (K − λᵢM) zᵢ = bᵢ up to M xᵢ, and zᵢ ⟂ M xᵢ: all eigenpairs as one block."""
    MX = M @ X
    project = lambda V: V - X @ (MX.T @ V)
    R = B - MX @ (X.T @ B)
    target = 1e-10 * np.linalg.norm(R, axis=0)
    Z, S = np.zeros_like(R), project(lu.solve(R))
    P, rho, active = S.copy(), np.sum(R * S, axis=0), np.arange(len(lam))
    while active.size:
        AP = K @ P - (M @ P) * lam[active]
        step = rho / np.sum(P * AP, axis=0)
        Z[:, active] += step * P
        R -= step * AP
        keep = np.linalg.norm(R, axis=0) > target[active]
        active, R, P, rho = active[keep], R[:, keep], P[:, keep], rho[keep]
        if active.size:
            S = project(lu.solve(R))
            new = np.sum(R * S, axis=0)
            P, rho = S + new / rho * P, new
    # along the other known eigenvectors
    gap = lam[:, None] - lam[None, :]
    np.fill_diagonal(gap, np.inf)
    return Z + X @ ((X.T @ B) / gap)


def _conjugate_gradients(factorise):
    """One factorisation, reused in projected conjugate gradients on all pairs as one block."""

    def make(w):
        def forward():
            K, M = w.assemble(w.p)
            factors = factorise(K)
            return K, M, factors, *arpack(K, M, w.k, factors.solve)

        def gradient():
            K, M, factors, lam, X = forward()
            Z = projected_cg(K, M, factors, lam, X, -w.cotangents(lam, X)[1])
            return w.loss(lam, X), w.gradient(lam, X, Z)

        return lambda: w.loss(*forward()[3:]), gradient

    return make


class _Rslab:
    """The factors L D Lᵀ that this package takes, in other hands."""

    analysis = None

    def __init__(self, A):
        import rslab

        if _Rslab.analysis is None:
            _Rslab.analysis = rslab.analyze(A.tocsc(), path="ldlt")
        self.factor = _Rslab.analysis.factor(A.tocsc())

    def solve(self, b):
        return self.factor.solve_many(np.asfortranarray(b.reshape(len(b), -1))).reshape(b.shape)


def _bordered(w):
    """A bordered LU for each eigenpair."""

    def forward():
        K, M = w.assemble(w.p)
        return K, M, *arpack(K, M, w.k, superlu(K).solve)

    def gradient():
        K, M, lam, X = forward()
        X_bar, Z = w.cotangents(lam, X)[1], np.empty_like(X)
        for i in range(w.k):
            c = M @ X[:, i]
            border = sp.csc_matrix(c[:, None])
            lu = spla.splu(sp.bmat([[K - lam[i] * M, border], [border.T, None]], format="csc"))
            r = X_bar[:, i] - c * (X[:, i] @ X_bar[:, i])
            Z[:, i] = lu.solve(np.append(-r, 0))[:-1]
        return w.loss(lam, X), w.gradient(lam, X, Z)

    return lambda: w.loss(*forward()[2:]), gradient


def _eigd(method):
    def make(w):
        import eigd

        class Inverse(spla.LinearOperator):
            def __init__(self, lu, shape):
                self.lu, self.count = lu, 0
                super().__init__(np.float64, shape)

            def _matvec(self, x):
                return self.lu.solve(x)

            def _matmat(self, X):
                return self.lu.solve(X)

        def forward():
            K, M = w.assemble(w.p)
            solver = eigd.IRAM(N=w.k)
            lam, X = solver.solve(K, M, Inverse(superlu(K), K.shape), 0.0)
            return solver, lam, X

        def gradient():
            solver, lam, X = forward()
            lam_bar, X_bar = w.cotangents(lam, X)
            psi, data = solver.solve_adjoint(X_bar, method=method, rtol=1e-10)
            out = np.zeros(w.cells)

            def product(element, factor):
                def derivative(U, V):
                    u, v = w.by_cells(U.reshape(w.n, -1)), w.by_cells(V.reshape(w.n, -1))
                    return factor * np.einsum("eak,ab,ebk->e", u, element, v, optimize=True)

                return derivative

            solver.add_total_derivative(
                lam_bar, X_bar, psi, product(w.Ke, 1.0), product(w.Me, 0.5), out,
                adj_corr_data=data, deriv_type="tensor",
            )  # fmt: skip
            return w.loss(lam, X), out

        return lambda: w.loss(*forward()[1:]), gradient

    return make


def _jaxopt(w):
    """`jaxopt.implicit_diff.custom_root` with the user's own host MINRES, preconditioned by LU."""
    import jax
    import jax.numpy as jnp
    from jaxopt import implicit_diff

    jax.config.update("jax_enable_x64", True)
    rows, cols = jnp.asarray(w.rows), jnp.asarray(w.cols)
    kept = {}

    def data(p):
        return w.stiffness * p[w.cell], w.mass * (0.5 + 0.5 * p)[w.cell]

    def multiply(entries, X):
        return jnp.zeros_like(X).at[rows].add(entries[:, None] * X[cols])

    def host_forward(p):
        K, M = w.assemble(np.asarray(p))
        lu = superlu(K)
        kept.update(K=K, M=M, lu=lu)
        kept["lam"], kept["X"] = arpack(K, M, w.k, lu.solve)
        return kept["lam"], kept["X"]

    def conditions(z, p):
        (lam, X), (K, M) = z, data(p)
        MX = multiply(M, X)
        return jnp.sum(X * MX, axis=0) - 1, multiply(K, X) - MX * lam

    def host_adjoint(lam_bar, X_bar):
        K, M, lu, lam, X = (kept[name] for name in ("K", "M", "lu", "lam", "X"))
        MX = M @ X
        mu, Z = np.empty(w.k), np.empty_like(X)
        for i in range(w.k):
            x, c = X[:, i], MX[:, i]
            # (K − λM) z + 2 c μ = x̄,  −cᵀz = λ̄
            mu[i] = (x @ X_bar[:, i]) / 2
            project = lambda v, x=x, c=c: v - x * (c @ v)
            r = X_bar[:, i] - 2 * c * mu[i]
            others = [j for j in range(w.k) if j != i]
            U, MU = X[:, others], MX[:, others]
            known = U @ ((U.T @ r) / (lam[others] - lam[i]))
            r = r - MU @ (U.T @ r)
            outside = lambda v: project(v) - U @ (MU.T @ v)
            A = spla.LinearOperator(K.shape, lambda v, i=i: K @ v - lam[i] * (M @ v))
            P = spla.LinearOperator(K.shape, lambda v: outside(lu.solve(v)))
            z = spla.minres(A, r, M=P, rtol=1e-11)[0]
            Z[:, i] = outside(z) + known - x * lam_bar[i]
        return mu, Z

    def solve(matvec, b):
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), b)
        return jax.pure_callback(host_adjoint, like, *b)

    @implicit_diff.custom_root(conditions, solve=solve)
    def pairs(init, p):
        like = (jax.ShapeDtypeStruct((w.k,), p.dtype), jax.ShapeDtypeStruct((w.n, w.k), p.dtype))
        return jax.pure_callback(host_forward, like, p)

    def loss(p):
        lam, X = pairs(None, p)
        return jnp.asarray(w.w) @ lam + jnp.sum(jnp.asarray(w.g)[:, None] * X**2)

    forward, gradient, p = jax.jit(loss), jax.jit(jax.value_and_grad(loss)), jnp.asarray(w.p)
    ready = jax.block_until_ready
    return lambda: ready(forward(p)), lambda: ready(gradient(p))


def _xitorch_sparse(w):
    """`xitorch.linalg.symeig` with the user's own ARPACK and projected CG, one LU for both."""
    import torch
    import xitorch
    import xitorch.linalg

    rows, cols = torch.tensor(w.rows).long(), torch.tensor(w.cols).long()
    cell, stiffness, mass = torch.tensor(w.cell), torch.tensor(w.stiffness), torch.tensor(w.mass)
    weights, g, kept = torch.tensor(w.w), torch.tensor(w.g), {}

    class Entries(xitorch.LinearOperator):
        def __init__(self, data):
            super().__init__((w.n, w.n), is_hermitian=True, dtype=data.dtype, device=data.device)
            self.data = data

        def _mv(self, x):
            return self._mm(x[:, None])[:, 0]

        def _mm(self, X):
            return torch.zeros_like(X).index_add(0, rows, self.data[:, None] * X[cols])

        def _getparamnames(self, prefix=""):
            return [prefix + "data"]

    def pairs(A, neig, mode, M, p):
        K, M = w.assemble(p)
        lu = superlu(K)
        lam, X = arpack(K, M, neig, lu.solve)
        kept.update(K=K, M=M, lu=lu, lam=lam, X=X)
        return torch.tensor(lam), torch.tensor(X)

    def adjoint(A, B, E, M):
        return torch.tensor(projected_cg(**kept, B=B.numpy()))

    def loss(p):
        K, M = Entries(stiffness * p[cell]), Entries(mass * (0.5 + 0.5 * p)[cell])
        options = {"method": pairs, "p": p.detach().numpy(), "bck_options": {"method": adjoint}}
        values, X = xitorch.linalg.symeig(K, w.k, M=M, **options)
        return weights @ values + (g[:, None] * X**2).sum()

    def gradient():
        p = torch.tensor(w.p).requires_grad_()
        value = loss(p)
        value.backward()
        return value.item(), p.grad.numpy()

    return lambda: loss(torch.tensor(w.p)).item(), gradient


# ---------------------------------------------------------------- W5


def _ours_general(make_solver):
    def make(w):
        import jax
        import jax.numpy as jnp

        import implicit_eig as ie

        jax.config.update("jax_enable_x64", True)
        weights, g = jnp.asarray(w.w), jnp.asarray(w.g)
        solve = ie.eigensolver(make_solver(ie, w), ie.General(w.k))

        def loss(p):
            A = ie.SparseOperator(w.entries(p, jnp.concatenate), w.rows, w.cols, (w.n, w.n))
            values, X = solve(A)
            return weights @ values.real + jnp.sum(g[:, None] * jnp.abs(X) ** 2)

        return _timed(ie, jax.jit(loss), jax.jit(jax.value_and_grad(loss)), jnp.asarray(w.p))

    return make


def nearest_zero(w, A, lu, adjoint=False):
    """The right or left eigenpairs of A, in the order of the workload."""
    trans, M = ("T", A.T) if adjoint else ("N", A)
    inverse = spla.LinearOperator(A.shape, lambda v: lu.solve(v, trans), dtype=float)
    lam, X = spla.eigs(M, w.k, sigma=0, OPinv=inverse, v0=np.ones(w.n))
    order = w.sort(lam)
    # Aᵀ v = λ v is yᴴ A = λ yᴴ of y = v̄
    return lam[order], X[:, order].conj() if adjoint else X[:, order]


def _general(adjoint):
    """By hand: adjoint(A, lu, pair, x, λ̄, x̄) gives z of Re(−zᴴ Ȧ x) for each eigenpair."""

    def make(w):
        def forward():
            A = w.assemble(w.p)
            lu = spla.splu(A)
            return A, lu, *nearest_zero(w, A, lu)

        def gradient():
            A, lu, lam, X = forward()
            return w.loss(lam, X), w.gradient(X, adjoint(w, A, lu, lam, X))

        return lambda: w.loss(*forward()[2:]), gradient

    return make


def _bordered_general(w, A, lu, lam, X):
    """A bordered LU for each eigenpair."""
    lam_bar, X_bar = w.cotangents(lam, X)
    Z = np.empty_like(X)
    for i in range(w.k):
        x = sp.csc_matrix(X[:, [i]])
        shifted = A - lam[i] * sp.eye_array(w.n)
        M = sp.bmat([[shifted, -x], [x.conj().T, None]], format="csc")
        Z[:, i] = spla.splu(M).solve(np.append(X_bar[:, i], lam_bar[i]), "H")[:-1]
    return Z


def _preconditioned_general(w, A, lu, lam, X):
    """Left eigenvectors by the transposed LU, which preconditions GMRES on singular systems."""
    lam_bar, X_bar = w.cotangents(lam, X)
    Y = nearest_zero(w, A, lu, adjoint=True)[1]
    Z, AH = np.empty_like(X), A.T.tocsr()
    for i in range(w.k):
        x, y = X[:, i], Y[:, i]
        b = X_bar[:, i] - x * np.vdot(x, X_bar[:, i])
        z = transposed_gmres(lu, lambda v, i=i: AH @ v - lam[i].conj() * v, b)
        Z[:, i] = z - y * (np.vdot(x, z) + lam_bar[i]) / np.vdot(x, y)
    return Z


def transposed_gmres(lu, product, b):
    """GMRES with the transposed LU of a real matrix on the left."""
    inverse = lambda v: lu.solve(v.real.copy(), "T") + 1j * lu.solve(v.imag.copy(), "T")
    operator = spla.LinearOperator((len(b),) * 2, lambda v: inverse(product(v)), dtype=complex)
    return spla.gmres(operator, inverse(b), rtol=1e-11, restart=60, maxiter=5)[0]


def _solvax(w):
    """SOLVAX, one eigenpair after another, with the user's left eigenvectors and GMRES."""
    import jax
    import jax.numpy as jnp
    from solvax.eigen import eigenpair_reverse

    jax.config.update("jax_enable_x64", True)
    rows, cols, v0 = jnp.asarray(w.rows), jnp.asarray(w.cols), jnp.ones(w.n, complex)
    weights, g = jnp.asarray(w.w), jnp.asarray(w.g)
    kept = {}

    def build(p):
        entries = w.entries(p, jnp.concatenate)
        return lambda v: jax.ops.segment_sum(entries * v[cols], rows, w.n)

    def solve(p):
        A = w.assemble(np.asarray(p))
        lu = spla.splu(A)
        kept.update(A=A, AT=A.T.tocsr(), lu=lu, right=nearest_zero(w, A, lu), left=None)

    def left(i):
        if kept["left"] is None:
            kept["left"] = nearest_zero(w, kept["A"], kept["lu"], adjoint=True)[1]
        return kept["left"][:, i]

    def adjoint(p, lam, x, y, matvec, b):
        x, y = np.asarray(x), np.asarray(y)

        def on_host(b):
            product = lambda v: kept["AT"] @ v - lam * v + y.conj() * (x @ v)
            return transposed_gmres(kept["lu"], product, np.asarray(b))

        return jax.pure_callback(on_host, jax.ShapeDtypeStruct(b.shape, b.dtype), b)

    def pair(p, i):
        return eigenpair_reverse(
            p,
            build,
            v0,
            primal_solver=lambda p, apply, v0: (kept["right"][0][i], kept["right"][1][:, i]),
            left_solver=lambda p, apply, v0, lam: left(i),
            transpose_tangent_solver=adjoint,
        )

    def loss(p):
        total = 0.0
        for i in range(w.k):
            lam, x = pair(p, i)
            size = jnp.abs(x) ** 2
            total += weights[i] * lam.real + jnp.sum(g * size) / jnp.sum(size)
        return total

    p = jnp.asarray(w.p)

    def run(f):
        solve(p)
        return jax.block_until_ready(f(p))

    return lambda: run(loss), lambda: run(jax.value_and_grad(loss))


# ---------------------------------------------------------------- W1, W3, W4


def _dense(make):
    def contestant(w):
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)
        solve = make(w)

        def loss(A):
            values, vectors = solve(A)
            X = vectors[:, : w.k]
            return jnp.asarray(w.w) @ values[: w.k] + jnp.sum(jnp.asarray(w.g) * X**2)

        A = jnp.asarray(w.A)
        f, g = jax.jit(loss), jax.jit(jax.value_and_grad(loss))
        ready = jax.block_until_ready
        return lambda: ready(f(A)), lambda: ready(g(A))

    return contestant


def _dense_ours(linear_solver, make_solver=lambda ie, k: ie.solvers.arpack(k)):
    def make(w):
        import implicit_eig as ie

        solver = make_solver(ie, w.k)
        return ie.eigensolver(solver, ie.Hermitian(w.k), linear_solver=linear_solver(ie))

    return make


def _lapack(ie, k):
    return lambda A: sla.eigh(A, subset_by_index=[0, k - 1])


def _dense_jax(w):
    import jax.numpy as jnp

    return jnp.linalg.eigh


def _torch(make):
    def contestant(w):
        import torch

        solve = make(w)
        A, weights, g = torch.tensor(w.A), torch.tensor(w.w), torch.tensor(w.g)

        def loss(A):
            values, vectors = solve(A)
            return weights @ values[: w.k] + (g * vectors[:, : w.k] ** 2).sum()

        def gradient():
            variable = A.clone().requires_grad_(True)
            value = loss(variable)
            value.backward()
            return value.item(), variable.grad.numpy()

        return lambda: loss(A).item(), gradient

    return contestant


def _torch_eigh(w):
    import torch

    return torch.linalg.eigh


def _xitorch(w):
    import xitorch
    import xitorch.linalg

    def solve(A):
        operator = xitorch.LinearOperator.m(A, is_hermitian=True)
        return xitorch.linalg.symeig(operator, neig=w.k, method="exacteig")

    return solve


def _matfree(w):
    """Lanczos with full reorthogonalisation, differentiated step by step."""
    import jax.numpy as jnp
    from matfree import decomp, eig

    eigh, start = eig.eigh_partial(decomp.tridiag_sym(250)), jnp.ones(w.n)

    def solve(A):
        # as a symmetric matrix: its gradient is one too
        values, rows = eigh(lambda v, A: A @ v, start, (A + A.T) / 2)
        return values, rows.T

    return solve


def _legume(w):
    import autograd
    from legume.primitives import eigsh_ag

    def loss(A):
        values, X = eigsh_ag(A, k=w.k, which="SA", v0=np.ones(w.n))
        return autograd.numpy.dot(w.w, values) + autograd.numpy.sum(w.g * X**2)

    value_and_grad = autograd.value_and_grad(loss)

    def gradient():
        value, bar = value_and_grad(w.A)
        return value, (bar + bar.T) / 2

    return lambda: loss(w.A), gradient


def _dense_by_hand(w):
    """NumPy's `eigh`, and the closed form from the full spectrum."""

    def gradient():
        lam, V = np.linalg.eigh(w.A)
        k, X = w.k, V[:, : w.k]
        lam_bar, X_bar = w.cotangents(lam[:k], X)
        gap = lam[None, :k] - lam[:, None]
        gap[np.arange(k), np.arange(k)] = np.inf
        bar = (X * lam_bar) @ X.T + V @ ((V.T @ X_bar) / gap) @ X.T
        return w.loss(lam[:k], X), (bar + bar.T) / 2

    def forward():
        return w.loss(*sla.eigh(w.A, subset_by_index=[0, w.k - 1]))

    return forward, gradient


def _products_ours(w):
    import jax
    import jax.numpy as jnp
    import lineax as lx

    import implicit_eig as ie

    jax.config.update("jax_enable_x64", True)
    lowest = spla.LinearOperator((w.n, w.n), w.product, dtype=float)
    solve = ie.eigensolver(
        lambda A: spla.eigsh(lowest, w.k, which="SA", v0=np.ones(w.n)), ie.Hermitian(w.k)
    )

    def apply(V):
        def product(v):
            u = jnp.pad(v.reshape(V.shape), 1)
            y = (V + 6 * w.c) * u[1:-1, 1:-1, 1:-1]
            y -= w.c * (u[2:, 1:-1, 1:-1] + u[:-2, 1:-1, 1:-1])
            y -= w.c * (u[1:-1, 2:, 1:-1] + u[1:-1, :-2, 1:-1])
            y -= w.c * (u[1:-1, 1:-1, 2:] + u[1:-1, 1:-1, :-2])
            return y.reshape(-1)

        return lx.FunctionLinearOperator(product, jax.ShapeDtypeStruct((w.n,), V.dtype))

    def loss(V):
        values, vectors = solve(apply(V))
        value = jnp.asarray(w.w) @ values
        return value + jnp.asarray(w.g) @ vectors[:, 0] ** 2 if w.vector else value

    f, g, V = jax.jit(loss), jax.jit(jax.value_and_grad(loss)), jnp.asarray(w.V)
    ready = jax.block_until_ready
    return lambda: ready(f(V)), lambda: ready(g(V))


def _products_by_hand(w):
    """ARPACK and Hellmann–Feynman; an eigenvector's adjoint by SciPy's MINRES."""
    A = spla.LinearOperator((w.n, w.n), w.product, dtype=float)

    def forward():
        lam, X = spla.eigsh(A, w.k, which="SA", v0=np.ones(w.n))
        value = w.w @ lam
        return lam, X, value + w.g @ X[:, 0] ** 2 if w.vector else value

    def gradient():
        lam, X, value = forward()
        bar = (X**2) @ w.w
        if w.vector:
            x_bar = 2 * w.g * X[:, 0]
            r = x_bar - X @ (X.T @ x_bar)
            shift = lambda v: w.product(v) - lam[0] * v + X @ (X.T @ v)
            z = spla.minres(spla.LinearOperator((w.n, w.n), shift), r, rtol=1e-11)[0]
            gap = lam[0] - lam[1:]
            z = -z + X[:, 1:] @ ((X[:, 1:].T @ x_bar) / gap)
            bar = bar + z * X[:, 0]
        return value, bar.reshape(w.V.shape)

    return lambda: forward()[2], gradient


def _bands(linear_solver=None, some=False, ours=True):
    """All eigenpairs of each matrix, or the lowest `w.k`, by `jnp.linalg.eigh`."""

    def make(w):
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", True)
        k = w.k if some else w.n

        def lowest(A):
            values, vectors = jnp.linalg.eigh(A)
            return values[:k], vectors[:, :k]

        solve = lowest
        if ours:
            import implicit_eig as ie

            options = {} if linear_solver is None else {"linear_solver": linear_solver(ie)}
            solve = ie.eigensolver(ie.traceable(lowest), ie.Hermitian(k), **options)

        def loss(A):
            values, vectors = solve(A)
            g = jnp.asarray(w.g)[:, :k]
            return jnp.sum(jnp.cos(values)) + jnp.sum(g * jnp.abs(vectors) ** 2)

        f = jax.jit(lambda A: jnp.sum(jax.vmap(loss)(A)))
        g = jax.jit(jax.value_and_grad(lambda A: jnp.sum(jax.vmap(loss)(A))))
        A, ready = jnp.asarray(w.A), jax.block_until_ready
        return lambda: ready(f(A)), lambda: ready(g(A))

    return make


W2 = {
    "bordered LU for each eigenpair, by hand": _bordered,
    "ours": _ours(lambda ie, k: ie.solvers.arpack(k, 0.0)),
    "ours, CHOLMOD": _ours(
        lambda ie, k: ie.solvers.arpack(k, 0.0, factorize=ie.Cholmod(mode="simplicial"))
    ),
    "ours, PARDISO": _ours(lambda ie, k: ie.solvers.arpack(k, 0.0, factorize=ie.Pardiso())),
    "ours, a black box": _ours(_black_box),
    "ours, SparseDirect": _ours(
        lambda ie, k: ie.solvers.arpack(k, 0.0), lambda ie: ie.SparseDirect()
    ),
    "one LU in CG, by hand": _conjugate_gradients(superlu),
    "one L D Lᵀ in CG, by hand": _conjugate_gradients(_Rslab),
    "eigd pgmres": _eigd("pgmres"),
    "eigd sibk": _eigd("sibk"),
    "eigd pcpg": _eigd("pcpg"),
    "jaxopt custom_root, own MINRES with LU": _jaxopt,
    "xitorch, own CG with LU": _xitorch_sparse,
}
W4 = {"jnp.linalg.eigh": _bands(ours=False), "ours": _bands()}
CONTESTANTS = {
    "W1": {
        "full spectrum, by hand": _dense_by_hand,
        "ours": _dense(_dense_ours(lambda ie: None)),
        "ours, LAPACK": _dense(_dense_ours(lambda ie: None, _lapack)),
        "ours, MINRES": _dense(_dense_ours(lambda ie: ie.MINRES())),
        "ours, LU a pair": _dense(_dense_ours(lambda ie: __import__("lineax").LU())),
        "jnp.linalg.eigh": _dense(_dense_jax),
        "torch.linalg.eigh": _torch(_torch_eigh),
        "xitorch exacteig": _torch(_xitorch),
        "matfree, 250 steps": _dense(_matfree),
        "legume eigsh": _legume,
    },
    "W2": W2,
    "W2 values": {"ours": _ours(lambda ie, k: ie.solvers.arpack(k, 0.0), vectors=False)},
    "W3": {"ARPACK, by hand": _products_by_hand, "ours": _products_ours},
    "W3 vector": {"ARPACK and MINRES, by hand": _products_by_hand, "ours": _products_ours},
    "W4": W4,
    "W4 small": W4,
    "W4 some": {
        "jnp.linalg.eigh": _bands(some=True, ours=False),
        "ours": _bands(some=True),
        "ours, MINRES": _bands(lambda ie: ie.MINRES(), some=True),
        "ours, ShiftInvert": _bands(lambda ie: ie.ShiftInvert(), some=True),
    },
    "W6": {
        "bordered LU for each eigenpair, by hand": _bordered,
        "ours": _ours(lambda ie, k: ie.solvers.arpack(k, 0.0)),
        "ours, no factorisation": _multigrid,
        "one LU in CG, by hand": _conjugate_gradients(superlu),
        "one L D Lᵀ in CG, by hand": _conjugate_gradients(_Rslab),
        "eigd sibk": _eigd("sibk"),
    },
    "W5": {
        "bordered LU for each eigenpair, by hand": _general(_bordered_general),
        "ours": _ours_general(lambda ie, w: ie.solvers.arpack_general(w.k, 0.0)),
        "ours, left eigenvectors": _ours_general(
            lambda ie, w: ie.solvers.arpack_general(w.k, 0.0, left=True)
        ),
        "ours, a black box": _ours_general(
            lambda ie, w: lambda A: nearest_zero(w, A, spla.splu(A.tocsc()))
        ),
        "one LU in GMRES, by hand": _general(_preconditioned_general),
        "SOLVAX, own GMRES with LU": _solvax,
    },
}
