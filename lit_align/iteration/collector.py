"""The collector makes rollouts of prompts: it samples, judges and scores, each stage on disk before the next begins."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lit_align.anchors.base import Anchor
from lit_align.data.rollout_store import Origin, save_rollouts
from lit_align.iteration.origins import found_rollouts, origin_of, who_gave, who_judges_of
from lit_align.iteration.stages import Stages
from lit_align.judges.ahead import Ahead
from lit_align.judges.base import Judge, check_compared
from lit_align.judges.store import Store, StoredJudge
from lit_align.models.policy import Policy
from lit_align.models.proof.ways import ROUNDED
from lit_align.run_folder import verdicts_of
from lit_align.sampling.decoding import Decoding
from lit_align.sampling.sampler import Sampler, sampling_in_halves
from lit_align.types import Prompts, Responses, Rollouts
from lit_align.utils.out_of_memory import Halving

log = logging.getLogger(__name__)

SAMPLING_GAP = 1e-2
"""Bounds how far a token's sampling law may lie from its log-prob when scored, in float32, nats."""

Chosen = Callable[[Origin, Prompts], Path]
"""Returns the file of the rollouts of this origin, to these prompts."""

Score = Callable[[Responses], Float[Tensor, "batch group length"]]
"""Returns token log-probs of responses under some policy, nats."""


def judged_text(policy: Policy, judge: Judge | None, responses: Responses) -> list[list[str]]:
    """Return responses as a judge reads them."""
    return policy.text(responses, "drop" if judge is None else judge.special_tokens)


def _scoring_in_halves() -> Halving:
    advice = "lower model.sampler.group_size or model.sampler.max_new_tokens, or hold the weights in fewer bits"
    return Halving("scoring", "prompt", advice)


@dataclass(frozen=True)
class PolicyAndAnchor:
    """Draws the responses of a group: the policy answers, under the anchor's weights where the source is ``anchor``."""

    policy: Policy
    anchor: Anchor

    def sample(
        self,
        prompts: Prompts,
        uniforms: Float[Tensor, "batch group length"],
        decoding: Decoding,
        source: str,
        at_once: int = 0,
    ) -> Responses:
        """Draw one response for each row of uniforms, as :meth:`Policy.sample` does."""
        with self._answering_as(source) as name:
            return self.policy.sample(prompts, uniforms, decoding, name, at_once)

    def enumerate(self, prompts: Prompts, decoding: Decoding, source: str) -> Responses:
        """Return all responses, as :meth:`Policy.enumerate` does."""
        with self._answering_as(source) as name:
            return self.policy.enumerate(prompts, decoding, name)

    def _answering_as(self, source: str) -> AbstractContextManager[str]:
        return self.anchor.applied(self.policy) if source == "anchor" else nullcontext(source)


@dataclass(frozen=True)
class Collector:
    """Collects rollouts; whatever a stage produced is read back, not computed again, as long as it would be the same.

    Attributes:
        policy: Draws the responses.
        judge: Compares them; without one they stay uncompared.
        sampler: How many responses, how long, and from which policies.
        anchor: Draws the responses that are its own.
        stages: Clock and progress bars.
        sampling: Halves the micro-batches of sampling where memory runs out, for the rest of the run.
        scoring: Halves those of scoring.
    """

    policy: Policy
    judge: Judge | None
    sampler: Sampler
    anchor: Anchor
    stages: Stages
    sampling: Halving = field(default_factory=sampling_in_halves)
    scoring: Halving = field(default_factory=_scoring_in_halves)

    def rollouts_of(
        self,
        prompts: Prompts,
        path: Path | None,
        scores: dict[str, Score],
        *,
        seed: int,
        iteration: int,
        sources: Sequence[str] | None = None,
        given: Rollouts | None = None,
        given_by: Origin | None = None,
        chosen: Chosen | None = None,
    ) -> Rollouts:
        """Return rollouts of these prompts, sampled, judged and scored; read from ``path`` as far as they are there.

        Args:
            prompts: The prompts.
            path: The file that holds the rollouts; written after each stage. None keeps nothing.
            scores: How ``anchor``, ``reference`` and ``current``, as needed, score responses.
            seed: The seed of the responses.
            iteration: Key of the random numbers.
            sources: Which policy samples each response of a group, instead of the sampler's own.
            given: Responses that are there and compared, so that nothing is sampled or judged.
            given_by: The judge that has compared them, as far as it is known.
            chosen: Picks the file, where there is more than the one of this name.

        Raises:
            ValueError: The file holds rollouts of other prompts.
        """
        slots = tuple(sources or self.sampler.slots) if given is None else given.responses.source
        verdicts = None if path is None else verdicts_of(path)
        origin: Origin = {}
        if path is not None:
            judged = who_judges_of(self.judge, prompts) if given is None else who_gave(given, given_by or {})
            who = self.policy, self.anchor, self.sampler, judged, slots
            origin = origin_of(*who, trains=sources is None)
            if chosen is not None:  # a run has one seed, and may be evaluated with others
                origin["seed"] = str(seed)
                path = chosen(origin, prompts)
        found = None if path is None else found_rollouts(path, origin)
        responses = found.responses if isinstance(found, Rollouts) else found
        if responses is not None and responses.prompts.record_id.tolist() != prompts.record_id.tolist():
            raise ValueError(f"{path} holds rollouts of other prompts: this run began with another pool or seed")
        if responses is not None and given is None:  # the other columns of the rows may have changed
            responses = replace(responses, prompts=prompts.trim())
        ahead = Ahead(self.judge, partial(judged_text, self.policy, self.judge))
        if responses is None:
            drawn = self._drawn(prompts, seed, iteration, sources, ahead) if given is None else given.responses
            responses = drawn.trim()
            self._save(path, responses, responses, origin)
        rollouts = found if isinstance(found, Rollouts) else None
        if rollouts is None:
            rollouts = (
                self._judged(responses, verdicts, ahead) if given is None else replace(given, responses=responses)
            )
            self._save(path, rollouts, responses, origin)
            if verdicts is not None and chosen is None:
                Store(verdicts).remove()  # the file holds all verdicts
        missing = {policy: score for policy, score in scores.items() if policy not in rollouts.token_logps}
        if missing:
            scored = {policy: self._scored(policy, score, responses) for policy, score in missing.items()}
            rollouts = rollouts.with_token_logps(scored)
            self._save(path, rollouts, responses, origin)
        return rollouts

    def _save(self, path: Path | None, rollouts: Responses | Rollouts, responses: Responses, origin: Origin) -> None:
        if path is not None:
            save_rollouts(path, rollouts, self.policy.text(responses), origin)

    def _drawn(
        self, prompts: Prompts, seed: int, iteration: int, sources: Sequence[str] | None, ahead: Ahead
    ) -> Responses:
        with self.stages.stage("sample", len(prompts)) as advance:
            return self.sampler.respond(
                PolicyAndAnchor(self.policy, self.anchor),
                prompts,
                seed=seed,
                iteration=iteration,
                sources=sources,
                report=advance,
                halving=self.sampling,
                drawn=ahead,
            )

    def _judged(self, responses: Responses, verdicts: Path | None, ahead: Ahead) -> Rollouts:
        if self.judge is None:
            alone = torch.eye(responses.group_size).expand(len(responses), -1, -1)
            return Rollouts(responses, torch.full_like(alone, 0.5), alone.bool())
        judge = self.judge if verdicts is None else StoredJudge(self.judge, verdicts)
        texts = judged_text(self.policy, self.judge, responses)
        with self.stages.stage("judge", len(responses)) as advance:
            ahead.wait()
            verdict = judge.verdict(responses.prompts, texts, advance)
        check_compared(self.judge, verdict.compared, f"iteration {responses.iteration + 1}")
        return Rollouts(
            responses, verdict.wins, verdict.compared, verdict.rewards, weights=self.sampler.weights(responses)
        )

    def _scored(self, name: str, score: Score, responses: Responses) -> Float[Tensor, "batch group length"]:
        with self.stages.stage("score", len(responses), f"score ({name})") as advance:
            order: list[int] = []
            parts: list[Tensor] = []
            # Given responses may be longer than any that is drawn.
            longest = max(self.sampler.max_new_tokens, responses.ids.shape[-1])
            sampler = replace(self.sampler, max_new_tokens=longest)
            batches = sampler.micro_batches(responses.prompts, responses.group_size)
            for rows, part in self.scoring.each(batches, lambda rows: score(responses.select(rows)).cpu()):
                order += rows
                parts.append(part)
                advance(len(rows), int(responses.mask[rows].sum()))
        return torch.cat(parts)[torch.argsort(torch.tensor(order))]


def collected_metrics(rollouts: Rollouts, *, is_policy: bool, anchor_is_policy: bool) -> dict[str, Tensor]:
    """Return means over the responses, by name; what was drawn is compared with what scoring says of it.

    Args:
        rollouts: Those of a whole iteration.
        is_policy: Says whether the sampler draws from the policy itself.
        anchor_is_policy: Says whether the anchor's log-probs are those of what the policy drew.
    """
    responses = rollouts.responses
    weights = torch.ones_like(rollouts.wins[..., 0]) if rollouts.weights is None else rollouts.weights
    columns = {"length": responses.lengths, "truncated": responses.truncated}
    values = {name: (column * weights).sum() / weights.sum() for name, column in columns.items()}
    if rollouts.rewards is not None:
        known = weights * ~rollouts.rewards.isnan()
        values["reward"] = (rollouts.rewards.nan_to_num() * known).sum() / known.sum()
    own, both = rollouts.slots("policy"), (rollouts.anchor_token_logps, rollouts.reference_token_logps)
    if anchor_is_policy and own and all(token_logps is not None for token_logps in both):
        gains = (rollouts.anchor_logps - rollouts.reference_logps)[:, own]
        values["kl"] = (gains * weights[:, own]).sum() / weights[:, own].sum()
    gaps = sampling_gaps(rollouts, anchor_is_policy=anchor_is_policy) if is_policy else None
    if gaps is not None:
        values["sampling_gap"] = gaps.max()
    return values


def sampling_gaps(rollouts: Rollouts, *, anchor_is_policy: bool) -> Float[Tensor, " tokens"] | None:
    """Return how far the law of each drawn token lies from what scoring says of it, nats: by rounding, or by a fault.

    The arguments are those of :func:`collected_metrics`. None means that nothing was both drawn and scored.
    """
    responses = rollouts.responses
    scored = rollouts.slots("anchor") + (rollouts.slots("policy") if anchor_is_policy else [])
    if rollouts.anchor_token_logps is None or not responses.drawn or not scored:
        return None
    gap = (responses.sample_logps - rollouts.anchor_token_logps).abs()[:, scored]
    return gap[responses.mask[:, scored]]


def check_sampling(gaps: Float[Tensor, " tokens"], *, exact: bool) -> None:
    """Stop where responses were drawn from another law than the policy's; warn where rounding may be the reason.

    ``gaps`` lie between the law of each token and its log-prob, nats. Where both were computed in full precision
    (``exact``), more than rounding raises a RuntimeError.
    """
    largest, mean = float(gaps.max()), float(gaps.mean())
    if exact and not largest <= SAMPLING_GAP:
        raise RuntimeError(
            f"train/sampling_gap is {largest:.2g} nats, more than rounding in float32 ({SAMPLING_GAP:g}): responses "
            "were not drawn from the policy that is trained, so nothing is learnt from them"
        )
    if not exact and not mean <= ROUNDED:
        log.warning(
            "the law of sampling is %.2g nats a token from the policy on average (train/sampling_gap %.2g at most), "
            "more than half precision makes (%g): set model.policy.dtype to float32, or trainer.precision to 32-true",
            mean,
            largest,
            ROUNDED,
        )
