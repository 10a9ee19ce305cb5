"""What is said of comparisons that a judge has not made."""

import logging

import torch
from jaxtyping import Bool
from torch import Tensor

from lit_align.judges.base import Judge
from lit_align.judges.patience import JudgeError

log = logging.getLogger(__name__)


def tell_missing(judge: Judge, missing: int, total: int, where: str) -> None:
    """Say in one line how many comparisons are missing, and why the first is; nothing where none is.

    Args:
        judge: Who was asked.
        missing: Comparisons without an answer.
        total: All that it was asked about.
        where: What they were for, such as ``iteration 3``.
    """
    reason = judge.faults.take()
    if missing:
        because = f" ({reason})" if reason else ""
        log.warning("%s: judge %s left %d of %d comparisons missing%s", where, judge.name, missing, total, because)


def check_compared(judge: Judge, compared: Bool[Tensor, "batch group group"], where: str) -> None:
    """Tell what is missing of groups.

    Args:
        judge: Who was asked.
        compared: False where a comparison is missing.
        where: What they were for.

    Raises:
        JudgeError: All are: nothing can be learnt from the groups, and they can be judged again.
    """
    pairs = torch.ones(compared.shape[-2:], dtype=torch.bool).triu(1)
    made = compared.cpu()[:, pairs]
    total, missing = made.numel(), int((~made).sum())
    if total and missing == total:
        reason = judge.faults.take() or "it said of none which is better"
        raise JudgeError(f"{where}: judge {judge.name} made none of {total} comparisons: {reason}")
    if total:
        tell_missing(judge, missing, total, where)
