"""Games are problems with a known answer: small response sets on which every quantity of the theory is exact.

The functions of this room share their arguments:

- A law (``policy``, ``anchor``, ``reference``, ...) holds the probability of each response, ``[..., Y]``.
- ``preference[..., y, z]`` is P(y beats z); a response beats its equal in half of all cases.
- ``dominance[..., y, z]`` is P(y is at least as good as z); a preference is a dominance too.
- ``rewards`` holds the finite reward of each response, ``[..., Y]``.

Leading dimensions broadcast, and results are float64. A function raises ValueError where an argument is not what it
should be, and the message names the argument and its first wrong entry.
"""

from lit_align import __getattr__ as __getattr__
from lit_align.games.acceleration import apo_coefficients, apo_tilt, extrapolate, tilt_bound
from lit_align.games.bond import best_of_n, bond_beta, bond_step, log_win_rate_equilibrium
from lit_align.games.equilibria import wind_equilibrium, wind_iterates
from lit_align.games.measures import exploitability, kl, sub_optimality, win_rate, win_rates
from lit_align.games.mixtures import geometric_mixture
from lit_align.games.preferences import (
    bradley_terry_preference,
    dominance,
    hard_preference,
    random_skew,
    rock_paper_scissors,
)
from lit_align.games.steps import OptimisticStep, dpo_step, inpo_step, nash_md_step, onpo_step, sppo_step, wind_step

__all__ = [
    "OptimisticStep",
    "apo_coefficients",
    "apo_tilt",
    "best_of_n",
    "bond_beta",
    "bond_step",
    "bradley_terry_preference",
    "dominance",
    "dpo_step",
    "exploitability",
    "extrapolate",
    "geometric_mixture",
    "hard_preference",
    "inpo_step",
    "kl",
    "log_win_rate_equilibrium",
    "nash_md_step",
    "onpo_step",
    "random_skew",
    "rock_paper_scissors",
    "sppo_step",
    "sub_optimality",
    "tilt_bound",
    "win_rate",
    "win_rates",
    "wind_equilibrium",
    "wind_iterates",
    "wind_step",
]
