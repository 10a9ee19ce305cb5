"""Some rotary embeddings change their frequencies with the longest sequence of a pass: longrope, and dynamic NTK.

Up to a length that the config says, all sequences are read with the same frequencies. Beyond it, the rows of a batch
change one another, and a pass may leave its frequencies to the next: there, sequences are read one at a time, each
afresh.
"""

from typing import Any

import torch


def changes_at(config: Any) -> int | None:
    """Return the length from which the frequencies of a model depend on the sequence; None where they never do."""
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    context = getattr(text, "max_position_embeddings", None)
    lengths = []
    for law in (rope, *rope.values()):  # there may be one for each kind of layer
        kind = str(law.get("rope_type") or law.get("type")) if isinstance(law, dict) else ""
        if kind == "longrope":
            own = law.get("original_max_position_embeddings")
            lengths.append(own or getattr(text, "original_max_position_embeddings", None) or context)
        elif "dynamic" in kind:
            lengths.append(context)
    return min((int(length) for length in lengths if length), default=None)


@torch.no_grad()
def begin_afresh(model: Any) -> None:
    """Reset the frequencies to those of short sequences, whatever has been read before."""
    if changes_at(model.config) is not None:
        model(input_ids=torch.ones(1, 1, dtype=torch.long, device=model.device), use_cache=False)
