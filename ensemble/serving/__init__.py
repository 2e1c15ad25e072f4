"""The ensemble of a run behind HTTP: photographs in, verdicts out, on Ray Serve."""
