"""Calibration data, quantisation and policy tuning; runs on the export machine."""
