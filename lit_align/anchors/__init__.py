"""Anchors say how pi_t becomes pi_{t+1}."""

from lit_align import __getattr__ as __getattr__  # public names of this room, as `lit_align` has them
