"""The linearised conditions as linear systems."""
