"""A win rate has an interval that respects ties and clusters."""

from lit_align.evaluation.estimates import Estimate
from lit_align.evaluation.intervals import rate_interval


class WinRate(Estimate):
    """Estimates the mean of P(policy beats opponent), with Wilson's interval for ties and clusters."""

    interval = staticmethod(rate_interval)
