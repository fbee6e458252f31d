"""Check that a host solver returns the same eigenvectors for the same operators.

A program may call it twice: under `jax.checkpoint` once for the value and once more for the
derivative. A solver that starts at random can return −x where it returned x, and the cotangent of
the one goes back through the other with the wrong sign. Of all factors −1 alone passes unseen: any
other is a dependence on the gauge, which the check of the cotangent finds.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from .policy import Action, Objection, Policy, gauge_check

# Answers of one program that are remembered, k numbers each.
MOST = 10_000
# Two phases are opposite up to this fraction, which a loose solver does not exceed.
OPPOSITE = 1e-2


class Answers:
    """The answers of a host solver in one program; no part of it, hence equal to all others."""

    def __init__(self):
        self.seen: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answers)

    def __hash__(self) -> int:
        return hash(Answers)

    def accept(self, operators: Any, values: Any, vectors: Any, policy: Policy) -> bool:
        """Return whether the vectors, shape (..., n, k), have the signs that they had before.

        If they do not, raise or warn as `policy` says. False is for the caller to make NaN of
        them, where they may be: a forward check would object to NaN.
        """
        if policy.gauge is Action.IGNORE:
            return True
        digest = hashlib.blake2b()
        for array in jax.tree.leaves(operators):
            digest.update(np.ascontiguousarray(array).data)
        # components along a vector that no symmetry makes orthogonal to an eigenvector
        r = np.random.default_rng(0).standard_normal(vectors.shape[-2])
        with np.errstate(invalid="ignore"):  # of infinite values and NaN
            parts = r.astype(np.finfo(vectors.dtype).dtype) @ vectors
        now = np.stack([parts, values.astype(parts.dtype)])
        before = self.seen.setdefault(digest.digest(), now)
        while len(self.seen) > MOST:
            self.seen.popitem(last=False)
        turned = np.array(np.any(next(_turned(before, now)).found))
        if turned and not (policy.gauge is policy.forward is Action.NAN):
            gauge_check(policy, _turned)(turned, before, now)
            return True
        return not turned


def _turned(before: np.ndarray, now: np.ndarray) -> Iterator[Objection]:
    (part, value), (part_now, value_now) = before, now
    with np.errstate(invalid="ignore"):
        opposite = abs(part + part_now) < OPPOSITE * abs(part)
        same = abs(value - value_now) <= OPPOSITE * abs(value)

    def message(*indices: np.ndarray) -> str:
        return (
            "`eigensolver(solver=...)`: a deterministic solver; got one that returned the vector "
            f"of pair {indices[-1][0]} with the other sign when called again for the same "
            "operators. Under `jax.checkpoint` the derivative is then that of other vectors than "
            "the value is. Give the solver a fixed start (`v0=...` of SciPy's) or seed, or keep "
            "its first answer by `jax.checkpoint_policies.save_only_these_names('implicit_eig')`."
        )

    yield Objection(opposite & same, message)
