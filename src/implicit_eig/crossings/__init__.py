"""Where eigenvalues meet: one-sided derivatives, subgradients, identities of modes."""
