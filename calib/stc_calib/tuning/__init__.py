"""The search for a policy: what is tried, what is asked of it, and in which order clips are spent on it."""
