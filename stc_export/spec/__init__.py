"""What both sides share: sizes, manifest, policy, errors, progress. Standard library only."""
