"""Words, sizes, contracts and errors that every other package speaks; standard library only."""
