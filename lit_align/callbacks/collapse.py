"""An alarm tells when a policy collapses: far from the reference, of another length, repetitive, or never ending.

[1] A. Beirami et al., "Theoretical guarantees on the best-of-n alignment policy", 2024, arXiv:2401.01879.
"""

import logging
from collections.abc import Iterator

import lightning as L
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from lit_align.iteration.iterated import iterated
from lit_align.utils.arguments import check_finite

log = logging.getLogger(__name__)


class CollapseAlarm(Callback):
    """Warns, once for each cause, when an iterate is beyond a limit; with ``stop``, ends the run there.

    It compares the metrics of the held-out evaluation with those of iteration 0. Without held-out prompts it takes
    those of the responses that were collected, which lack distinct-2. A limit of null is not watched. All are loose:
    what is beyond them is rarely what was wanted, and within them nothing is promised.

    Args:
        kl: Largest KL divergence to the reference, nats a response, > 0. The best of n draws of the reference is at
            most log n - (n - 1) / n away from it [1]: 20 nats are a choice among more than 10^9 draws, so beyond them a
            response is hardly one the reference would give. It adds up over tokens: allow long responses more.
        length: Largest factor by which the mean length may grow or shrink, > 1. Judges that like long answers are the
            commonest reward hack, and a doubled length its sign.
        diversity: Least share of the initial distinct-2 that is left, in (0, 1). Half of it gone means every second
            pair of tokens is one that was said before: a phrase that is repeated, within responses or over them.
        truncated: Largest rise of the share of responses cut at the length limit, in (0, 1): a policy that unlearns to
            end. A rise, since a tight limit cuts most of what the initial policy says; 0.25 is beyond the noise of 64
            prompts.
        stop: End the run after that iteration, its checkpoint written and its table printed.
    """

    def __init__(
        self,
        kl: float | None = 20.0,
        length: float | None = 2.0,
        diversity: float | None = 0.5,
        truncated: float | None = 0.25,
        stop: bool = False,
    ) -> None:
        check_finite("CollapseAlarm", {"kl": kl, "length": length})
        if kl is not None and kl <= 0:
            raise ValueError(f"CollapseAlarm.kl must be > 0, got {kl}")
        if length is not None and length <= 1:
            raise ValueError(f"CollapseAlarm.length must be > 1, got {length}")
        for name, value in (("diversity", diversity), ("truncated", truncated)):
            if value is not None and not 0 < value < 1:
                raise ValueError(f"CollapseAlarm.{name} must lie in (0, 1), got {value}")
        self.kl, self.length, self.diversity, self.truncated = kl, length, diversity, truncated
        self.stop = stop
        self.reasons: dict[str, str] = {}

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module = iterated(pl_module)
        now = {name: float(value) for name, value in trainer.callback_metrics.items()}
        new = self.look(int(module.iteration) + 1, module.history, now)
        if trainer.is_global_zero:
            for reason in new:
                log.warning("the policy may be collapsing: %s", reason)
        # Metrics are the same on all ranks, or nearly so: no rank may go on alone.
        if self.stop and trainer.strategy.reduce_boolean_decision(bool(new), all=False):
            trainer.should_stop = True

    def look(self, iteration: int, history: list[dict[str, float]], now: dict[str, float]) -> list[str]:
        """Return what is beyond its limit for the first time.

        Args:
            iteration: The one that ends.
            history: Metrics of the iterations before it, by name, the first one first.
            now: Its own metrics, by name.
        """
        prefix = "val/" if "val/length" in now else "train/"
        first = next((row for row in history if f"{prefix}length" in row), now)
        found = {
            cause: f"iteration {iteration}: {reason}"
            for cause, reason in self._causes(prefix, first, now)
            if cause not in self.reasons
        }
        self.reasons |= found
        return list(found.values())

    @override
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.stop and self.reasons and trainer.is_global_zero:
            print(f"stopped by the collapse alarm: {'; '.join(self.reasons.values())}")

    def _causes(self, prefix: str, first: dict[str, float], now: dict[str, float]) -> Iterator[tuple[str, str]]:
        """Give name and description of whatever is beyond its limit; nan is."""
        values = {name.removeprefix(prefix): value for name, value in now.items() if name.startswith(prefix)}
        start = {name.removeprefix(prefix): value for name, value in first.items() if name.startswith(prefix)}
        kl, length, distinct, cut = (values.get(name) for name in ("kl", "length", "distinct_2", "truncated"))
        if self.kl and kl is not None and not kl <= self.kl:
            yield "kl", f"KL to the reference is {kl:.1f} nats, limit {self.kl:g}"
        if self.length and length is not None and not 1 / self.length <= length / start["length"] <= self.length:
            said = f"{start['length']:.1f} -> {length:.1f} tokens"
            yield "length", f"mean length {said}, limit a factor of {self.length:g}"
        if self.diversity and distinct is not None and not distinct >= self.diversity * start["distinct_2"]:
            said = f"{start['distinct_2']:.3f} -> {distinct:.3f}"
            yield "diversity", f"distinct-2 {said}, limit {self.diversity:g} of what it was"
        if self.truncated and cut is not None and not cut <= start["truncated"] + self.truncated:
            said = f"{start['truncated']:.2f} -> {cut:.2f}"
            yield "truncated", f"share of responses cut at the length limit {said}, limit a rise of {self.truncated:g}"
