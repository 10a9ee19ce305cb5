"""Pure loss functions: tensors in, one loss per prompt or pair out. Nothing here imports the rest of the package."""

from lit_align.losses.wind import implied_win_rates, wind_kl, wind_nce, wind_squared

__all__ = ["implied_win_rates", "wind_kl", "wind_nce", "wind_squared"]
