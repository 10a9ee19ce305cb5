"""The law that chi-PO ends at, in closed form but for its normaliser."""

import torch


def lambert(x):
    """W with W e^W = x > 0, by Newton's method on W + log W = log x, which is concave in W."""
    w = torch.where(x > 1, x.log().clamp(min=1.0), x)
    for _ in range(20):
        w = (w * (1 - w.log() + x.log()) / (1 + w)).clamp(min=1e-300)
    return w


def chi_squared_law(reference, rewards, beta):
    """The reference times W(exp((r - Z) / beta)), Z by bisection so that it sums to one."""
    low, high = rewards.min() - 5, rewards.max() + 5
    for _ in range(60):
        middle = (low + high) / 2
        too_much = (reference * lambert(((rewards - middle) / beta).exp())).sum() > 1
        low, high = (middle, high) if too_much else (low, middle)
    return reference * lambert(((rewards - middle) / beta).exp())
