"""Pure loss functions: tensors in, one loss per prompt or pair out. Nothing here imports the rest of the package."""
