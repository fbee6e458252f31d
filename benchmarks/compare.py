"""Measure this package against its peers, on the same work in the same run.

    python benchmarks/compare.py W2 --size 300 --pairs 6
    python benchmarks/compare.py W2 --only ours eigd --python eigd=/path/to/its/environment/python

Each contestant has two processes of its own, for the forward solve and for value and gradient, and
they take turns: one run each, `--rounds` times, after one that is not counted. Times are medians;
memory is the peak of the process; the error is that of the gradient against the first contestant's,
computed by a direct method. A contestant whose packages are missing is left out, with a message.
Install them by `pip install -e ".[benchmarks]"`; `eigd` needs an environment of its own, with SciPy
1.14.1.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = pathlib.Path(__file__).parent
# Threads of BLAS wait actively for a while after a run, which would slow down the next contestant.
REST = 0.5


def workload(name, size, pairs):
    sys.path.insert(0, str(HERE))
    import workloads

    if name == "W1":
        return workloads.DenseSymmetric(size or 1000, pairs)
    if name.startswith("W2"):
        return workloads.Elements(size or 300, pairs)
    if name == "W6":
        return workloads.Elements(size or 39, pairs, dimensions=3)
    if name.startswith("W3"):
        return workloads.Schroedinger(size or 46, pairs, vector=name.endswith("vector"))
    if name == "W5":
        return workloads.ConvectionDiffusion(size or 200, pairs)
    if name == "W4 small":
        return workloads.Bands(size or 4096, n=8)
    return workloads.Bands(size or 512, k=pairs)


def work(options):
    """Serve one contestant: a line in, one run, a line out."""
    w = workload(options.workload, options.size, options.pairs)
    from contestants import CONTESTANTS

    forward, gradient = CONTESTANTS[options.workload][options.contestant](w)
    run = forward if options.mode == "forward" else gradient
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        answer = run()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if options.mode == "gradient" and line.strip() == "save":
            np.save(options.save, np.asarray(answer[1]))
        print(json.dumps({"seconds": seconds, "peak": peak}), flush=True)


class Worker:
    def __init__(self, options, contestant, mode, save):
        python = sys.executable
        for given in options.python:
            prefix, path = given.split("=", 1)
            if contestant.startswith(prefix):
                python = path
        command = [python, __file__, options.workload, "--contestant", contestant, "--mode", mode]
        command += ["--size", str(options.size), "--pairs", str(options.pairs), "--save", save]
        errors = None if os.environ.get("SHOW_ERRORS") else subprocess.DEVNULL
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True)
        self.seconds, self.peak, self.save = [], 0.0, save
        self.alive = self.process.stdout.readline().strip() == "ready"

    def run(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        self.alive = bool(line)
        return json.loads(line) if line else None

    def turn(self):
        time.sleep(REST)
        figures = self.run("run")
        if figures:
            self.seconds.append(figures["seconds"])
            self.peak = figures["peak"]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "workload",
        choices=[
            "W1",
            "W2",
            "W2 values",
            "W3",
            "W3 vector",
            "W4",
            "W4 small",
            "W4 some",
            "W5",
            "W6",
        ],
    )
    parser.add_argument("--size", type=int, default=0, help="n, grid, or batch; 0: the usual one")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[], help="names, or beginnings of names")
    parser.add_argument("--python", nargs="+", default=[], help="name=interpreter")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--mode", help=argparse.SUPPRESS)
    parser.add_argument("--save", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        work(options)
        return
    sys.path.insert(0, str(HERE))
    from contestants import CONTESTANTS

    names = list(CONTESTANTS[options.workload])
    chosen = [n for o in options.only for n in ([o] if o in names else names) if n.startswith(o)]
    names = [n for n in names if n in chosen or not options.only]
    with tempfile.TemporaryDirectory() as folder:
        workers = {}
        for i, name in enumerate(names):
            pair = [
                Worker(options, name, mode, f"{folder}/{i}.npy") for mode in ("forward", "gradient")
            ]
            # the first run compiles, and is not counted
            if all(w.alive and w.run("save") for w in pair):
                workers[name] = pair
            else:
                print(f"left out: {name} (its packages are missing, or it failed)")
        for _ in range(options.rounds):
            for pair in workers.values():
                for worker in pair:
                    worker.turn()
        report(workers)
        for pair in workers.values():
            for worker in pair:
                worker.process.stdin.close()
                worker.process.wait()


def report(workers):
    print("| who | forward s | value and gradient s | gradient / forward | MB | error |")
    print("|---|---|---|---|---|---|")
    exact = None
    for name, (forward, gradient) in workers.items():
        f, g = (statistics.median(w.seconds) for w in (forward, gradient))
        found = np.load(gradient.save)
        exact = found if exact is None else exact
        error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
        memory = f"{forward.peak:.0f}, {gradient.peak:.0f}"
        print(f"| {name} | {f:.3f} | {g:.3f} | {g / f - 1:.2f} | {memory} | {error:.0e} |")


if __name__ == "__main__":
    main()
