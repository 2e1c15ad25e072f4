"""Predictions of the test split → figures with intervals, mistakes, and the table of the result."""
