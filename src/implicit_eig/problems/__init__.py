"""The kinds of problem whose solution is differentiated, one per file."""
