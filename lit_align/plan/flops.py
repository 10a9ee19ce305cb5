"""The operations of a policy's forward and backward passes are counted from its linear layers.

Attention itself and the small operations (norms, activations, softmax) are not counted, nor is padding or a prompt that
is read more than once: what is counted is useful work, so a share of the peak is rather under- than overstated.
"""

import time
from dataclasses import dataclass

import torch
from torch import nn

from lit_align.types import Responses

_SIZE, _PRODUCTS = 2048, 5


@dataclass(frozen=True)
class Work:
    """Counts multiplications and additions of one token's way through a causal language model."""

    forward: int  # operations of the decoder, a token
    backward: int  # operations of its backward pass, a token, from the first trainable weight upwards
    head: int  # operations of the output head, a token whose successor is predicted
    head_backward: int  # operations of the head's backward pass: as many again, or twice as many where it is trained

    def sampling(self, responses: Responses) -> int:
        """Count reading each prompt once and drawing the responses; a last token is not read."""
        return self.scoring(responses)

    def scoring(self, responses: Responses) -> int:
        """Count one policy's log-probs of responses, each prompt read once."""
        read, predicted = _tokens(responses)
        return self.forward * read + self.head * predicted

    def training(self, responses: Responses) -> int:
        """Count a forward and a backward pass over responses."""
        read, predicted = _tokens(responses)
        return self.scoring(responses) + self.backward * read + self.head_backward * predicted


def work_of(model: nn.Module, head: nn.Module) -> Work:
    """Return the work of a Hugging Face causal LM and its output ``head``, whatever its weights are stored in."""
    forward = backward = 0
    reached = False  # gradients reach every layer from the first trainable weight upwards
    for module in model.modules():
        trainable = any(weight.requires_grad for weight in module.parameters(recurse=False))
        if module is not head:
            forward += 2 * _width(module)
            backward += 2 * _width(module) * (reached + trainable)
        reached = reached or trainable
    trained = any(weight.requires_grad for weight in head.parameters())
    return Work(forward, backward, 2 * _width(head), 2 * _width(head) * (1 + trained))


def peak(dtype: torch.dtype, device: torch.device) -> float:
    """Return the operations a second in a product of two large matrices, the median of a few."""
    first, second = (torch.randn(_SIZE, _SIZE, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(_PRODUCTS + 1):
        start = time.perf_counter()
        float((first @ second)[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 2 * _SIZE**3 / sorted(seconds[1:])[_PRODUCTS // 2]  # the first one warms up


def _width(module: nn.Module) -> int:
    """Return the weights of a linear layer; a 4-bit one stores them in fewer numbers than it has."""
    return int(module.in_features) * int(module.out_features) if isinstance(module, nn.Linear) else 0


def _tokens(responses: Responses) -> tuple[int, int]:
    """Return the tokens that are read, and the tokens that are predicted."""
    predicted = int(responses.mask.sum())
    return int(responses.prompts.mask.sum()) + predicted - responses.mask[..., 0].numel(), predicted
