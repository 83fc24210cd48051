"""What the commands do, one module each, without a command line."""
