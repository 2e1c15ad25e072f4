"""A photograph and its tiles in a browser: what it is told, what it counts, and its files."""
