"""Weights that are cut over several devices, and made whole again."""
