"""Win rate with an interval that respects ties and clusters."""

from lit_align.evaluation.estimates import Estimate
from lit_align.evaluation.intervals import rate_interval


class WinRate(Estimate):
    """Mean P(policy beats opponent), with Wilson's interval for the design effect of ties and clusters.

    Comparisons with the same id of a cluster, such as those of one prompt, may be alike. A comparison that is missing
    is nan, and left out.
    """

    interval = staticmethod(rate_interval)
