"""A policy is what an algorithm trains: language models and exactly solvable policies share this interface."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from datetime import date
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lit_align.models.loading.frozen_update import Factors
from lit_align.models.sharding.cut import Shard
from lit_align.sampling.decoding import Decoding
from lit_align.types import Prompts, Record, Responses, SpecialTokens
from lit_align.utils.arguments import note_arguments


class Policy(nn.Module, ABC):
    """Draws and scores responses, with a frozen reference beside it."""

    dtype: torch.dtype = torch.float32
    """The policy computes in this dtype."""

    additive: bool = True
    """Says whether adding to the trainable weights adds the same to the network's. It does not in a policy of low-rank
    adapters, which has ``factors`` and a ``frozen_update``."""

    sharded: bool = False
    """Says whether each rank keeps only a part of the weights."""

    context_length: int
    """A prompt and its response together have at most this number of tokens."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let a subclass note its arguments."""
        super().__init_subclass__(**kwargs)
        note_arguments(cls)

    @property
    def identity(self) -> dict[str, str]:
        """Return short digests of the policy's parts by name, before weights load; a run resumes only with the same."""
        return {}

    def begin_on(self, day: date) -> None:
        """Read prompts as on the day that the run began, where they depend on it."""
        del day

    def check(self) -> str | None:
        """Refuse what cannot work before any weights load; return one line to log as a run starts, or None."""
        return None

    @abstractmethod
    def encode(self, records: list[Record]) -> Prompts:
        """Tokenise records as prompts; this needs no weights."""

    def encode_responses(self, prompts: Prompts, texts: list[list[str]], max_tokens: int) -> Responses:
        """Tokenise written responses as the policy itself would have drawn them; this needs no weights.

        Args:
            prompts: The prompts that they answer.
            texts: K responses to each prompt.
            max_tokens: Longest response, end-of-sequence included; a longer one is cut and marked truncated.

        Raises:
            ValueError: The policy does not read text.
        """
        del prompts, texts, max_tokens
        raise ValueError(f"{type(self).__name__} does not read text: written responses need a LanguageModel")

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
        """Return a context in which sharded weights, those of the reference too, are whole on every rank.

        All ranks enter and leave it together; sampling and scoring inside need no other rank.
        """
        return nullcontext()

    @abstractmethod
    def sample(
        self,
        prompts: Prompts,
        uniforms: Float[Tensor, "batch group length"],
        decoding: Decoding,
        source: str,
        at_once: int = 0,
    ) -> Responses:
        """Draw one response for each row of uniforms, in eval mode, without gradients.

        Args:
            prompts: The prompts.
            uniforms: One number in [0, 1) a token.
            decoding: The sampling law.
            source: ``policy``, ``reference``, or ``mixture``: their logits are mixed by ``decoding.mixture``.
            at_once: Most prompts under way at once, 0 for all; it bounds memory and changes nothing that is drawn.
        """

    def enumerate(self, prompts: Prompts, decoding: Decoding, source: str) -> Responses:
        """Return every response there is; ``sample_logps`` are their log-probs under the source.

        Raises:
            ValueError: There are too many.
        """
        del prompts, decoding, source
        raise ValueError(f"{type(self).__name__} has too many responses to enumerate: set model.sampler to a Sampler")

    @abstractmethod
    def logps(self, responses: Responses, source: str = "policy") -> Float[Tensor, "batch group length"]:
        """Return log pi(y_t | x, y_<t) of every response token, whoever drew it: float32, nats, 0 on padding.

        The source is ``policy``, whose log-probs carry a gradient where gradients are on, or ``reference``.
        """

    def factors(self) -> dict[str, Factors]:
        """Return the trainable update of each adapted layer as low-rank factors; none where all weights train."""
        return {}

    def set_frozen_update(self, update: dict[str, Factors]) -> None:
        """Add a frozen update to the adapted layers, in place of the one before; the reference has none of it."""
        if update:
            raise ValueError(f"{type(self).__name__} has no adapters to add an update to")

    def frozen_update(self) -> dict[str, Factors]:
        """Return the frozen update, which a checkpoint holds beside the trainable weights."""
        return {}

    @abstractmethod
    def text(self, responses: Responses, special_tokens: SpecialTokens = "drop") -> list[list[str]]:
        """Return the responses as judges read them; special tokens inside them are kept or dropped."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write the policy in a format that other libraries read."""
