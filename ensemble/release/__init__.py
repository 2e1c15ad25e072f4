"""The ensemble of an evaluated run → one file to give away, with its card."""
