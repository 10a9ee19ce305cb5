"""Policies: loading, sampling and scoring of language models."""

from lit_align.models.adapters import LoRA
from lit_align.models.language_model import LanguageModel
from lit_align.models.policy import Policy

__all__ = ["LanguageModel", "LoRA", "Policy"]
