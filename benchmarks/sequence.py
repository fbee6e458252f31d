"""Measure an optimisation: fifty gradients of problems that differ little from step to step.

    python benchmarks/sequence.py --dimensions 3 --size 40
    python benchmarks/sequence.py --dimensions 2 --size 300 --only ours

The lowest frequency of a membrane (2-D) or a block (3-D) is to rise while the six lowest modes stay
away from a corner, by the material of each cell; the steps are those of projected gradients. Every
contestant runs the whole optimisation, in a process of its own, after one step that compiles and is
not counted. Gradients are compared along the path of the first contestant.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))

from workloads import Elements  # noqa: E402

PAIRS = 6


class Optimisation(Elements):
    """The workload with a loss of its own, and the steps that an optimiser takes."""

    def __init__(self, size, dimensions):
        super().__init__(size, PAIRS, dimensions)
        at = np.indices((size,) * dimensions).reshape(dimensions, -1)
        self.w = np.zeros(PAIRS)
        # relative to the frequency of a uniform material, with all weights of one size
        self.w[0] = -1 / (np.pi**2 * sum((1 + 0.2 * axis) ** -2 for axis in range(dimensions)))
        self.g = np.all(at < 0.4 * size, axis=0) * 0.5

    def step(self, p, gradient, t):
        """Move by at most 5 %, and less from step to step; 0.3 to 3 times the first material."""
        p = p - 0.05 * 0.96**t * gradient / np.max(np.abs(gradient))
        return np.clip(p, 0.3, 3.0)


def ours(lagged, solver=None):
    def make(w, factorize):
        import jax
        import jax.numpy as jnp

        import implicit_eig as ie

        jax.config.update("jax_enable_x64", True)
        rows, cols, shape = w.rows, w.cols, (w.n, w.n)
        weights, g = jnp.asarray(w.w), jnp.asarray(w.g)
        factorize = getattr(ie, factorize)()
        if solver == "arpack":
            method = ie.solvers.arpack(sigma=0.0, factorize=factorize)
        else:
            method = ie.solvers.lobpcg(preconditioner=ie.ShiftInvert(0.0, factorize))
        solve = ie.eigensolver(method, ie.Hermitian(w.k))

        def assemble(p):
            K = ie.SparseOperator(w.stiffness * p[w.cell], rows, cols, shape)
            return K, ie.SparseOperator(w.mass * (0.5 + 0.5 * p)[w.cell], rows, cols, shape)

        def loss(p, options):
            K, M = assemble(p)
            solution = solve(K, M, **options)
            values, X = solution
            return weights @ values + jnp.sum(g[:, None] * X**2), (solution, K, M)

        @jax.jit
        def gradient(p, options):
            found = jax.value_and_grad(loss, has_aux=True)(p, options)
            (value, (solution, K, M)), p_bar = found
            new = {}
            if solver != "arpack":
                new["start"] = solution
            if lagged:
                new["reuse"] = options["reuse"].after(solution, K, M)
            return value, p_bar, new, solution.stats.get("steps", jnp.array(0))

        options = {}
        if solver != "arpack":
            options["start"] = jax.jit(lambda p: solve(*assemble(p)))(jnp.asarray(w.p))
        if lagged:
            options["reuse"] = jax.jit(lambda p: ie.LaggedFactors(*assemble(p)))(jnp.asarray(w.p))

        def run(p, state):
            value, p_bar, state, steps = gradient(p, options if state is None else state)
            uses = int(state["reuse"].uses) if lagged else 0
            return float(value), np.asarray(p_bar), state, (int(steps), uses)

        return run

    return make


def by_hand(factors):
    """One factorisation for ARPACK and for projected conjugate gradients."""

    def make(w, _):
        import contestants

        factorise = getattr(contestants, factors)

        def run(p, state):
            K, M = w.assemble(p)
            made = factorise(K)
            lam, X = contestants.arpack(K, M, w.k, made.solve)
            Z = contestants.projected_cg(K, M, made, lam, X, -w.cotangents(lam, X)[1])
            return w.loss(lam, X), w.gradient(lam, X, Z), None, None

        return run

    return make


CONTESTANTS = {
    "one LU in CG, by hand": by_hand("superlu"),
    "one L D Lᵀ in CG, by hand": by_hand("_Rslab"),
    "ours, ARPACK, new factors": ours(False, "arpack"),
    "ours, LOBPCG, new factors": ours(False),
    "ours, LOBPCG, lagged factors": ours(True),
}


def work(options):
    """Run one contestant, and save its path and the gradients along it."""
    w = Optimisation(options.size, options.dimensions)
    run = CONTESTANTS[options.contestant](w, options.factorize)
    _, p_bar, state, _ = run(w.p, None)
    p, seconds, notes = w.p, 0.0, []
    if options.path:
        path = np.load(options.path)
    saved, points = [p_bar], [p]
    for t in range(options.steps):
        p = path[t] if options.path else w.step(p, p_bar, t)
        start = time.perf_counter()
        value, p_bar, state, note = run(p, state)
        seconds += time.perf_counter() - start
        notes.append(note)
        saved.append(p_bar)
        points.append(p)
    np.savez(options.save, p=points[1:], g=saved[1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "value": value, "notes": notes}))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dimensions", type=int, default=3)
    parser.add_argument("--size", type=int, default=40)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--factorize", default="Ldlt", help="Ldlt, SuperLU, Cholmod, Pardiso")
    parser.add_argument("--only", nargs="+", default=[], help="beginnings of names")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--save", help=argparse.SUPPRESS)
    parser.add_argument("--path", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        work(options)
        return
    names = [n for n in CONTESTANTS if not options.only or n.startswith(tuple(options.only))]
    given = ["--dimensions", options.dimensions, "--size", options.size, "--steps", options.steps]
    given += ["--factorize", options.factorize]
    print("| who | seconds | MB | error | value |")
    print("|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        exact = path = None
        for i, name in enumerate(names):
            save = f"{folder}/{i}.npz"
            command = [sys.executable, __file__, *map(str, given), "--contestant", name]
            command += ["--save", save, "--path", path or ""]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            figures = json.loads(done.stdout.splitlines()[-1])
            found = np.load(save)
            if exact is None:
                exact, path = found["g"], f"{folder}/path.npy"
                np.save(path, found["p"])
            errors = np.linalg.norm(found["g"] - exact, axis=1) / np.linalg.norm(exact, axis=1)
            print(
                f"| {name} | {figures['seconds']:.1f} | {figures['peak']:.0f} "
                f"| {np.max(errors):.0e} | {figures['value']:.6f} |",
                flush=True,
            )
            if "LOBPCG" in name:
                print("  steps and uses:", *(f"{s}/{u}" for s, u in figures["notes"]), flush=True)


if __name__ == "__main__":
    main()
