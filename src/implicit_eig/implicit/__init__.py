"""The implicit function theorem, for any conditions."""
