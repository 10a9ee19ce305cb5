"""A causal language model writes here: a cache of keys and values gives the logits of the next token."""
