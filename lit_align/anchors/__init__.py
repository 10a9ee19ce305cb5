"""Anchors: how pi_t becomes pi_{t+1}."""

from lit_align.anchors.base import Anchor
from lit_align.anchors.extrapolated import Extrapolated
from lit_align.anchors.moving_average import MovingAverage
from lit_align.anchors.optimistic import Optimistic
from lit_align.anchors.previous import Initial, Previous

__all__ = ["Anchor", "Extrapolated", "Initial", "MovingAverage", "Optimistic", "Previous"]
