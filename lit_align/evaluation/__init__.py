"""Measures of a policy are torchmetrics classes: they reduce over ranks and carry their uncertainty."""
