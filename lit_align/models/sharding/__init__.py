"""Weights are cut over several devices here, and made whole again."""
