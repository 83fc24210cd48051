"""Backends: what executes the graphs of a bundle. :func:`stc_engines.open_backend` opens that of a bundle's target."""
