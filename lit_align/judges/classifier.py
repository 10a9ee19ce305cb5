"""A sequence classifier reads its score at the last token that is not its padding, and tells padding by the token's id.

A row's own tokens may be of that id: a checkpoint that pads with the end of sequence reads one token before the end.
Rows are therefore padded on the right with the checkpoint's own padding. One that has none reads the last token of a
row, and gets a padding of its own for the time of a pass, which ends no row of it.
"""

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Row = dict[str, list[int]]
"""A tokenizer makes it of one text or pair: ``input_ids``, ``attention_mask``, and for some ``token_type_ids``."""


class Classifier:
    """Scores rows of tokens together or alone.

    Args:
        model: An ``AutoModelForSequenceClassification`` of one label, in eval mode.

    Attributes:
        longest_batched: Tokens up to which the rows of a pass do not change one another's rotary frequencies.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.longest_batched = _longest_of_one_frequency(model)
        self._vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self._takes = inspect.signature(model.forward).parameters
        self._segments = _segments(model) if "token_type_ids" in self._takes else 0

    def alone(self, row: Row) -> float:
        """Return the score of one row, from a plain pass without padding."""
        return float(self._logits([row], padding=0)[0])

    def together(self, rows: Sequence[Row]) -> Float[Tensor, " rows"]:
        """Return the scores of several rows, padded to the longest."""
        padding = self._config.pad_token_id
        if padding is not None and 0 <= padding < self._vocabulary:
            return self._logits(rows, padding)
        ends = {row["input_ids"][-1] for row in rows}
        padding = next((token for token in range(self._vocabulary) if token not in ends), None)
        if padding is None:
            return torch.tensor([self.alone(row) for row in rows])
        with self._padding(padding):
            return self._logits(rows, padding)

    @property
    def _config(self) -> Any:
        """Return the part of the config that the head reads."""
        return self.model.config.get_text_config()

    @contextmanager
    def _padding(self, token: int) -> Iterator[None]:
        config, own = self._config, self._config.pad_token_id
        config.pad_token_id = token
        try:
            yield
        finally:
            config.pad_token_id = own

    @torch.no_grad()
    def _logits(self, rows: Sequence[Row], padding: int) -> Float[Tensor, " rows"]:
        _forget_lengths(self.model)
        device = next(self.model.parameters()).device
        inputs = {"input_ids": _padded([row["input_ids"] for row in rows], padding)}
        inputs["attention_mask"] = _padded([[1] * len(row["input_ids"]) for row in rows], 0)
        segments = [row.get("token_type_ids") or [0] * len(row["input_ids"]) for row in rows]
        if max(map(max, segments)) < self._segments:
            inputs["token_type_ids"] = _padded(segments, 0)
        logits: Tensor = self.model(**{name: value.to(device) for name, value in inputs.items()}).logits
        return logits[:, 0].float().cpu()


def _padded(rows: Sequence[list[int]], padding: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [padding] * (width - len(row)) for row in rows])


def _segments(model: nn.Module) -> float:
    """Return how many kinds of segments, such as prompt and response, a network has weights for.

    Other networks, such as GPT-2, look segments up among the words.
    """
    weights = dict(model.named_parameters())
    kinds = [weight.shape[0] for name, weight in weights.items() if "token_type_embeddings" in name]
    relative = any(name.endswith("seg_embed") for name in weights)  # these ask whether two tokens are of one segment
    return float(min(kinds, default=math.inf if relative else 0))


def _rotations(model: nn.Module) -> Iterator[tuple[Any, str, Any]]:
    """Yield the rotary embeddings of a network, each with the law of its frequencies and the law's parameters."""
    module: Any
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if isinstance(kinds, str):
            yield module, kinds, module.config.rope_parameters
        elif isinstance(kinds, dict):  # each type of layer has one
            yield from ((module, kind, module.config.rope_parameters[layer]) for layer, kind in kinds.items())


def _longest_of_one_frequency(model: nn.Module) -> float:
    """Return the tokens up to which the longest row of a pass does not decide the frequencies of all."""
    limits = [
        module.original_max_seq_len if "dynamic" in kind else parameters["original_max_position_embeddings"]
        for module, kind, parameters in _rotations(model)
        if "dynamic" in kind or kind == "longrope"
    ]
    return float(min(limits, default=math.inf))


def _forget_lengths(model: nn.Module) -> None:
    """Let no longer row of an earlier pass stretch the frequencies of this one."""
    for module, kind, _ in _rotations(model):
        if "dynamic" in kind and module.max_seq_len_cached != module.original_max_seq_len:
            module.max_seq_len_cached = module.original_max_seq_len
            module.inv_freq = module.original_inv_freq.to(module.inv_freq.device)
