"""An enumeration takes the place of sampling: every response is there, with its probability as its weight."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.sampling.sampler import Report, Sampler
from lit_align.types import Prompts, Responses, masked_sum
from lit_align.utils.out_of_memory import Halving


@dataclass(frozen=True)
class Enumeration(Sampler):
    """Gives exact expectations in the place of samples: a group is every response, weighted by its probability.

    A loss that weighs its group then is the population's. Where the sources name several laws, the group has every
    response once for each. ``group_size`` does not matter.
    """

    @override
    def respond(
        self,
        policy: Any,
        prompts: Prompts,
        *,
        seed: int,
        iteration: int,
        sources: Sequence[str] | None = None,
        report: Report | None = None,
        halving: Halving | None = None,
        drawn: Callable[[Responses], None] | None = None,
    ) -> Responses:
        """Return all responses; an evaluation, which asks for sources of its own, draws as ever."""
        if sources is not None:
            options: dict[str, Any] = {"sources": sources, "report": report, "halving": halving, "drawn": drawn}
            return super().respond(policy, prompts, seed=seed, iteration=iteration, **options)
        if not self.decoding.is_policy:
            raise ValueError(
                "an Enumeration weighs by the policy itself: leave out model.sampler.temperature, top_k, top_p"
            )
        laws = dict.fromkeys(self.slots)
        parts = [policy.enumerate(prompts, self.decoding, source) for source in laws]
        whole = Responses(
            prompts=prompts,
            ids=torch.cat([part.ids for part in parts], dim=1),
            mask=torch.cat([part.mask for part in parts], dim=1),
            truncated=torch.cat([part.truncated for part in parts], dim=1),
            sample_logps=torch.cat([part.sample_logps for part in parts], dim=1),
        )
        if report is not None:
            report(len(prompts), 0)
        names = tuple(source for source, part in zip(laws, parts, strict=True) for _ in range(part.group_size))
        return replace(whole, source=names, iteration=iteration, seed=seed)

    @override
    def weights(self, responses: Responses) -> Float[Tensor, "batch group"] | None:
        if len(responses.source) == 1:
            return None  # drawn, for an evaluation
        return masked_sum(responses.sample_logps, responses.mask).exp()
