"""The linear solvers of the tangent and adjoint systems."""
