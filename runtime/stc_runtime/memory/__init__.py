"""What the LLM remembers: planner, KV buffers, rotary positions."""
