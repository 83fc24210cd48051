"""``calibrate``: what fits a bundle to a device and to data."""
