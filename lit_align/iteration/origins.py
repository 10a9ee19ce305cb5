"""The origin of rollouts on disk says what they were made of, and whether they would be the same if made again."""

import logging
from collections.abc import Sequence
from pathlib import Path

from lit_align.anchors.base import Anchor
from lit_align.data.rollout_store import JUDGE, Origin, load_origin, load_rollouts, same_judge
from lit_align.judges.base import Judge
from lit_align.judges.identity import tell_matched_by_name
from lit_align.judges.store import columns_beside
from lit_align.models.policy import Policy
from lit_align.models.sharding.gather import trainable
from lit_align.sampling.sampler import Sampler
from lit_align.types import Prompts, Responses, Rollouts
from lit_align.utils.digests import text_digest, weights_digest

log = logging.getLogger(__name__)

_NOT_DRAWN = (*JUDGE, "columns", "verdicts", "scored")


def who_judges(judge: Judge | None) -> Origin:
    """Return a judge's name, for messages, and its identity, which decides."""
    if judge is None:
        return {}
    return dict(zip(JUDGE, (f"{type(judge).__name__} {judge.name}", judge.identity), strict=True))


def who_judges_of(judge: Judge | None, prompts: Prompts) -> Origin:
    """Return a judge, and what it sees of the rows beside what is asked."""
    return who_judges(judge) | ({} if judge is None else {"columns": columns_beside(prompts.records)})


def who_gave(given: Rollouts, judged: Origin) -> Origin:
    """Return the digest of verdicts that were there already, and their judge as far as it is known."""
    columns = {"wins": given.wins, "compared": given.compared, "rewards": given.rewards}
    return judged | {"verdicts": weights_digest((name, value) for name, value in columns.items() if value is not None)}


def whose_law(sampler: Sampler) -> Origin:
    """Return the law that responses are drawn from."""
    return {"sampler": f"{type(sampler).__name__} {sampler.decoding}"}


def origin_of(
    policy: Policy, anchor: Anchor, sampler: Sampler, judged: Origin, slots: Sequence[str], *, trains: bool
) -> Origin:
    """Return what the responses of a group depend on, who judges them, and under what anchor they are scored.

    The policy and the anchor are as they are when they draw. ``slots`` names the policy that samples each response of
    the group; ``trains`` says that they are scored under the anchor, to train on.
    """
    origin = policy.identity | judged
    weights = "" if set(slots) == {"reference"} else _weights(policy)
    if trains:
        settings = {name: value for name, value in sorted(vars(anchor).items()) if not name.startswith("_")}
        origin["scored"] = text_digest(weights, type(anchor).__name__, repr(settings))
    if "data" in slots:
        return origin
    origin |= whose_law(sampler)
    if set(slots) == {"reference"}:
        return origin  # the initial policy has drawn it, whatever it was called then
    origin["slots"] = " ".join(slots)
    if {"policy", "mixture"} & set(slots):
        origin["policy"] = weights
    if "anchor" in slots:
        with anchor.applied(policy):
            origin["anchor"] = _weights(policy)
    return origin


def changes(was: Origin, now: Origin) -> list[str]:
    """Return the names of what responses are drawn with that differs; what one of the two does not name is the same."""
    return [name for name, value in now.items() if name not in _NOT_DRAWN and was.get(name, value) != value]


def found_rollouts(path: Path, origin: Origin) -> Responses | Rollouts | None:
    """Return what is on disk and would be the same if it were made again; what would not is logged, and made again.

    Responses come alone where another judge has compared them, and without log-probs that were another anchor's; None
    means that there is nothing, or that it is damaged. What ``origin`` does not name may differ.
    """
    if not path.exists():
        return None
    try:
        found, was = load_rollouts(path), load_origin(path)
    except ValueError as error:
        log.warning("%s; it is made again", error)
        return None
    changed = changes(was, origin)
    if changed:
        log.warning("%s was drawn before a change of %s: it is drawn again", path, " and ".join(changed))
        return None
    if not isinstance(found, Rollouts):
        return found
    if not same_judge(was, origin):
        log.warning("%s was judged by %s: it is judged again", path, former_judge(was, origin))
        return found.responses
    if "judge" in was and "judge_identity" in origin.keys() - was.keys():
        tell_matched_by_name(was["judge"], path.parent.parent)
    if was.get("verdicts") != origin.get("verdicts", was.get("verdicts")):
        log.warning("%s holds other verdicts than the data do by now: it takes theirs", path)
        return found.responses
    if was.get("scored", origin.get("scored")) != origin.get("scored", was.get("scored")):
        log.warning("%s was scored under another anchor: it is scored again", path)
        return found.with_token_logps({"anchor": None, "current": None})
    return found


def former_judge(was: Origin, now: Origin) -> str:
    """Return what messages call a judge that was another one."""
    name = was.get("judge", "nobody")
    if name != now.get("judge"):
        return name
    if was.get("judge_identity") == now.get("judge_identity"):
        return f"{name} by other columns of the data"
    return f"{name} as it was before its settings or its code changed"


def _weights(policy: Policy) -> str:
    """Return a digest of everything that training moves."""
    folded = [(f"{name}.{i}", factor) for name, pair in policy.frozen_update().items() for i, factor in enumerate(pair)]
    return text_digest(weights_digest(trainable(policy)), weights_digest(folded))
