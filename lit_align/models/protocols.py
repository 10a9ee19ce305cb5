"""Sizing, exporting and the model card need no more of a language model than these protocols say.

A :class:`~lit_align.models.language_model.LanguageModel` fulfils them without naming them, so that the files that it
imports can read it without importing it.
"""

from typing import Any, Protocol, runtime_checkable

import torch

from lit_align.data.turns import Ends
from lit_align.models.loading.adapters import LoRA
from lit_align.types import Prompts, Record, Responses


@runtime_checkable
class DescribedModel(Protocol):
    """Describes a language model by its config: all of this is known before any weight is loaded."""

    @property
    def name(self) -> str:
        """Return the hub id, local folder, GGUF file, or ``pypi:`` name of the base."""

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the weights."""

    @property
    def hub(self) -> dict[str, Any]:
        """Return what else transformers needs to read the name, such as the revision of a hub id."""

    @property
    def lora(self) -> LoRA | None:
        """Return the adapters that train; None where all weights do."""

    @property
    def quantization(self) -> str | None:
        """Return how the base is quantised while it trains; None where it is not."""


@runtime_checkable
class ExportableModel(DescribedModel, Protocol):
    """Gives an export what it is written from: the tokenizer, and the base loaded afresh."""

    @property
    def tokenizer(self) -> Any:
        """Return the tokenizer of transformers; it needs no weights."""

    @property
    def ends(self) -> Ends:
        """Return the tokens that end an answer; no weights are needed to know them."""

    def base(self, **options: Any) -> Any:
        """Load the initial model afresh, with these options of transformers' ``from_pretrained``."""

    def encode(self, records: list[Record]) -> Prompts:
        """Tokenise records as prompts; this needs no weights."""

    def encode_responses(self, prompts: Prompts, texts: list[list[str]], max_tokens: int) -> Responses:
        """Tokenise written responses; this needs no weights."""
