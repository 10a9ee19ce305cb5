"""Prompts, responses and rollouts are the types that flow through an iteration.

The whole package names dimensions alike: ``batch`` (prompts), ``group`` (responses to one prompt), ``prompt`` (prompt
tokens, left-padded), ``length`` (response tokens, right-padded). A mask is True where a token counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Record = dict[str, Any]
"""A record is one row of the user's data as it was read; judges see all of it."""

SpecialTokens = Literal["keep", "drop"]
"""This says whether a response's text keeps special tokens such as ``<think>``; it never has the end of turn."""

SCORED = ("anchor", "reference", "current")
"""Log-probs under these policies are computed while collecting, and kept on disk."""

POLICIES = (*SCORED, "policy")
"""Rollouts can hold log-probs under these policies."""


def token_logps_column(policy: str) -> str:
    """Return the name of a policy's token log-probs, as a field of :class:`Rollouts` and as a column on disk."""
    return f"{policy}_token_logps"


_B = TypeVar("_B", bound="_Batch")


class _Batch:
    """A batch is a frozen dataclass whose tensors and lists are indexed by prompt."""

    def select(self: _B, rows: Sequence[int]) -> _B:
        """Return the given rows, in the given order."""
        index = torch.as_tensor(list(rows), dtype=torch.long)
        return self._map(lambda x: x[index.to(x.device)], lambda x: [x[i] for i in index.tolist()])

    def to(self: _B, device: torch.device | str) -> _B:
        """Return the same batch with every tensor on ``device``."""
        return self._map(lambda x: x.to(device), lambda x: x)

    def _map(self: _B, on_tensor: Any, on_list: Any) -> _B:
        changed: dict[str, Any] = {}
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, _Batch):
                changed[item.name] = value._map(on_tensor, on_list)
            elif isinstance(value, Tensor):
                changed[item.name] = on_tensor(value)
            elif isinstance(value, list):
                changed[item.name] = on_list(value)
        return replace(self, **changed)  # type: ignore[type-var]


@dataclass(frozen=True)
class Prompts(_Batch):
    """Prompts are tokens, with the records that they came from.

    Attributes:
        ids: Token ids, left-padded.
        mask: True on prompt tokens, False on padding.
        record_id: 63-bit hash of a prompt's content and its pass over the pool, from which its random numbers follow.
        records: The original rows; ``records[i]["prompt"]`` is the text, or ``["messages"]`` the chat.
    """

    ids: Int[Tensor, "batch prompt"]
    mask: Bool[Tensor, "batch prompt"]
    record_id: Int[Tensor, " batch"]
    records: list[Record]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def texts(self) -> list[str]:
        """Return what the user asked, without the chat template, as judges and tables show it."""
        return [prompt_text(record) for record in self.records]

    def trim(self) -> "Prompts":
        """Return the same prompts without the left padding that all of them share."""
        start = self.ids.shape[1] - int(self.mask.sum(1).max())
        return replace(self, ids=self.ids[:, start:], mask=self.mask[:, start:])


@dataclass(frozen=True)
class Responses(_Batch):
    """A group of K responses answers every prompt. Tokens are produced once and never encoded again.

    Attributes:
        prompts: The prompts that were answered.
        ids: Token ids, right-padded; the last token of a response that ended is its end-of-sequence token.
        mask: True on response tokens, the end-of-sequence token included.
        truncated: True where a response reached the length limit before it ended.
        sample_logps: Log-probs under the *sampling* law (after temperature, top-k, top-p), in nats. They are a
            diagnostic: no ratio compares them with log-probs of a training forward pass.
        source: Which policy samples each response of the group: ``policy``, ``anchor``, ``reference`` or ``mixture``;
            ``data`` where the response was given, and its ``sample_logps`` are unknown (nan).
        iteration: The iteration that sampled them.
        seed: The seed that they were sampled with.
    """

    prompts: Prompts
    ids: Int[Tensor, "batch group length"]
    mask: Bool[Tensor, "batch group length"]
    truncated: Bool[Tensor, "batch group"]
    sample_logps: Float[Tensor, "batch group length"]
    source: tuple[str, ...] = ("policy",)
    iteration: int = 0
    seed: int = 0

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def group_size(self) -> int:
        """Return the number of responses per prompt."""
        return self.ids.shape[1]

    @property
    def drawn(self) -> bool:
        """Return whether all of them were sampled here, and none was given."""
        return "data" not in self.source

    @property
    def lengths(self) -> Int[Tensor, "batch group"]:
        """Return the number of tokens of each response, end-of-sequence included."""
        return self.mask.sum(-1)

    def trim(self) -> "Responses":
        """Return the same responses without the padding that all of them share."""
        width = int(self.lengths.max())
        return replace(
            self,
            prompts=self.prompts.trim(),
            ids=self.ids[..., :width],
            mask=self.mask[..., :width],
            sample_logps=self.sample_logps[..., :width],
        )


@dataclass(frozen=True)
class Rollouts(_Batch):
    """Rollouts are responses with what the judge said of them and their log-probs under the three policies.

    Attributes:
        responses: K responses to every prompt.
        wins: ``wins[b, i, j] = P(y_i beats y_j | x_b)`` in [0, 1]; ``wins + wins^T = 1``, ½ on the diagonal.
        compared: Symmetric; False where a comparison is missing, which is not a tie. The diagonal is True.
        rewards: Scalar rewards, if the judge gives any; nan where one is missing.
        weights: Probability of each enumerated response under its source's policy; None for samples of equal weight.
        anchor_token_logps: log pi_t per token, nats, float32.
        reference_token_logps: log pi_ref per token, nats, float32.
        current_token_logps: log-probs under the policy while collecting, if it is not the anchor, nats, float32.
        baselines: What a policy gradient subtracts from each prompt's return, computed from the whole iteration.
        policy_token_logps: log pi_theta per token, nats, float32, with gradient; only in the training step.
        window_weight: Loss weight per minibatch of this optimiser step; it makes accumulation equal a large batch.
        phase: Number, from 0, of the fit that this minibatch is part of, for algorithms with several on the rollouts.
    """

    responses: Responses
    wins: Float[Tensor, "batch group group"]
    compared: Bool[Tensor, "batch group group"]
    rewards: Float[Tensor, "batch group"] | None = None
    weights: Float[Tensor, "batch group"] | None = None
    anchor_token_logps: Float[Tensor, "batch group length"] | None = None
    reference_token_logps: Float[Tensor, "batch group length"] | None = None
    current_token_logps: Float[Tensor, "batch group length"] | None = None
    baselines: Float[Tensor, " batch"] | None = None
    policy_token_logps: Float[Tensor, "batch group length"] | None = None
    window_weight: float | None = field(default=None)
    phase: int = 0

    def __len__(self) -> int:
        return len(self.responses)

    @property
    def policy_logps(self) -> Float[Tensor, "batch group"]:
        """Return log pi_theta(y|x), summed over response tokens."""
        return self.sequence_logps("policy")

    @property
    def anchor_logps(self) -> Float[Tensor, "batch group"]:
        """Return log pi_t(y|x), summed over response tokens."""
        return self.sequence_logps("anchor")

    @property
    def reference_logps(self) -> Float[Tensor, "batch group"]:
        """Return log pi_ref(y|x), summed over response tokens."""
        return self.sequence_logps("reference")

    @property
    def current_logps(self) -> Float[Tensor, "batch group"]:
        """Return log pi(y|x) of the policy as it was while collecting, summed over response tokens."""
        return self.sequence_logps("current")

    def slots(self, source: str) -> list[int]:
        """Return the places in a group of the responses that this source sampled."""
        return [i for i, drawn_by in enumerate(self.responses.source) if drawn_by == source]

    @property
    def token_logps(self) -> dict[str, Float[Tensor, "batch group length"]]:
        """Return the token log-probs that are known, by policy."""
        found = {policy: getattr(self, token_logps_column(policy)) for policy in POLICIES}
        return {policy: value for policy, value in found.items() if value is not None}

    def with_token_logps(self, values: Mapping[str, Float[Tensor, "batch group length"] | None]) -> "Rollouts":
        """Return the same rollouts with these token log-probs; None removes those of a policy."""
        columns: dict[str, Any] = {token_logps_column(policy): value for policy, value in values.items()}
        return replace(self, **columns)

    def sequence_logps(self, policy: str) -> Float[Tensor, "batch group"]:
        """Return a policy's log-probs, summed over response tokens, or raise RuntimeError if they are not known."""
        known = self.token_logps
        if policy not in known:
            raise RuntimeError(f"these rollouts hold no {policy} log-probs; the algorithm must list it in `needs`")
        return masked_sum(known[policy], self.responses.mask)

    @property
    def met(self) -> Bool[Tensor, "batch group"]:
        """Return which responses were compared with another of their group."""
        return self._others.any(-1)

    @property
    def rewarded(self) -> Bool[Tensor, "batch group"]:
        """Return which responses have a reward and were compared by it."""
        return self.met if self.rewards is None else self.met & ~self.rewards.isnan()

    @property
    def win_rates(self) -> Float[Tensor, "batch group"]:
        r"""Return the mean win rate against the whole group, itself (½) included; losses centred over ``met`` use it.

        .. math::
            w_i = \tfrac12 + \frac{K' - 1}{K'} (w_i^{others} - \tfrac12)

        K' is the number of ``met`` responses in the group. If no comparison is missing, this is the mean of a row of
        ``wins``; for enumerated responses it is the weighted mean over those that were compared.
        """
        if self.weights is not None:
            met = self.compared * self.weights.unsqueeze(-2)
            return (self.wins * met).sum(-1) / met.sum(-1)
        size = self.met.sum(-1, keepdim=True).clamp(min=1)
        return 0.5 + (size - 1) / size * (self.win_rates_against_others - 0.5)

    @property
    def win_rates_against_others(self) -> Float[Tensor, "batch group"]:
        """Return the mean win rate against the others (½ without any); enumerated responses count themselves, too."""
        if self.weights is not None:
            return self.win_rates
        count = self._others.sum(-1)
        total = torch.where(self._others, self.wins, torch.zeros_like(self.wins)).sum(-1)
        return torch.where(count > 0, total / count.clamp(min=1), torch.full_like(total, 0.5))

    def win_rates_between(
        self, first: list[int], second: list[int]
    ) -> tuple[Float[Tensor, "batch first"], Bool[Tensor, "batch first"]]:
        """Return the mean win rate of some responses against others (½ without any), and where one was compared."""
        wins = self.wins[:, first][:, :, second]
        met = self.compared[:, first][:, :, second].to(wins.dtype)
        if self.weights is not None:
            met = met * self.weights[:, None, second]
        total = met.sum(-1)
        rates = (wins * met).sum(-1) / total.masked_fill(total == 0, 1.0)
        return torch.where(total > 0, rates, torch.full_like(rates, 0.5)), total > 0

    @property
    def _others(self) -> Bool[Tensor, "batch group group"]:
        return self.compared & ~torch.eye(self.compared.shape[-1], dtype=torch.bool, device=self.compared.device)

    def trim(self) -> "Rollouts":
        """Return the same rollouts without the padding that all of them share."""
        responses = self.responses.trim()
        width = responses.ids.shape[-1]
        cut = {policy: value[..., :width] for policy, value in self.token_logps.items()}
        return replace(self, responses=responses).with_token_logps(cut)


def masked_sum(
    token_values: Float[Tensor, "batch group length"], mask: Bool[Tensor, "batch group length"]
) -> Float[Tensor, "batch group"]:
    """Return the sum over the tokens that count; losses and metrics share this reduction."""
    return torch.where(mask, token_values, torch.zeros_like(token_values)).sum(-1)


def prompt_text(record: Record) -> str:
    """Return what the user asked last: the ``prompt`` column, or the user's last message of ``messages``."""
    if "prompt" in record:
        return str(record["prompt"])
    messages = record["messages"]
    asked = [message for message in messages if message["role"] == "user"]
    return message_text((asked or messages)[-1])


def message_text(message: Record) -> str:
    """Return the content of a message as one text, its parts joined; a part that is not text raises ValueError."""
    content = message.get("content")
    if content is None:
        return ""
    if not isinstance(content, list):
        return str(content)
    for part in content:
        if not isinstance(part, str) and part.get("type", "text") != "text":
            raise ValueError(f"the content of a message has a part of type {part['type']}, and only text is read")
    return "".join(part if isinstance(part, str) else str(part.get("text") or "") for part in content)


def begun_answer(record: Record) -> str:
    """Return the text of the last message if the assistant has begun it, so that a response continues it."""
    messages = record.get("messages")
    return message_text(messages[-1]) if messages and messages[-1].get("role") == "assistant" else ""


def turns_before(record: Record) -> list[Record]:
    """Return the messages before an answer, without one that it continues; a plain prompt has none."""
    messages: list[Record] = record.get("messages") or []
    return messages[:-1] if begun_answer(record) else messages


def spoken(record: Record) -> list[tuple[str, str]]:
    """Return what user and assistant said before an answer, as (role, text), for judges to read."""
    turns = [(message["role"], message_text(message)) for message in turns_before(record)]
    return [(role, text) for role, text in turns if role in ("user", "assistant") and text]


def pad_left(
    rows: Sequence[Sequence[int]], pad: int = 0
) -> tuple[Int[Tensor, "batch width"], Bool[Tensor, "batch width"]]:
    """Stack rows of tokens, padded on the left; the mask comes from lengths, never from token ids."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], dtype=torch.long)
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return ids, mask
