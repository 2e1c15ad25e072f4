"""Training as people do it today, described by a TOML file, and comparing the members it makes."""
