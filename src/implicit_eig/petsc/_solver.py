"""The differentiable solve: p -> matrices -> eigenpairs, and the pullback of a loss of them."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .._errors import EigensolverError, InputError
from ..checks.policy import DEFAULT_POLICY, Policy
from ..linear_solvers.factorizations import Shift, shift
from ..problems.general import General
from ..problems.hermitian import Hermitian
from ..solvers._slepc import Library, library
from ._adjoint import Adjoint
from ._checks import check_condition, check_cotangents, check_forward, check_residuals
from ._clusters import clusters, dual
from ._forward import Forward, Found
from ._function import function_of
from ._ranks import agree, inner, norms, summed, together
from ._state import Contraction, Pairs, matrices

# The required residual of adjoint systems, relative to their right sides.
RTOL = 1e-10
_numbers = itertools.count()

Pullback = Callable[..., Any]


class DistributedEigensolver:
    """Solve on all ranks, and pull cotangents back; made by `petsc.eigensolver`.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from implicit_eig import Hermitian, petsc
        >>> diagonal = petsc.Entries(lambda p: p, np.arange(4), np.arange(4), 4)
        >>> f = petsc.eigensolver(diagonal, Hermitian(1)).as_function()
        >>> jax.grad(lambda p: f(p)[0][0])(jnp.array([2.0, 3.0, 5.0, 1.0])).round(4).tolist()
        [0.0, 0.0, 0.0, 1.0]
    """

    def __init__(
        self,
        assemble: Callable[[Any], Any],
        problem: Hermitian | General,
        contract: Callable[[Any, Contraction], Any],
        sigma: Shift,
        options: tuple[dict[str, Any], dict[str, Any]],
        policy: Policy,
        replicated: bool,
        comm: Any,
        petsc: Library,
    ):
        self.assemble, self.problem, self.contract = assemble, problem, contract
        self.sigma, self.policy, self.replicated = sigma, policy, replicated
        self.petsc, self.comm = petsc, comm
        self.options, self.adjoint = options
        self.hermitian = isinstance(problem, Hermitian)

    def __call__(self, p: Any) -> tuple[Pairs, Pullback]:
        """Return the eigenpairs, and the function that pulls cotangents back to p.

        All ranks have to call it, and the pullback too.

        Args:
            p: the parameters, any pytree of arrays: the same on all ranks, or with
                `replicated=False` this rank's own.

        Returns:
            The pairs, and `pullback(values_bar=None, vectors_bar=None) -> p_bar`. The cotangents
            are those of dL = Re(Σ conj(values_bar) dλ) + Re(Σ conj(vectors_bar) dX): `values_bar`
            is the same on all ranks, shape (k,), and `vectors_bar` has the rows of this rank. For
            complex numbers that is the conjugate of what `jax.grad` returns. The gradient is
            summed over the ranks where p is replicated.

        Raises:
            InputError: ranks disagree about p, or the matrices do not fit.
            EigensolverError: SLEPc does not converge; a rank fails; or, under the policy, residuals
                are too large, or k cuts a cluster. On all ranks.
        """
        comm = self.comm.tompi4py()
        # what Python has released ends here, on all ranks at once
        self.petsc.PETSc.garbage_cleanup(self.comm)
        if self.replicated:
            agree(comm, "parameters", p, ", or pass `replicated=False` if each has its own")
        p = jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, p)
        A, B = together(comm, "matrices", lambda: self._fitting(*matrices(self.assemble(p))))
        prefix = f"implicit_eig_{next(_numbers)}_"
        forward = Forward(self.petsc, self.problem.k, self.sigma, self.hermitian, self.options)
        found = forward(A, B, prefix)
        passed = check_forward(self.policy, self.problem, found)
        passed = check_condition(self.policy, found, clusters(found)) and passed
        factor = 1.0 if passed else np.nan
        pairs = Pairs(
            found.lam * factor,
            found.X * factor,
            A.getOwnershipRange(),
            found.residuals,
            {"steps": found.steps},
        )

        # made once, because it may hold a preconditioner of its own
        rtol = RTOL if self.policy.linear_solve_rtol is None else self.policy.linear_solve_rtol
        adjoint = Adjoint(self.petsc, found, self.sigma, self.adjoint, f"{prefix}adjoint_", rtol)

        def pullback(values_bar: Any = None, vectors_bar: Any = None) -> Any:
            return self._pull(p, adjoint, passed, values_bar, vectors_bar)

        return pairs, pullback

    def as_function(self) -> Callable[[Any], tuple[jax.Array, jax.Array]]:
        """Return a JAX function of replicated p, with a gradient: the eigenvalues, and the rows.

        For optimisers that expect `jax.grad`. It has reverse mode alone, as `jax.custom_vjp` does,
        and all ranks have to call it in the same order. The gradient is that of a function of the
        eigenvalues, which all ranks have, and of a sum over the ranks of functions of their rows:
        leave the sum over the ranks out of what is differentiated.
        """
        if not self.replicated:
            raise InputError(
                "`as_function()`: parameters that are the same on all ranks; got "
                "`replicated=False`. Use the pullback that the solve returns."
            )
        return function_of(self)

    def _fitting(self, A: Any, B: Any = None) -> tuple[Any, Any]:
        named: Any = [("A", A)] if B is None else [("A", A), ("B", B)]
        for name, M in named:
            if not isinstance(M, self.petsc.PETSc.Mat):
                raise InputError(
                    f"`petsc.eigensolver(assemble=...)`: {name} as a petsc4py `Mat`; got "
                    f"{type(M).__name__}. Return A, or A and B."
                )
            if M.getComm().getSize() != self.comm.getSize():
                raise InputError(
                    f"`petsc.eigensolver(comm=...)`: the communicator of the matrices; got one of "
                    f"{self.comm.getSize()} ranks, and {name} on {M.getComm().getSize()}."
                )
            if M.getSize() != (A.getSize()[0],) * 2:
                raise InputError(
                    f"`petsc.eigensolver(assemble=...)`: square matrices of one size; got {name} "
                    f"of shape {M.getSize()}."
                )
        return A, B

    def _pull(
        self, p: Any, adjoint: Adjoint, passed: bool, values_bar: Any, vectors_bar: Any
    ) -> Any:
        comm, found = self.comm.tompi4py(), adjoint.found
        lam_bar, X_bar, single = together(
            comm, "cotangents", self._cotangents, found, values_bar, vectors_bar
        )
        agree(comm, "`values_bar`", lam_bar)
        inside = inner(comm, found.X, X_bar)
        sizes = norms(comm, X_bar) * norms(comm, found.X)
        equal = clusters(found)
        figures = equal, lam_bar, inside, sizes, single
        passed = check_cotangents(self.policy, found, *figures) and passed
        known = found.BX @ inside if self.hermitian else found.X * np.diagonal(inside)
        Z, solves = adjoint.solve(known - X_bar)
        # also where only some ranks have a monitor
        tell = self.policy.monitor or (lambda report: None)
        together(comm, "a monitor", tell, solves.report())
        passed = check_residuals(self.policy, solves, adjoint.rtol) and passed
        W, V = self._weights(found, equal, Z, lam_bar, inside)
        template = found.A.createVecRight()
        factor = 1.0 if passed else np.nan
        given = Contraction(
            comm, self.petsc.PETSc, template, found.lam, found.X, W * factor, V * factor
        )
        p_bar = together(comm, "a contraction", self.contract, p, given)
        template.destroy()
        return summed(comm, p_bar) if self.replicated else p_bar

    def _cotangents(
        self, found: Found, values_bar: Any, vectors_bar: Any
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """Return the cotangents, checked, and whether any is of single precision."""
        found.unchanged()
        out, single = [], False
        for name, bar, like in (
            ("values_bar", values_bar, found.lam),
            ("vectors_bar", vectors_bar, found.X),
        ):
            array: Any = np.zeros_like(like) if bar is None else np.asarray(bar)
            if array.shape != like.shape:
                raise InputError(
                    f"`pullback({name}=...)`: an array of shape {like.shape}, on this rank; got "
                    f"{array.shape}. Cotangents have the shapes of `pairs`."
                )
            single |= np.finfo(np.result_type(array.dtype, np.float16)).bits < 64
            if np.iscomplexobj(array) and not np.iscomplexobj(like):
                array = array.real
            out.append(array.astype(like.dtype))
        return out[0], out[1], single

    def _weights(
        self,
        found: Found,
        equal: np.ndarray,
        Z: np.ndarray,
        lam_bar: np.ndarray,
        inside: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return W and V, of which the gradient is made; see `_adjoint`."""
        lam, X = found.lam, found.X
        if not self.hermitian:
            left = dual(found, equal)
            if left is None:
                raise EigensolverError(
                    "`petsc.eigensolver(problem=General(...))`: eigenvalues that are not "
                    "defective; got left and right eigenvectors of a cluster that are orthogonal. "
                    "Such eigenvalues have no derivative."
                )
            W = Z + left * lam_bar
            return W, -lam.conj() * W
        gap = lam[None, :] - lam[:, None]
        others = np.where(equal, 0, inside / np.where(equal, 1, gap))
        W = X * lam_bar + Z + X @ others
        return W, -lam * W - X @ np.where(equal, inside, 0) / 2


def eigensolver(
    assemble: Callable[[Any], Any],
    problem: Hermitian | General,
    *,
    contract: Callable[[Any, Contraction], Any] | None = None,
    sigma: Shift = 0.0,
    options: dict[str, Any] | None = None,
    adjoint: dict[str, Any] | None = None,
    policy: Policy = DEFAULT_POLICY,
    replicated: bool = True,
    comm: Any = None,
) -> DistributedEigensolver:
    """Make a differentiable solver of eigenproblems whose matrices are spread over MPI ranks.

    Args:
        assemble: p -> A, or A and B: petsc4py's `Mat`s on all ranks, such as those that Firedrake
            and dolfinx assemble, or an `Entries`.
        problem: `Hermitian(k)`, B then positive definite, or `General(k)`.
        contract: (p, `Contraction`) -> this rank's part of the gradient,
            Σᵢ Re wᵢᴴ (∂A/∂p) xᵢ + Re vᵢᴴ (∂B/∂p) xᵢ; an `Entries` has one of its own.
        sigma: the shift; the eigenvalues nearest to it are found. Unit: that of the eigenvalues.
        options: of SLEPc and PETSc for the forward solve, by their names without the dash, such as
            `{"eps_ncv": 60, "st_ksp_type": "gmres", "st_pc_type": "hypre"}`.
        adjoint: of the KSP of the adjoint systems, such as `{"pc_type": "gamg"}`, which then
            preconditions them in place of the forward solve's factors.
        policy: what follows from a failed check. A residual of an adjoint system may be 1e-10 of
            the right side beyond rounding, unless `Policy(linear_solve_rtol=...)` says otherwise.
            Each rank calls its own `monitor`, if it has one.
        replicated: whether p is the same on all ranks, and gradients are summed over them.
        comm: the communicator of the matrices, `None` for all ranks.

    Returns:
        A `DistributedEigensolver`: `pairs, pullback = solve(p)`.

    Raises:
        InputError: petsc4py or slepc4py is not installed, or was built for real numbers where
            the problem needs complex ones; or there is no `contract`.

    Cost: one factorisation by MUMPS with the usual options; for each eigenpair with a cotangent of
        its vector an adjoint solve with the same factors, of some ten steps.
    Source: Hernandez, Roman & Vidal (2005) ACM Trans. Math. Softw. 31, 351,
        doi:10.1145/1089014.1089019, for SLEPc; `petsc._adjoint` for the rest.

    Examples:
        >>> import numpy as np
        >>> from implicit_eig import General, InputError
        >>> from implicit_eig.petsc import eigensolver
        >>> try:
        ...     eigensolver(lambda p: p, General(1))
        ... except InputError as error:
        ...     print(str(error).split(";")[0])
        `petsc.eigensolver(contract=...)`: a function for the gradient, or an `Entries`
    """
    petsc = library("petsc.eigensolver(...)")
    contract = getattr(assemble, "contract", None) if contract is None else contract
    if contract is None:
        raise InputError(
            "`petsc.eigensolver(contract=...)`: a function for the gradient, or an `Entries`; got "
            "neither. Give `contract(p, pairs)`, or assemble by `petsc.Entries`."
        )
    if not isinstance(problem, (Hermitian, General)):
        raise InputError(
            f"`petsc.eigensolver(problem=...)`: `Hermitian(k)` or `General(k)`; got {problem!r}. "
            "Gather other problems on one process, and use `ie.eigensolver`."
        )
    sigma = shift(sigma) or 0.0
    if not petsc.is_complex and (isinstance(problem, General) or isinstance(sigma, complex)):
        raise InputError(
            "`petsc.eigensolver(...)`: PETSc with complex numbers, for a complex shift or for "
            "`General`; got a build for real ones. Install `dolfinx-solver-complex`."
        )
    strip = lambda given: {name.removeprefix("-"): value for name, value in (given or {}).items()}  # noqa: E731
    both = strip(options), strip(adjoint)
    comm = getattr(assemble, "comm", petsc.PETSc.COMM_WORLD) if comm is None else comm
    comm = petsc.PETSc.Comm(comm)
    return DistributedEigensolver(
        assemble, problem, contract, sigma, both, policy, replicated, comm, petsc
    )
