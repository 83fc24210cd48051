"""Times the stages of a bundle against their dense baselines."""
