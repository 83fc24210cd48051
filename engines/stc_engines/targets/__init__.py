"""One JSON file per target, read by :mod:`stc_engines.table`. Adding a device is adding a file."""
