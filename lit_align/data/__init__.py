"""Prompts in, minibatches of rollouts out."""
