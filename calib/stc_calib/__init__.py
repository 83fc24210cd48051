"""Calibration data, rounding and its scales, policy tuning, and pictures for parity checks."""
