"""How much accuracy a policy costs: questions put to a bundle through the runtime, and what the answers prove."""
