"""An iteration begins, collects, optimises, evaluates and checkpoints."""
