"""What rollouts on disk were made of, and whether they would be the same if they were made again."""

import logging
from collections.abc import Sequence
from pathlib import Path

from lit_align.anchors.base import Anchor
from lit_align.data.rollout_store import Origin, load_origin, load_rollouts
from lit_align.judges.base import Judge
from lit_align.models.policy import Policy
from lit_align.models.sharding.gather import trainable
from lit_align.sampling.sampler import Sampler
from lit_align.types import Responses, Rollouts
from lit_align.utils.digests import text_digest, weights_digest

log = logging.getLogger(__name__)


def origin_of(
    policy: Policy, anchor: Anchor, sampler: Sampler, judge: Judge | None, slots: Sequence[str], *, trains: bool
) -> Origin:
    """What the responses of a group depend on, who judges them, and under what anchor they are scored.

    A judge is its class and its name: one that is only more patient says the same.

    Args:
        policy: As it is when it draws.
        anchor: The same.
        sampler: Whose law it draws from.
        judge: Who compares.
        slots: Who draws each response of the group.
        trains: They are scored under the anchor, to train on.
    """
    origin = dict(policy.identity)
    origin |= {} if judge is None else {"judge": f"{type(judge).__name__} {judge.name}"}
    weights = "" if set(slots) == {"reference"} else _weights(policy)
    if trains:
        settings = {name: value for name, value in sorted(vars(anchor).items()) if not name.startswith("_")}
        origin["scored"] = text_digest(weights, type(anchor).__name__, repr(settings))
    if "data" in slots:
        return origin
    origin["sampler"] = f"{type(sampler).__name__} {sampler.decoding}"
    if set(slots) == {"reference"}:
        return origin  # what the initial policy has drawn, whatever it was called then
    origin["slots"] = " ".join(slots)
    if {"policy", "mixture"} & set(slots):
        origin["policy"] = weights
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
        Responses alone where another judge has compared them, and without log-probs that were another anchor's; None
        where there is nothing, or it is damaged.
    """
    if not path.exists():
        return None
    try:
        found, was = load_rollouts(path), load_origin(path)
    except ValueError as error:
        log.warning("%s; it is made again", error)
        return None
    changed = [name for name, value in origin.items() if was.get(name, value) != value]
    drawn = [name for name in changed if name not in ("judge", "scored")]
    if drawn:
        log.warning("%s was drawn before a change of %s: it is drawn again", path, " and ".join(drawn))
        return None
    if not isinstance(found, Rollouts):
        return found
    if "judge" in changed:
        log.warning("%s was judged by %s: it is judged again", path, was["judge"])
        return found.responses
    if "scored" in changed:
        log.warning("%s was scored under another anchor: it is scored again", path)
        return found.with_token_logps({"anchor": None, "current": None})
    return found


def _weights(policy: Policy) -> str:
    """Of everything that training moves."""
    folded = [(f"{name}.{i}", factor) for name, pair in policy.frozen_update().items() for i, factor in enumerate(pair)]
    return text_digest(weights_digest(trainable(policy)), weights_digest(folded))
