"""What is checked of operators, pairs, solves and cotangents, and what happens then."""
