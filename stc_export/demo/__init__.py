"""The demo model: its sizes, tokenizer, weights and checkpoint."""
