"""A causal language model reads here: responses that are there get their log-probabilities."""
