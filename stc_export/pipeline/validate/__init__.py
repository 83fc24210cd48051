"""Measures accuracy, fidelity and latency of many settings, and reports them."""
