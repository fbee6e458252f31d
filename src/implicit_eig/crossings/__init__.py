"""Where eigenvalues meet: one-sided derivatives, subgradients, and the tracking of modes."""
