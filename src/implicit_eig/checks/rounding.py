"""The size of rounding errors: how many eps, and relative to what.

A sum of n products is off by at most n eps of the sum of their moduli Σ|aᵢ||bᵢ|. As errors have
either sign, about √n eps is typical, and less where the sum is taken in blocks or pairwise, as BLAS
and XLA do.

Source: Higham (2002) Accuracy and Stability of Numerical Algorithms, SIAM, sections 2.8, 3.1, 4.2.
"""

# An inner product xᴴy, in eps of |x|ᵀ|y|.
INNER = 10.0
# An eigenvalue, in eps of |x|ᵀ|A − λB||x|, because it is an inner product too.
VALUE = 10.0
# A product A x, in eps of a typical ‖A v‖, v random. That does not show which entries are summed,
# hence √n for n = 10⁶. A residual below it carries no information.
PRODUCT = 1e3
# Rounding leaves a residual of about eps ‖M‖‖u‖ in a linear system, times a modest factor. It
# excuses at most this fraction of the right side, so that a singular system, where u is of size
# 1/eps, is not excused.
SOLVED = 1e-3
