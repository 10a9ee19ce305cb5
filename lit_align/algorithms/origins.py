"""What rollouts on disk were made of, and whether they would be the same if they were made again."""

import logging
from collections.abc import Sequence
from pathlib import Path

from lit_align.anchors import Anchor
from lit_align.data.rollout_store import Origin, load_origin, load_rollouts
from lit_align.digests import text_digest, weights_digest
from lit_align.judges import Judge
from lit_align.models import Policy
from lit_align.models.gathering import trainable
from lit_align.sampling import Sampler
from lit_align.types import Responses, Rollouts

log = logging.getLogger(__name__)


def origin_of(policy: Policy, anchor: Anchor, sampler: Sampler, judge: Judge | None, slots: Sequence[str]) -> Origin:
    """What the responses of a group depend on, and who judges them.

    A judge is its class and its name: one that is only more patient says the same.

    Args:
        policy: As it is when it draws.
        anchor: The same.
        sampler: Whose law it draws from.
        judge: Who compares.
        slots: Who draws each response of the group.
    """
    origin = dict(policy.identity)
    origin |= {} if judge is None else {"judge": f"{type(judge).__name__} {judge.name}"}
    if "data" in slots:
        return origin
    origin["sampler"] = f"{type(sampler).__name__} {sampler.decoding}"
    if set(slots) == {"reference"}:
        return origin  # what the initial policy has drawn, whatever it was called then
    origin["slots"] = " ".join(slots)
    if {"policy", "mixture"} & set(slots):
        origin["policy"] = _weights(policy)
    if "anchor" in slots:
        with anchor.applied(policy):
            origin["anchor"] = _weights(policy)
    return origin


def found_rollouts(path: Path, origin: Origin) -> Responses | Rollouts | None:
    """What is on disk and would be the same if it were made again; what would not is said, and made again.

    Args:
        path: The file of an iteration.
        origin: Of what would be made; what it does not name may differ.

    Returns:
        Responses alone where another judge has compared them; None where there is nothing, or it is damaged.
    """
    if not path.exists():
        return None
    try:
        found, was = load_rollouts(path), load_origin(path)
    except ValueError as error:
        log.warning("%s; it is made again", error)
        return None
    changed = [name for name, value in origin.items() if was.get(name, value) != value]
    if changed == ["judge"]:
        log.warning("%s was judged by %s: it is judged again", path, was["judge"])
        return found.responses if isinstance(found, Rollouts) else found
    if changed:
        log.warning("%s was drawn before a change of %s: it is drawn again", path, " and ".join(changed))
        return None
    return found


def journal_of(path: Path) -> Path:
    """The journal of verdicts beside a file of rollouts."""
    return path.with_suffix(".verdicts.jsonl")


def _weights(policy: Policy) -> str:
    """Of everything that training moves."""
    folded = [(f"{name}.{i}", factor) for name, pair in policy.folded().items() for i, factor in enumerate(pair)]
    return text_digest(weights_digest(trainable(policy)), weights_digest(folded))
