"""Run the cases of many seeds, and print the verdicts by kind."""

import argparse
import collections
import os
import sys
import time

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)
os.environ["XLA_FLAGS"] = "--xla_cpu_parallel_codegen_split_count=1"

from . import estimates  # noqa: E402
from .cases import draw  # noqa: E402
from .memory import drop_programs  # noqa: E402
from .verdicts import BAD, judge  # noqa: E402


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="how many problems")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--kind", nargs="*", help="only these kinds")
    parser.add_argument("--all", action="store_true", help="print every verdict")
    parser.add_argument("--estimates", action="store_true", help="of errors, in place of verdicts")
    options = parser.parse_args()
    if options.estimates:
        return compare(options)
    table, began = collections.Counter(), time.time()
    for seed in range(options.start, options.start + options.count):
        case = draw(seed, options.kind)
        verdict = judge(case)
        drop_programs()
        table[case.kind, case.program.order, verdict.name] += 1
        if options.all or verdict.name in BAD:
            print(line(seed, case, verdict), flush=True)
    report(table)
    print(f"{options.count} problems in {time.time() - began:.0f} s")
    sys.exit(any(name in BAD for *_, name in table))


def compare(options):
    """Print how estimates of errors compare with the errors, of problems that have both."""
    pairs, seed = [], options.start
    while len(pairs) < options.count:
        case = draw(seed, options.kind)
        pair = estimates.pair(case)
        if pair is not None:
            pairs.append(pair)
            if options.all or not 1e-3 <= pair[0] / pair[1] <= 10:
                p, c = case.program, {name: c for name, c in case.c.items() if c}
                print(f"{seed} {p.kind} {p.dtype} k={p.k} {case.spectrum} {c}: {pair}", flush=True)
        seed += 1
    estimates.report(pairs)


def line(seed, case, verdict):
    p = case.program
    names = "+".join(f"{c:g} {name}" for name, c in case.c.items() if c)
    what = f"{p.kind} {p.dtype} k={p.k} {p.form}"
    what += (" pencil" if p.pencil else "") + (" left" if p.left else "")
    numbers = f"{verdict.got:.6g} for {verdict.truth:.6g} (error {verdict.error:.1e})"
    return (
        f"{seed} {verdict.name}: {what}, {case.spectrum}, {p.order} of {names}: {numbers} "
        f"{verdict.words[:160]}"
    )


def report(table):
    """Print how many there are of each verdict, by kind and derivative."""
    names = sorted({name for *_, name in table})
    print("kind         derivative " + " ".join(f"{name:>14}" for name in names))
    for kind, order in sorted({row[:2] for row in table}):
        cells = " ".join(f"{table[kind, order, name]:14d}" for name in names)
        print(f"{kind:12} {order:10} {cells}")
    print(
        f"{'all':23} "
        + " ".join(f"{sum(n for row, n in table.items() if row[2] == name):14d}" for name in names)
    )


if __name__ == "__main__":
    main()
