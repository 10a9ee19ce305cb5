"""The mean over a pair's label of a loss that is no function of a margin alone."""

from jaxtyping import Float
from torch import Tensor

from lit_align.losses.margins import Pair


def label_mean(if_chosen: Pair, if_rejected: Pair, preference: Float[Tensor, "*batch"] | float) -> Pair:
    r"""The loss a label would give, averaged over the label.

    .. math::
        p \, L(y_w, y_l) + (1-p) \, L(y_l, y_w)

    For a loss of the margin alone this is :func:`lit_align.losses.margins.expected_over_label`.

    Args:
        if_chosen: Loss if the chosen response won, in the loss's own unit.
        if_rejected: Loss if the rejected one did: the roles of the two exchanged.
        preference: p = P(chosen beats rejected) in [0, 1].

    Returns:
        Expected loss of each pair, in the same unit.

    Raises:
        ValueError: ``preference`` is a number outside [0, 1] (a tensor is not read, it may lie on a device).
    """
    if isinstance(preference, float) and not 0 <= preference <= 1:
        raise ValueError(f"preference must be in [0, 1], got {preference}")
    return preference * if_chosen + (1 - preference) * if_rejected
