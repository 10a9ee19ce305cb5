"""The sampler of a run: how many responses, how long, from which law, and with which random numbers."""

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

_RUN = 4  # micro-batches whose last responses, when few rows are left, are waited for together

Slot = Literal["policy", "anchor", "reference", "mixture"]
"""Who draws a response: the policy, the iterate it starts from, the initial policy, or the token-wise geometric mixture
of policy and reference."""

Report = Callable[[int, int], None]
"""Called after every few micro-batches with (prompts done, tokens drawn): what progress bars listen to."""


def sampling_in_halves() -> Halving:
    """Micro-batches of prompts that are halved where memory runs out; one that is kept remembers how small they are."""
    return Halving(
        "sampling",
        "prompt",
        "lower model.sampler.group_size or model.sampler.max_new_tokens, or hold the weights in fewer bits with "
        "model.policy.dtype or model.policy.quantization",
    )


def prompts_within(token_budget: int, tokens: int) -> int:
    """How many prompts, with so many tokens in each one's group, fit the budget; at least one."""
    return max(1, token_budget // tokens)


@runtime_checkable
class Samples(Protocol):
    """The part of a policy that the sampler needs."""

    def sample(
        self,
        prompts: Prompts,
        uniforms: Float[Tensor, "batch group length"],
        decoding: Decoding,
        source: str,
        at_once: int = 0,
    ) -> Responses:
        """Draw one response for each row of uniforms, with at most so many prompts under way at once."""


@dataclass(frozen=True)
class Sampler(Decoding):
    """Draws K responses to each prompt, in micro-batches of similar length under a token budget.

    The law that it draws from is that of :class:`~lit_align.sampling.decoding.Decoding`, with the same settings.

    Attributes:
        group_size: K, responses per prompt, >= 1; algorithms that compare need at least 2.
        sources: Who draws each response of a group, one entry a slot; it then sets ``group_size``. Empty: the policy
            draws them all.
        token_budget: Most tokens (prompt and longest response, over all rows) in one micro-batch of sampling or
            scoring; bounds memory, does not change what is drawn. A micro-batch that runs out of memory is halved.

    Raises:
        ValueError: An argument is out of its range.
    """

    group_size: int = 8
    sources: tuple[Slot, ...] = ()
    _: KW_ONLY
    token_budget: int = 16_384

    def __post_init__(self) -> None:
        """Refuse values that have no meaning."""
        check_finite("model.sampler", vars(self))
        if self.sources:
            object.__setattr__(self, "group_size", len(self.sources))  # frozen, but not yet made
        if self.group_size < 1:
            raise ValueError(f"sampler.group_size must be >= 1, got {self.group_size}")
        if self.token_budget < 1:
            raise ValueError(f"sampler.token_budget must be >= 1, got {self.token_budget}")
        super().__post_init__()

    @property
    def decoding(self) -> Decoding:
        """The law alone, which says whether responses would be the same if they were drawn again."""
        return Decoding(**{field.name: getattr(self, field.name) for field in fields(Decoding)})

    @property
    def slots(self) -> tuple[str, ...]:
        """Who draws each response of a group."""
        return self.sources or ("policy",) * self.group_size

    def weights(self, responses: Responses) -> Float[Tensor, "batch group"] | None:
        """Probability of each response where all are enumerated; None for draws, which weigh the same."""
        del responses
        return None

    def warn_if_not_policy(self) -> None:
        """Say once that the responses are not draws from pi_t."""
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
        """Responses to all prompts, in the order of the prompts.

        Args:
            policy: What draws them.
            prompts: Any number of prompts.
            seed: Seed of the random numbers.
            iteration: Part of the random numbers' key, so iterations draw afresh.
            sources: Who draws each slot, instead of the sampler's own.
            report: Told of progress after every few micro-batches.
            halving: Halves micro-batches where memory runs out, and remembers; one of this call's own by default.
            drawn: Given the responses of every few micro-batches, while the next are drawn.
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
        """One micro-batch; a slot keeps its own random numbers whoever draws the others."""
        places = {source: [i for i, slot in enumerate(slots) if slot == source] for source in dict.fromkeys(slots)}
        drawn = [
            policy.sample(prompts, uniforms[:, at], self.decoding, source, at_once) for source, at in places.items()
        ]
        order = torch.argsort(torch.tensor([place for at in places.values() for place in at]))
        return _side_by_side(prompts, drawn, order)

    def _runs(self, prompts: Prompts, group: int) -> list[list[int]]:
        """Rows of the prompts for several micro-batches: drawn in one go, the next begun where responses have ended."""
        batches = self.micro_batches(prompts, group)
        return [list(chain(*batches[start : start + _RUN])) for start in range(0, len(batches), _RUN)]

    def _fitting(self, prompt: int, group: int) -> int:
        """How many prompts of this length fit the budget; at least one."""
        return prompts_within(self.token_budget, (prompt + self.max_new_tokens) * group)

    def micro_batches(self, prompts: Prompts, group: int) -> list[list[int]]:
        """Rows of the prompts, shortest first, in runs that fit the budget; at least one prompt each."""
        lengths = prompts.mask.sum(1)
        batches: list[list[int]] = [[]]
        for row in lengths.argsort(stable=True).tolist():
            tokens = (int(lengths[row]) + self.max_new_tokens) * group * (len(batches[-1]) + 1)
            if batches[-1] and tokens > self.token_budget:
                batches.append([])
            batches[-1].append(row)
        return batches


def _side_by_side(prompts: Prompts, parts: Sequence[Responses], order: Tensor) -> Responses:
    """One group from parts of it."""
    return Responses(
        prompts=prompts,
        ids=torch.cat([part.ids for part in parts], dim=1)[:, order],
        mask=torch.cat([part.mask for part in parts], dim=1)[:, order],
        truncated=torch.cat([part.truncated for part in parts], dim=1)[:, order],
        sample_logps=torch.cat([part.sample_logps for part in parts], dim=1)[:, order],
    )


def _join(prompts: Prompts, parts: Sequence[Responses]) -> Responses:
    """One batch from micro-batches; every part is as wide as the longest response allowed."""
    return Responses(
        prompts=prompts,
        ids=torch.cat([part.ids for part in parts]),
        mask=torch.cat([part.mask for part in parts]),
        truncated=torch.cat([part.truncated for part in parts]),
        sample_logps=torch.cat([part.sample_logps for part in parts]),
    )
