"""A model on disk is read with plain libraries and compared with its policy, by log-probs of a few sentences."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lit_align.models.loading.architecture import class_of
from lit_align.models.policy import Policy
from lit_align.models.protocols import ExportableModel
from lit_align.types import Responses

ASKED = ("Describe the night sky as seen from a desert.", "What is two and two?", "Name a good day of the week.")
ANSWERED = ("The stars are very bright, and the sand is cold and grey.", "Four.", "Sunday was always a happy one.")
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.3}
"""Rounding the sum of base and update to a dtype may change a token's log-prob by so many nats at most."""


@dataclass(frozen=True)
class Agreement:
    """Says how far log-probs of a reloaded model lie from the policy's.

    Attributes:
        tokens: Number of tokens compared.
        gap: Largest difference on a token, nats.
        tolerance: Largest difference that passes, nats.
        quantised_gap: Mean difference on a token from the policy on the run's quantised base, nats; None without one.
    """

    tokens: int
    gap: float
    tolerance: float
    quantised_gap: float | None = None

    def __str__(self) -> str:
        text = f"log-probs of {self.tokens} tokens agree with the policy's to {self.gap:.1e} nats"
        if self.quantised_gap is not None:
            text += f"; from those with the base in 4 bits they differ by {self.quantised_gap:.2g} on average"
        return text


class Probes:
    """Holds a few sentences as tokens of a policy, whose weights need not be loaded."""

    def __init__(self, policy: ExportableModel) -> None:
        prompts = policy.encode([{"prompt": text} for text in ASKED])
        self.responses: Responses = policy.encode_responses(prompts, [[text] for text in ANSWERED], 64)
        self.dtype: torch.dtype = policy.dtype

    @torch.no_grad()
    def token_logps(self, network: nn.Module) -> Float[Tensor, " tokens"]:
        """Return log-probs of all response tokens, one sentence at a time, without padding, mask or packing."""
        found = []
        device = next(network.parameters()).device
        for row in range(len(self.responses)):
            prompt = self.responses.prompts.ids[row][self.responses.prompts.mask[row]]
            response = self.responses.ids[row, 0][self.responses.mask[row, 0]]
            ids = torch.cat([prompt, response])[None].to(device)
            logits = network(input_ids=ids, use_cache=False).logits
            predicted = logits[0, len(prompt) - 1 : -1].double().log_softmax(-1).cpu()
            found.append(predicted.gather(-1, response[:, None])[:, 0])
        return torch.cat(found).float()

    def of(self, policy: Policy) -> Float[Tensor, " tokens"]:
        """Return log-probs of the same tokens, as a loaded policy scores responses."""
        was_training = policy.training
        policy.eval()
        try:
            with torch.no_grad():
                token_logps = policy.logps(self.responses).cpu()
        finally:
            policy.train(was_training)
        return torch.cat([token_logps[row, 0][self.responses.mask[row, 0]] for row in range(len(self.responses))])

    def agreement(
        self, folder: Path, expected: Tensor, own: Tensor | None, *, base: Callable[[], Any] | None
    ) -> Agreement:
        """Reload what was written and compare.

        Args:
            folder: Folder of the model that was written.
            expected: Token log-probs of the policy.
            own: The same with its base quantised, if the run's was.
            base: Loads the base if the folder has adapters; None where it has a whole model.

        Raises:
            RuntimeError: The model does not load without code of its own, or is another model.
        """
        try:
            found = self.token_logps(_reloaded(folder, self.dtype, base))
        except Exception as error:  # it may be anything that keeps others from reading the model
            raise RuntimeError(f"what was written does not load with plain transformers ({error})") from error
        gap = float((found - expected).abs().max())
        tolerance = TOLERANCE[self.dtype]
        if not gap <= tolerance:
            raise RuntimeError(
                f"what was written is not the policy: log-probs of a few sentences differ by up to {gap:.2g} nats on a "
                f"token, more than rounding does ({tolerance:g} in {self.dtype}); nothing was written"
            )
        quantised = None if own is None or own is expected else float((found - own).abs().mean())
        return Agreement(len(found), gap, tolerance, quantised)


def probes(policy: ExportableModel) -> Probes:
    """Return a few sentences in a policy's own tokens."""
    return Probes(policy)


def _reloaded(folder: Path, dtype: torch.dtype, base: Callable[[], Any] | None) -> Any:
    from peft import PeftModel
    from transformers import AutoConfig, AutoTokenizer

    AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if base is not None:
        return PeftModel.from_pretrained(base(), folder).eval()
    reader = class_of(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    return reader.from_pretrained(folder, dtype=dtype, trust_remote_code=False, use_safetensors=True).eval()
