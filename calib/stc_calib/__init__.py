"""Calibration data, quantisation and policy tuning; for now the sample data that parity checks feed."""
