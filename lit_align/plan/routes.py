"""Routes say which way a model is read and sampled: asked of what decides it in the run, of its config alone."""

from dataclasses import dataclass

from lit_align.compat import has_plain_layers
from lit_align.models.language_model import LanguageModel
from lit_align.models.loading.sizes import model_config
from lit_align.models.proof.ways import ways_of
from lit_align.models.scoring.ragged_attention import repeats_keys


@dataclass(frozen=True)
class Routes:
    """Holds the ways of one model on one kind of device."""

    unpadded: bool = True  # batches are read as a line of tokens; else in padded rows
    shares_prompts: bool = True  # A group's rows share the keys and values of their prompt while they are drawn
    repeats_keys: bool = False  # keys and values that several heads share are repeated for each of them


def routes_of(policy: LanguageModel, kind: str) -> Routes:
    """Return the routes of a policy on a ``kind`` of device, such as ``cpu``; nothing of it is loaded."""
    from transformers import DynamicCache

    config = model_config(policy)
    ways = ways_of(config, policy.attention, policy.name, policy.hub["trust_remote_code"])
    shares = ways.sampling == "grouped" and has_plain_layers(DynamicCache(config=config))
    return Routes(ways.scoring == "line", shares, repeats_keys(kind))
