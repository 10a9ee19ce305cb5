"""Every algorithm, with the loss it has to have; that of a new one stands in the law test of its loss."""

import math

import lit_align
from lit_align import MovingAverage, Previous
from tests.algorithms.case import BETA, BETA_ETA, PAIRS, Case
from tests.algorithms.formulas import (
    aipo,
    alpha_dpo,
    bond,
    chi_po,
    constant,
    exo,
    exo_pairwise,
    jbond,
    kl,
    log_2,
    logistic,
    minor_dpo,
    nash_md,
    nce,
    robust,
    sigmoid,
    simpo,
    softmax,
    sppo,
    square,
    wind,
)
from tests.declared import declared

ALGORITHMS = sorted(
    name for name, module in lit_align.HOME.items() if module.startswith("algorithms.") and name != "PairwiseModule"
)


TRIPLE = ("policy", "anchor", "anchor")
CASES = [
    *declared(Case),
    Case(
        "WIND",
        {"beta": 0.3, "eta": 2.0},
        wind(lambda p, w: (p - w) ** 2),
        lambda r, _: ((r.p - 0.5) / 2) ** 2,
        refused={"beta": [-0.1], "eta": [0.0]},
    ),
    Case(
        "WIND",
        {"beta": 0.3, "eta": 2.0, "risk": "kl"},
        wind(lambda p, w: -w * math.log(p) - (1 - w) * math.log(1 - p)),
        log_2,
    ),
    Case("WIND", {"beta": 0.3, "eta": 2.0, "risk": "nce"}, wind(nce), constant(2 * math.log(2))),
    Case("SPPO", {"beta": 0.4, **PAIRS}, sppo, lambda r, _: ((r.p - 0.5) / 0.4) ** 2, refused=BETA),
    Case(
        "DPO",
        {"beta": 0.2, "eps": 0.1, **PAIRS},
        lambda r, _: 0.9 * r.label(logistic(0.2), r.h_anchor) + 0.1 * r.label(logistic(0.2), -r.h_anchor),
        log_2,
        refused=BETA | {"eps": [-0.1, 0.5]},
    ),
    Case("RobustDPO", {"beta": 0.2, "eps": 0.1, **PAIRS}, lambda r, _: r.label(robust, r.h_anchor), log_2),
    Case(
        "INPO",
        {"eta": 0.5, "tau": 0.2, **PAIRS},
        lambda r, _: r.label(square(1.0), 0.4 * r.h + 0.6 * r.h_anchor),
        constant(1.0),
        refused={"tau": [-0.1, 1.0], "eta": [0.0]},
    ),
    Case("ONPO", {"eta": 3.0, **PAIRS}, lambda r, _: r.label(square(1.5), r.h_anchor), constant(2.25)),
    Case("NashMD", {"tau": 0.3}, nash_md, lambda r, _: -(r.p - 0.5) * r.policy[0], ("policy", "mixture")),
    Case("JBOND", {"beta": 0.4, "gamma": 0.2}, jbond, jbond, TRIPLE, lambda: MovingAverage(0.5)),
    Case(
        "IterativeBOND",
        {"n": 2, "beta": 0.4, "a1": 0.5, "a2": 0.2},
        bond,
        bond,
        TRIPLE,
        lambda: Previous(every=2),
        compares=False,
    ),
    Case("AcceleratedPO", {"beta": 0.2, **PAIRS}, lambda r, _: r.label(logistic(0.2), r.h_anchor), log_2),
    Case(
        "AcceleratedPO",
        {"objective": "ipo", "beta": 0.2, **PAIRS},
        lambda r, _: r.label(square(2.5), r.h_anchor),
        constant(6.25),
    ),
    Case(
        "AcceleratedPO",
        {"objective": "sppo", "beta": 0.4, **PAIRS},
        sppo,
        lambda r, _: ((r.p - 0.5) / 0.4) ** 2,
        refused=BETA,
    ),
    Case("IPO", {"tau": 0.2, **PAIRS}, lambda r, _: r.label(square(2.5), r.h), constant(6.25), refused={"tau": [0.0]}),
    Case(
        "IPO",
        {"tau": 0.2, "reduction": "mean", **PAIRS},
        lambda r, _: r.label(square(2.5), r.mean(r.policy) - r.mean(r.reference)),
        constant(6.25),
    ),
    Case("SimPO", {"beta": 2.0, "gamma": 0.7, **PAIRS}, simpo, simpo, refused=BETA | {"gamma": [-0.1]}),
    Case(
        "AlphaDPO",
        {"beta": 2.0, "gamma": 0.7, "alpha": 0.3, **PAIRS},
        alpha_dpo,
        simpo,
        refused=BETA | {"gamma": [-0.1], "alpha": [-0.1]},
    ),
    Case(
        "AIPO",
        {"beta": 0.2, "alpha": 0.3, "nll_weight": 0.4, **PAIRS},
        aipo,
        lambda r, _: r.label(logistic(-0.06), r.policy[0] - r.policy[1]) + 0.4 * r.mean_nll,
        refused=BETA | {"alpha": [-0.1], "nll_weight": [-0.1]},
    ),
    Case("MinorDPO", {"beta": 0.2, **PAIRS}, minor_dpo, log_2, refused=BETA),
    Case("ChiPO", {"beta": 0.2, "r_max": 0.05, **PAIRS}, chi_po, log_2, refused=BETA | {"r_max": [0.0]}),
    Case(
        "RPO",
        {"beta": 0.2, "eta": 0.3, **PAIRS},
        lambda r, _: r.label(logistic(0.2), r.h) + 0.06 * r.nll,
        lambda r, _: math.log(2) + 0.06 * r.nll,
        refused=BETA_ETA,
    ),
    Case(
        "RPO",
        {"beta": 0.2, "eta": 0.3, "supervised": "mean", **PAIRS},
        lambda r, _: r.label(logistic(0.2), r.h) + 0.3 * r.mean_nll,
        lambda r, _: math.log(2) + 0.3 * r.mean_nll,
    ),
    Case(
        "EXO",
        {"beta_policy": 0.5, "beta_reward": 0.8},
        exo,
        lambda r, _: kl([0.5, 0.5], softmax([x / 0.8 for x in r.rewards])),
        refused={"beta_policy": [0.0], "beta_reward": [0.0]},
        compares=False,
    ),
    Case(
        "EXOPairwise",
        {"beta": 0.2, "eps": 0.1, **PAIRS},
        exo_pairwise,
        constant(-0.5 * math.log(0.36)),
        refused=BETA | {"eps": [0.0, 0.5]},
    ),
    Case("MPO", PAIRS, mpo := lambda r, _: r.label(lambda d: -sigmoid(d), r.policy[0] - r.policy[1]), mpo),
    Case(
        "XPO",
        {"beta": 0.2, "alpha": 0.3},
        lambda r, _: r.label(logistic(0.2), r.h) + 0.3 * r.policy[1],
        lambda r, _: math.log(2) + 0.3 * r.policy[1],
        ("policy", "reference"),
        refused=BETA | {"alpha": [-0.1]},
    ),
]
