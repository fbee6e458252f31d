"""Measure how the cost of the forward solve and of the gradient grows with n and with k.

    python benchmarks/growth.py

The problem is the finite-element one, W2, with eigenvalues and eigenvectors. The times (medians of
three, after a run that compiles) are printed with the slopes of straight lines fitted to their
logarithms.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np

GRIDS = [100, 180, 300, 450, 632]
PAIRS = [1, 4, 16, 64]


def measure(m, k):
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    from contestants import CONTESTANTS
    from workloads import Elements

    figures = []
    for run in CONTESTANTS["W2"]["ours"](Elements(m, k)):
        run()
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        figures.append(statistics.median(seconds))
    print(json.dumps(figures))


def table(title, cases, sizes):
    print(f"\n| {title} | forward s | what the gradient adds s |\n|---|---|---|")
    found = []
    for (m, k), size in zip(cases, sizes, strict=True):
        command = [sys.executable, __file__, str(m), str(k)]
        forward, both = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
        found.append((forward, both - forward))
        print(f"| {size} | {forward:.3f} | {both - forward:.3f} |", flush=True)
    slopes = [
        np.polyfit(np.log(sizes), np.log(column), 1)[0] for column in zip(*found, strict=True)
    ]
    print(f"| slope | {slopes[0]:.2f} | {slopes[1]:.2f} |")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(*map(int, sys.argv[1:]))
    else:
        table("n, 6 eigenpairs", [(m, 6) for m in GRIDS], [m * m for m in GRIDS])
        table("eigenpairs, n = 90,000", [(300, k) for k in PAIRS], PAIRS)
