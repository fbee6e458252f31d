"""What counts as rounding: how many eps, and of what.

A sum of n products is off by at most n eps of the sum of their moduli Σ|aᵢ||bᵢ|; by some √n eps,
as errors are of either sign, and by less where it is taken in blocks or pairwise, as BLAS and XLA
do.

Source: Higham (2002) Accuracy and Stability of Numerical Algorithms, SIAM, sections 2.8, 3.1, 4.2.
"""

# An inner product xᴴy, in eps of |x|ᵀ|y|.
INNER = 10.0
# An eigenvalue, in eps of |x|ᵀ|A − λB||x|: it is an inner product too.
VALUE = 10.0
# A product A x, in eps of a typical ‖A v‖, v random: this does not know which entries meet, hence
# √n for n = 10⁶. A residual below it tells nothing.
PRODUCT = 1e3
# Rounding leaves a residual of about eps ‖M‖‖u‖ of a linear system, times a modest factor. It
# excuses no more than this part of the right side, so that a singular system, where u is of size
# 1/eps, is not excused.
SOLVED = 1e-3
