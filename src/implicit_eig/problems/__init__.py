"""What the answer of a solver fulfils: one kind of problem per file."""
