"""Checks of operators, eigenpairs, solves and cotangents, and the consequences of a failure."""
