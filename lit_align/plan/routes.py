"""Routes say which way a model is read and sampled: asked of what decides it in the run, of its config alone."""

from dataclasses import dataclass

from lit_align.models.generation.group_cache import can_share_prompts
from lit_align.models.language_model import LanguageModel
from lit_align.models.loading.sizes import model_config
from lit_align.models.scoring.ragged_attention import repeats_keys, takes_ragged_attention


@dataclass(frozen=True)
class Routes:
    """Holds the ways of one model on one kind of device."""

    unpadded: bool = True  # batches are read as a line of tokens; else as packed groups
    shares_prompts: bool = True  # A group's rows share the keys and values of their prompt while they are drawn
    repeats_keys: bool = False  # keys and values that several heads share are repeated for each of them


def routes_of(policy: LanguageModel, kind: str) -> Routes:
    """Return the routes of a policy on a ``kind`` of device, such as ``cpu``; nothing of it is loaded."""
    from transformers import DynamicCache

    config = model_config(policy)
    unpadded = takes_ragged_attention(config, policy.attention)
    shares = can_share_prompts(config, DynamicCache(config=config))
    return Routes(unpadded, shares, repeats_keys(kind))
