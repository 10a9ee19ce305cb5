"""The sampler says how many responses are sampled, how long, from which law, and with which random numbers."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from itertools import chain
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from lit_align.sampling.decoding import Decoding
from lit_align.sampling.uniforms import token_uniforms
from lit_align.types import Prompts, Responses
from lit_align.utils.arguments import check_finite
from lit_align.utils.out_of_memory import Halving

log = logging.getLogger(__name__)

_RUN = 4  # so many micro-batches are sampled in one go: new prompts are read while the last responses end

Slot = Literal["policy", "anchor", "reference", "mixture"]
"""This policy samples a response; the mixture is the token-wise geometric one of policy and reference."""

Report = Callable[[int, int], None]
"""A report is called after every few micro-batches with (prompts done, tokens sampled), for progress bars."""


def sampling_in_halves() -> Halving:
    """Return what halves micro-batches of prompts when memory runs out, and remembers their size while it is kept."""
    return Halving(
        "sampling",
        "prompt",
        "lower model.sampler.group_size or model.sampler.max_new_tokens, or hold the weights in fewer bits with "
        "model.policy.dtype or model.policy.quantization",
    )


def prompts_within(token_budget: int, tokens: int) -> int:
    """Return how many prompts, with so many tokens in the group of each, fit the budget; at least one."""
    return max(1, token_budget // tokens)


@runtime_checkable
class Samples(Protocol):
    """A policy that can be sampled from has this method."""

    def sample(
        self,
        prompts: Prompts,
        uniforms: Float[Tensor, "batch group length"],
        decoding: Decoding,
        source: str,
        at_once: int = 0,
    ) -> Responses:
        """Sample one response for each row of uniforms, at most ``at_once`` prompts at a time (0 is all)."""


@dataclass(frozen=True)
class Sampler(Decoding):
    """Samples K responses to each prompt, in micro-batches of similar length under a token budget.

    Attributes:
        group_size: K, the number of responses per prompt, >= 1; algorithms that compare need at least 2.
        sources: Which policy samples each response of the group; it then sets ``group_size``. If empty, ``policy``
            samples them all.
        token_budget: Most tokens in one micro-batch of sampling or scoring, >= 1, counting prompt and longest response
            in all rows; it bounds memory, not the result. A micro-batch that runs out of memory is halved.
    """

    group_size: int = 8
    sources: tuple[Slot, ...] = ()
    _: KW_ONLY
    token_budget: int = 16_384

    def __post_init__(self) -> None:
        check_finite("model.sampler", vars(self))
        if self.sources:
            object.__setattr__(self, "group_size", len(self.sources))  # the dataclass is frozen
        if self.group_size < 1:
            raise ValueError(f"sampler.group_size must be >= 1, got {self.group_size}")
        if self.token_budget < 1:
            raise ValueError(f"sampler.token_budget must be >= 1, got {self.token_budget}")
        super().__post_init__()

    @property
    def decoding(self) -> Decoding:
        """Return the sampling law alone: responses sampled again from the same law are the same."""
        return Decoding(**{field.name: getattr(self, field.name) for field in fields(Decoding)})

    @property
    def slots(self) -> tuple[str, ...]:
        """Return which policy samples each response of the group."""
        return self.sources or ("policy",) * self.group_size

    def weights(self, responses: Responses) -> Float[Tensor, "batch group"] | None:
        """Return the probability of each response if all are enumerated; None for samples, which weigh the same."""
        del responses
        return None

    def warn_if_not_policy(self) -> None:
        """Warn that the responses are not samples from pi_t."""
        if not self.is_policy:
            log.warning(
                "sampling at temperature %s, top_k %s, top_p %s does not draw from the policy itself: laws that need "
                "responses from pi_t hold only approximately",
                self.temperature,
                self.top_k,
                self.top_p,
            )

    def respond(
        self,
        policy: Samples,
        prompts: Prompts,
        *,
        seed: int,
        iteration: int,
        sources: Sequence[str] | None = None,
        report: Report | None = None,
        halving: Halving | None = None,
        drawn: Callable[[Responses], None] | None = None,
    ) -> Responses:
        """Sample responses to all prompts, in the order of the prompts.

        Args:
            policy: Holds the policies that the sources name.
            prompts: Any number of prompts.
            seed: Seed of the random numbers.
            iteration: Part of the random numbers' key, so that every iteration samples afresh.
            sources: Takes the place of the sampler's own.
            report: Called with the progress after every few micro-batches.
            halving: Halves micro-batches when memory runs out, and remembers; by default it lasts for this call.
            drawn: Called with the responses of every few micro-batches, which a judge reads while the next are sampled.
        """
        slots = tuple(sources or self.slots)
        group = len(slots)
        order: list[int] = []
        parts: list[Responses] = []

        halving = halving or sampling_in_halves()

        def draw(rows: Sequence[int]) -> Responses:
            part = prompts.select(rows).trim()
            uniforms = token_uniforms(part.record_id, group, self.max_new_tokens, seed=seed, iteration=iteration)
            at_once = -(-self._fitting(part.ids.shape[1], group) // halving.parts)
            return self._draw(policy, part, uniforms, slots, at_once)

        for rows, part in halving.each(self._runs(prompts, group), draw):
            order += rows
            parts.append(part)
            if report is not None:
                report(len(rows), int(part.mask.sum()))
            if drawn is not None:
                drawn(part)
        joined = _join(prompts.select(order), parts).select(torch.argsort(torch.tensor(order)).tolist())
        return replace(joined, source=slots, iteration=iteration, seed=seed)

    def _draw(
        self, policy: Samples, prompts: Prompts, uniforms: Tensor, slots: tuple[str, ...], at_once: int
    ) -> Responses:
        # Every place in the group keeps its own random numbers, whichever policies sample the others.
        places = {source: [i for i, slot in enumerate(slots) if slot == source] for source in dict.fromkeys(slots)}
        drawn = [
            policy.sample(prompts, uniforms[:, at], self.decoding, source, at_once) for source, at in places.items()
        ]
        order = torch.argsort(torch.tensor([place for at in places.values() for place in at]))
        return _side_by_side(prompts, drawn, order)

    def _runs(self, prompts: Prompts, group: int) -> list[list[int]]:
        batches = self.micro_batches(prompts, group)
        return [list(chain(*batches[start : start + _RUN])) for start in range(0, len(batches), _RUN)]

    def _fitting(self, prompt: int, group: int) -> int:
        return prompts_within(self.token_budget, (prompt + self.max_new_tokens) * group)

    def micro_batches(self, prompts: Prompts, group: int) -> list[list[int]]:
        """Return rows of the prompts, shortest first, in micro-batches that fit the budget or have one prompt."""
        lengths = prompts.mask.sum(1)
        batches: list[list[int]] = [[]]
        for row in lengths.argsort(stable=True).tolist():
            tokens = (int(lengths[row]) + self.max_new_tokens) * group * (len(batches[-1]) + 1)
            if batches[-1] and tokens > self.token_budget:
                batches.append([])
            batches[-1].append(row)
        return batches


def _side_by_side(prompts: Prompts, parts: Sequence[Responses], order: Tensor) -> Responses:
    return Responses(
        prompts=prompts,
        ids=torch.cat([part.ids for part in parts], dim=1)[:, order],
        mask=torch.cat([part.mask for part in parts], dim=1)[:, order],
        truncated=torch.cat([part.truncated for part in parts], dim=1)[:, order],
        sample_logps=torch.cat([part.sample_logps for part in parts], dim=1)[:, order],
    )


def _join(prompts: Prompts, parts: Sequence[Responses]) -> Responses:
    """Return one batch from micro-batches, which are all as wide as the longest response allowed."""
    return Responses(
        prompts=prompts,
        ids=torch.cat([part.ids for part in parts]),
        mask=torch.cat([part.mask for part in parts]),
        truncated=torch.cat([part.truncated for part in parts]),
        sample_logps=torch.cat([part.sample_logps for part in parts]),
    )
