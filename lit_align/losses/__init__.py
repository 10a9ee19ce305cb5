"""Pure loss functions: tensors in, one loss per prompt or pair out. Nothing here imports the rest of the package."""

from lit_align.losses.aipo import aipo
from lit_align.losses.alpha_dpo import alpha_dpo
from lit_align.losses.best_of_n import best_of_n_ratio, cumulative, log_best_of_n_ratio
from lit_align.losses.bond import best_of_n_weights, bond_rewards, jeffreys, quantiles, sampled_bond_rewards
from lit_align.losses.chi_po import chi_po
from lit_align.losses.dpo import dpo, robust_dpo
from lit_align.losses.exo import exo, exo_pairwise
from lit_align.losses.inpo import inpo
from lit_align.losses.ipo import ipo, ipo_mean
from lit_align.losses.jbond import jbond, jbond_advantages, jbond_penalty, leave_one_out
from lit_align.losses.minor_dpo import minor_dpo
from lit_align.losses.mpo import mpo
from lit_align.losses.nash_md import nash_md
from lit_align.losses.orpo import orpo
from lit_align.losses.rpo import rpo, rpo_mean
from lit_align.losses.simpo import simpo
from lit_align.losses.sppo import sppo, sppo_offset, sppo_regression
from lit_align.losses.wind import implied_win_rates, wind_kl, wind_nce, wind_squared
from lit_align.losses.xpo import xpo

__all__ = [
    "aipo",
    "alpha_dpo",
    "best_of_n_ratio",
    "best_of_n_weights",
    "bond_rewards",
    "chi_po",
    "cumulative",
    "dpo",
    "exo",
    "exo_pairwise",
    "implied_win_rates",
    "inpo",
    "ipo",
    "ipo_mean",
    "jbond",
    "jbond_advantages",
    "jbond_penalty",
    "jeffreys",
    "leave_one_out",
    "log_best_of_n_ratio",
    "minor_dpo",
    "mpo",
    "nash_md",
    "orpo",
    "quantiles",
    "robust_dpo",
    "rpo",
    "rpo_mean",
    "sampled_bond_rewards",
    "simpo",
    "sppo",
    "sppo_offset",
    "sppo_regression",
    "wind_kl",
    "wind_nce",
    "wind_squared",
    "xpo",
]
