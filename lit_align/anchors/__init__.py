"""Anchors: how pi_t becomes pi_{t+1}."""

from lit_align.anchors.previous import Anchor, Previous

__all__ = ["Anchor", "Previous"]
