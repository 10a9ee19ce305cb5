"""An algorithm asks this of a policy: language models and exactly solvable policies both answer it."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lit_align.models.loading.frozen_update import Factors
from lit_align.models.sharding.cut import Shard
from lit_align.sampling.decoding import Decoding
from lit_align.types import Prompts, Record, Responses


class Policy(nn.Module, ABC):
    """A distribution over responses, with a frozen reference beside it."""

    dtype: torch.dtype = torch.float32
    """What the policy computes in."""

    additive: bool = True
    """Whether adding to the trainable weights adds the same to the network's. A policy of which that is not so, such as
    one of low-rank adapters, has ``factors`` and a ``frozen_update``."""

    sharded: bool = False
    """Whether each rank keeps a part of the weights only."""

    context_length: int
    """Longest prompt and response together, in tokens."""

    @property
    def identity(self) -> dict[str, str]:
        """What it is made of, by name, as short digests, before weights load; a run goes on with the same alone."""
        return {}

    @abstractmethod
    def encode(self, records: list[Record]) -> Prompts:
        """Records as prompts; needs no weights."""

    def encode_responses(self, prompts: Prompts, texts: list[list[str]], max_tokens: int) -> Responses:
        """Written responses as tokens, as the policy itself would have drawn them; needs no weights.

        Args:
            prompts: What they answer.
            texts: K responses to each prompt.
            max_tokens: Longest response, end-of-sequence included; a longer one is cut and marked truncated.

        Raises:
            ValueError: The policy does not read text.
        """
        del prompts, texts, max_tokens
        raise ValueError(f"{type(self).__name__} does not read text: written responses need a LanguageModel")

    def check(self) -> None:
        """Refuse what cannot be loaded as it is described, before any weights are."""

    @abstractmethod
    def load(self, device: torch.device | str = "cpu") -> None:
        """Load the weights. A second call does nothing."""

    def shard(self, cut: Shard) -> None:
        """Let each rank keep a part of the weights, loaded already or later. A second call does nothing.

        Raises:
            ValueError: They cannot be cut.
        """
        del cut
        raise ValueError(f"{type(self).__name__} cannot be sharded: set trainer.strategy to auto or ddp")

    def gathered(self) -> AbstractContextManager[None]:
        """A context in which sharded weights, reference included, are whole on every rank.

        Sampling and scoring there ask nothing of the other ranks. All ranks enter and leave together.
        """
        return nullcontext()

    @abstractmethod
    def sample(
        self, prompts: Prompts, uniforms: Float[Tensor, "batch group length"], decoding: Decoding, source: str
    ) -> Responses:
        """Draw one response for each row of uniforms, in eval mode, without gradients.

        Args:
            prompts: The prompts.
            uniforms: One number in [0, 1) a token.
            decoding: The sampling law.
            source: ``policy``, ``reference``, or ``mixture``: each token from their logits mixed, by
                ``decoding.mixture``.
        """

    def enumerate(self, prompts: Prompts, decoding: Decoding, source: str) -> Responses:
        """Every response there is, where they can be counted; ``sample_logps`` are their log-probs under the source.

        Raises:
            ValueError: There are too many.
        """
        del prompts, decoding, source
        raise ValueError(f"{type(self).__name__} has too many responses to enumerate: set model.sampler to a Sampler")

    @abstractmethod
    def logps(self, responses: Responses, source: str = "policy") -> Float[Tensor, "batch group length"]:
        """Log pi(y_t | x, y_<t) of every response token, float32, nats, 0 on padding.

        The policy's carry a gradient where gradients are on; the reference's never do.
        """

    def factors(self) -> dict[str, Factors]:
        """The trainable update of every adapted layer, as low-rank factors; none where training is of full weights."""
        return {}

    def set_frozen_update(self, update: dict[str, Factors]) -> None:
        """Add a frozen update to the adapted layers, in the place of the one before."""
        if update:
            raise ValueError(f"{type(self).__name__} has no adapters to add an update to")

    def frozen_update(self) -> dict[str, Factors]:
        """The frozen update: what a checkpoint holds beside the trainable weights."""
        return {}

    @abstractmethod
    def text(self, responses: Responses) -> list[list[str]]:
        """The responses as judges read them."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write the policy in a format that others read."""
