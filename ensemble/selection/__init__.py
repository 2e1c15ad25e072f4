"""Choosing an ensemble on the validation split: members, weights, temperature and threshold."""
