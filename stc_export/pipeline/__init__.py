"""One module per command: a frozen request in, a frozen result out; knows nothing of terminals."""
