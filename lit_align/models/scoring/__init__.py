"""Log-probabilities of given responses under a causal language model."""
