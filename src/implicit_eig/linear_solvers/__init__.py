"""How the tangent or adjoint system is solved."""
