"""Measures of a policy, each a torchmetrics class: they reduce over ranks and carry their uncertainty."""
