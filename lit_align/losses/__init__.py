"""Pure loss functions: tensors in, one loss per prompt or pair out. Nothing here imports the rest of the package."""

from lit_align.losses.best_of_n import best_of_n_ratio, cumulative, log_best_of_n_ratio
from lit_align.losses.bond import best_of_n_weights, bond_rewards, jeffreys, quantiles
from lit_align.losses.dpo import dpo, robust_dpo
from lit_align.losses.inpo import inpo
from lit_align.losses.ipo import ipo
from lit_align.losses.jbond import jbond, jbond_advantages, jbond_penalty, leave_one_out
from lit_align.losses.nash_md import nash_md
from lit_align.losses.sppo import sppo, sppo_offset, sppo_regression
from lit_align.losses.wind import implied_win_rates, wind_kl, wind_nce, wind_squared

__all__ = [
    "best_of_n_ratio",
    "best_of_n_weights",
    "bond_rewards",
    "cumulative",
    "dpo",
    "implied_win_rates",
    "inpo",
    "ipo",
    "jbond",
    "jbond_advantages",
    "jbond_penalty",
    "jeffreys",
    "leave_one_out",
    "log_best_of_n_ratio",
    "nash_md",
    "quantiles",
    "robust_dpo",
    "sppo",
    "sppo_offset",
    "sppo_regression",
    "wind_kl",
    "wind_nce",
    "wind_squared",
]
