"""Weights and adapters are found, sized and loaded here."""
