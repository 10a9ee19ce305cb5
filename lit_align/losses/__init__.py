"""Losses are pure functions: tensors in, one loss per prompt or pair out. They import nothing else of the package."""
