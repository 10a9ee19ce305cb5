"""Next tokens of a causal language model, with a cache of keys and values."""
