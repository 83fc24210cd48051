"""Split a checkpoint: read, trace, write weights, compare."""
