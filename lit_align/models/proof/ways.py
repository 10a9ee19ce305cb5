"""A model is scored and sampled in the fastest ways that give the log-probs of one plain pass over each sequence.

A process tries the ways once for each config, on a small random model of the same architecture in float32; then the
model itself scores and samples a few tokens in those that were right. A wrong way gives place to a slower one, and
where none is right the model is refused.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from lit_align.models.changing_frequencies import begin_afresh
from lit_align.models.generation.next_token import SamplingWay, next_token_of
from lit_align.models.proof.tiny import tiny_model
from lit_align.models.scoring.ragged_attention import disable_ragged_attention, enable_ragged_attention
from lit_align.models.scoring.token_logps import ScoringWay, token_logps
from lit_align.sampling.decoding import Decoding
from lit_align.sampling.generate import generate
from lit_align.types import Prompts, Responses, pad_left

log = logging.getLogger(__name__)

EXACT = 1e-3
"""A way is right where each token's log-prob lies within so many nats of that of a plain pass in float32."""

ROUNDED = 0.1
"""In half precision, or with a base in 4 bits, it is right where they lie within so many nats on average."""

_SHARED = [7, 11, 13, 17, 19, 23, 29, 31, 37]
# These are longer than the windows of a small model, of unequal length, with and without a beginning in common.
_PROMPTS = (
    [[5, 9, 12, 7, 20, 3, 44, 15, 6, 37, 8, 9], [15], [6, 8, 31]],
    [[*_SHARED, 5], [*_SHARED, 8, 9, 33, 21], [*_SHARED, 40, 4]],
)
_ENDS = range(40, 52)  # many tokens end a response, so that rows end at different times
_TOKENS = 7


@dataclass(frozen=True)
class Ways:
    """Says how a model is scored and sampled.

    Attributes:
        scoring: How responses are scored.
        sampling: How they are drawn.
        why: What was wrong with the last way that was not right.
    """

    scoring: ScoringWay = "line"
    sampling: SamplingWay = "grouped"
    why: str = ""

    @property
    def one_at_a_time(self) -> bool:
        """Return whether something is done for one sequence, or for the responses to one prompt, at a time."""
        return self.scoring == "alone" or self.sampling in ("prompts", "whole")


PLAIN = Ways("alone", "whole")
FOUND: dict[str, Ways | str] = {}  # the keys are architectures; a text says why one is refused


def ways_of(config: Any, attention: str, name: str = "it", trust_remote_code: bool = False) -> Ways:
    """Return the ways that are right for an architecture, from its config alone.

    Args:
        config: Config of the model.
        attention: Attention implementation of transformers.
        name: Name of the model, for messages.
        trust_remote_code: Run code that comes with the model.

    Raises:
        ValueError: No way is right, because it is no causal language model.
    """
    config = config.get_text_config()
    told = {key: value for key, value in config.to_dict().items() if key not in ("_name_or_path", "dtype")}
    key = json.dumps([type(config).__name__, attention, told], sort_keys=True, default=str)
    if key not in FOUND:
        FOUND[key] = _tried(config, attention, trust_remote_code)
        found = FOUND[key]
        if isinstance(found, Ways) and found.one_at_a_time:
            log.warning("model.policy.name: %s (%s) is %s", name, config.model_type, _told(found))
    found = FOUND[key]
    if isinstance(found, str):
        raise ValueError(f"model.policy.name: {name} ({config.model_type}) {found}")
    return found


@torch.no_grad()
def proved(model: Any, ways: Ways, prompts: Sequence[Sequence[int]], *, exact: bool, name: str) -> Ways:
    """Return the ways that are right for a model, with its weights as they are, on a few tokens of its own.

    Args:
        model: A causal language model in eval mode, all of its weights on one device.
        ways: Ways that are right for its architecture.
        prompts: Token ids, of unequal length.
        exact: It computes in full precision; else differences are compared on average.
        name: Name of the model, for messages.

    Returns:
        The same ways, or plain ones where those are not right.

    Raises:
        ValueError: Nothing is right.
    """
    tried: list[str] = []
    for way in dict.fromkeys((ways, PLAIN)):
        why = _objection(partial(_gaps, model, way, prompts), exact=exact)
        if not why:
            if way != ways:
                disable_ragged_attention(model)
                log.warning("model.policy.name: %s is %s", name, _told(replace(way, why=tried[0])))
            return way
        tried.append(why)
    raise ValueError(f"model.policy.name: {name} is refused, its log-probs cannot be trusted: {tried[-1]}")


def _gaps(model: Any, ways: Ways, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Return how far both ways are from a plain pass over each sequence, on tokens that the model draws."""
    drawn = _drawn(model, ways.sampling, prompts, ends=(), length=2, group=1)
    plain = plain_token_logps(model, drawn)
    scored = token_logps(model, drawn, alone=ways.scoring == "alone")
    return torch.stack([(found - plain).abs()[drawn.mask] for found in (drawn.sample_logps, scored)])


def plain_token_logps(model: Any, responses: Responses) -> Float[Tensor, "batch group length"]:
    """Return log-probs of each response by one pass of plain transformers over its sequence alone."""
    found = torch.zeros(responses.ids.shape, device=responses.ids.device)
    prompts = responses.prompts
    for row, slot in torch.cartesian_prod(*map(torch.arange, found.shape[:2])).tolist():
        prompt, response = prompts.ids[row][prompts.mask[row]], responses.ids[row, slot][responses.mask[row, slot]]
        begin_afresh(model)
        ids = torch.cat([prompt, response])[None]
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        of_tokens = logits.float().log_softmax(-1).gather(-1, response[:, None])[:, 0]
        found[row, slot, : len(response)] = of_tokens
    return found


@torch.no_grad()
def _tried(config: Any, attention: str, trust_remote_code: bool) -> Ways | str:
    """Return what is right for a small model, or why there is nothing."""
    model = tiny_model(config, attention, trust_remote_code)
    if model is None:
        return replace(PLAIN, why="no small model of its architecture can be made to try it")
    if not _is_causal(model):
        return "is no causal language model: what follows a token changes its log-prob"
    reasons: list[str] = []
    scoring = _first_right(get_args(ScoringWay), partial(_scoring_gaps, model), reasons)
    if scoring == "line":
        enable_ragged_attention(model)
    sampling = _first_right(get_args(SamplingWay), partial(_sampling_gaps, model), reasons)
    if scoring is None or sampling is None:
        return f"is refused, its log-probs cannot be trusted: {reasons[-1]}"
    return Ways(scoring, sampling, reasons[-1] if reasons else "")


def _first_right(ways: Sequence[Any], gaps: Callable[[Any], Tensor], reasons: list[str]) -> Any:
    """Return the first way that gives what a plain pass does, and add to the reasons why others do not."""
    for way in ways:
        why = _objection(partial(gaps, way), exact=True)
        if not why:
            return way
        reasons.append(why)
    return None


def _objection(gaps: Callable[[], Tensor], *, exact: bool) -> str:
    """Say why a way is not right; the answer is empty where it is."""
    try:
        found = gaps()
    except Exception as error:  # a model may fail in any way where it is read otherwise than it expects
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    gap, bound = (float(found.max()), EXACT) if exact else (float(found.mean(-1).max()), ROUNDED)
    kind = "up to" if exact else "on average"
    return "" if gap <= bound else f"log-probs differ from those of one plain pass by {kind} {gap:.2g} nats a token"


def _scoring_gaps(model: Any, way: ScoringWay) -> Tensor:
    if way == "line":
        enable_ragged_attention(model)
    try:
        found = []
        for responses in _written():
            plain = plain_token_logps(model, responses)
            found.append((token_logps(model, responses, alone=way == "alone") - plain).abs().flatten())
        return torch.cat(found)
    finally:
        disable_ragged_attention(model)


def _sampling_gaps(model: Any, way: SamplingWay) -> Tensor:
    found = []
    for prompts in _PROMPTS:
        drawn = _drawn(model, way, prompts, ends=_ENDS, length=_TOKENS, at_once=2)
        found.append((drawn.sample_logps - plain_token_logps(model, drawn)).abs().flatten())
    return torch.cat(found)


def _drawn(
    model: Any,
    way: SamplingWay,
    prompts: Sequence[Sequence[int]],
    *,
    ends: Sequence[int],
    length: int,
    group: int = 2,
    at_once: int = 0,
) -> Responses:
    """Let the model draw responses to each prompt."""
    device = next(model.parameters()).device
    asked = _as_prompts(prompts).to(device)
    uniforms = torch.rand(len(prompts), group, length, generator=torch.Generator().manual_seed(0)).to(device)
    network, law = next_token_of(model, way), Decoding(max_new_tokens=length)
    last = torch.tensor(list(ends), dtype=torch.long, device=device)  # without ends it would be of floats
    at_once = prompts_at_once(way, at_once)
    ids, logps, lengths = generate(network, asked.ids, asked.mask, uniforms, law, last, at_once=at_once)
    mask = torch.arange(length, device=device) < lengths[..., None]
    return Responses(asked, ids, mask, torch.zeros_like(mask[..., 0]), logps)


def prompts_at_once(way: SamplingWay, budget: int) -> int:
    """Return how many prompts are under way at once: one where the way takes no more, else the budget; 0 is all."""
    return 1 if way in ("prompts", "whole") else budget


def _written() -> list[Responses]:
    """Make responses of unequal length to prompts of unequal length."""
    made = []
    for prompts in _PROMPTS:
        lengths = torch.tensor([[4, 1], [_TOKENS, 2], [3, 6]])
        ids = torch.randint(3, 60, (3, 2, _TOKENS), generator=torch.Generator().manual_seed(1))
        mask = torch.arange(_TOKENS) < lengths[..., None]
        made.append(Responses(_as_prompts(prompts), ids * mask, mask, mask[..., 0], torch.zeros(mask.shape)))
    return made


def _as_prompts(prompts: Sequence[Sequence[int]]) -> Prompts:
    ids, mask = pad_left([list(prompt) for prompt in prompts])
    return Prompts(ids, mask, torch.arange(len(prompts)), [{"prompt": ""}] * len(prompts))


def _is_causal(model: Any) -> bool:
    """Return whether what the model says of a token is the same whatever follows it."""
    ids = torch.tensor([_PROMPTS[0][0]])
    whole, beginning = (
        model(input_ids=some, use_cache=False).logits[0, :4].float().log_softmax(-1) for some in (ids, ids[:, :4])
    )
    return bool((whole - beginning).abs().max() <= EXACT)


def _told(ways: Ways) -> str:
    """Say what is slow, and why."""
    scored = "scored one sequence at a time" if ways.scoring == "alone" else ""
    cache = " and without a cache" if ways.sampling == "whole" else ""
    drawn = f"sampled one prompt at a time{cache}" if ways.sampling in ("prompts", "whole") else ""
    return f"{' and '.join(filter(None, (scored, drawn)))}, which is slow: {ways.why}"
