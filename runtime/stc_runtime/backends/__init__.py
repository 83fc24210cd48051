"""Backends: what executes the graphs of a bundle."""
