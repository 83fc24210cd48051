"""``stc-export calibrate``: a module for each of its modes, and a table of them."""
