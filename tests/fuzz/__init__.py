"""Random eigenproblems whose derivatives are known to a hundred digits, in search of wrong ones.

    python -m tests.fuzz --count 10000

Every problem is drawn from its own seed: a kind, a dtype, a spectrum (separated, near, repeated,
graded, defective, ...), a function of the eigenpairs, and a derivative. The package's number is
compared with that of `oracle`, and judged by `verdicts`. What must not be found is a wrong number
without a warning.
"""
