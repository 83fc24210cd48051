"""Calibration data, quantisation and policy tuning; for now rounding of weights, and pictures for parity checks."""
