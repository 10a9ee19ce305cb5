"""Evaluations are kept in files; one of another judge, sampler or prompts never takes the place of the run's own."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from lit_align.data.rollout_store import (
    Origin,
    load_ids,
    load_origin,
    load_rollouts,
    load_texts,
    same_judge,
    save_rollouts,
)
from lit_align.iteration.origins import changes, former_judge, found_rollouts
from lit_align.run_folder import RunFolder
from lit_align.types import Prompts, Rollouts
from lit_align.utils.digests import text_digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeldOutFiles:
    """Names the files of a rank's answers to one set of prompts, one after each iteration.

    What a fit has evaluated last has a plain name, and whoever reads a run finds it there. What had one of them before,
    by another judge or sampler or on other prompts, is kept under a name of its own. ``validate`` and ``test`` leave
    alone whatever is not what they would make; where the plain name is taken, theirs has a name of its own.

    Attributes:
        run: The run folder.
        rank: The rank whose share it is.
        world_size: Number of ranks.
        test: A test made them.
        fits: A fit makes them.
    """

    run: RunFolder
    rank: int = 0
    world_size: int = 1
    test: bool = False
    fits: bool = True

    def plain(self, iteration: int) -> Path:
        """Return the file with the plain name."""
        return self._named(iteration)

    def chosen(self, iteration: int, origin: Origin, prompts: Prompts) -> Path:
        """Return where an evaluation is, or is to be written, with its responses if another judge has compared them.

        ``iteration`` counts completed ones; ``origin`` is that of what would be made.
        """
        plain, there = self.plain(iteration), self._of_same_prompts(iteration, prompts)
        own = next((path for path, was in there.items() if not changes(was, origin) and _same_judge(was, origin)), None)
        if self.fits:
            if own != plain:
                self._set_aside(iteration, origin, prompts)
            if own is not None:
                own.replace(plain)
            path = plain
        elif own is None and _is_readable(plain):
            path = self._named(iteration, _short_name(origin, prompts.record_id.tolist()))
        else:
            path = own or plain
        if own is None:
            _bring_responses(path, origin, self._of_same_prompts(iteration, prompts))
        return path

    def found(self, iteration: int, law: Origin, prompts: Prompts) -> Rollouts | None:
        """Return the evaluation by this judge and sampler (``law``) on the same prompts; None where there is none."""
        for path, was in self._of_same_prompts(iteration, prompts).items():
            if _same_law(was, law):
                found = found_rollouts(path, law)
                return found if isinstance(found, Rollouts) else None
        return None

    def _set_aside(self, iteration: int, origin: Origin, prompts: Prompts) -> None:
        """Give what has the plain name another one, unless another policy alone tells it from what is to be written."""
        plain = self.plain(iteration)
        if not _is_readable(plain):
            return
        was, ids = load_origin(plain), load_ids(plain)
        if ids == prompts.record_id.tolist() and _same_law(was, origin):
            return
        aside = self._named(iteration, _short_name(was, ids))
        plain.replace(aside)
        log.warning(
            "%s has another judge, sampler or prompts than this run by now: it is kept as %s", plain, aside.name
        )

    def _of_same_prompts(self, iteration: int, prompts: Prompts) -> dict[Path, Origin]:
        """Return the origin of every readable file of answers to these prompts, the plain one first."""
        named = self.plain(iteration).parent.glob(self._named(iteration, "*").name)
        files = [path for path in (self.plain(iteration), *sorted(named)) if _is_readable(path)]
        return {path: load_origin(path) for path in files if load_ids(path) == prompts.record_id.tolist()}

    def _named(self, iteration: int, of: str = "") -> Path:
        return self.run.evaluation(iteration, self.rank, self.world_size, test=self.test, of=of)


def _same_law(was: Origin, now: Origin) -> bool:
    return was.get("sampler") == now["sampler"] and _same_judge(was, now)


def _same_judge(was: Origin, now: Origin) -> bool:
    """Say whether the judge is the same; no judge at all is another one than any."""
    return ("judge" in was) == ("judge" in now) and same_judge(was, now)


def _bring_responses(path: Path, origin: Origin, there: dict[Path, Origin]) -> None:
    """Write the responses of a file that another judge has compared, if there is one, to be compared by this one."""
    for other, was in there.items():
        if other == path or changes(was, origin):
            continue
        try:
            found, texts = load_rollouts(other), [texts for _, texts in load_texts(other)]
        except ValueError as error:
            log.warning("%s; it is left alone", error)
            continue
        log.warning(
            "%s was judged by %s: its responses are judged again, in %s", other, former_judge(was, origin), path.name
        )
        save_rollouts(path, found.responses if isinstance(found, Rollouts) else found, texts, origin)
        return


def _is_readable(path: Path) -> bool:
    try:
        return path.exists() and bool(load_ids(path))
    except ValueError:
        return False


def _short_name(origin: Origin, ids: list[int]) -> str:
    return text_digest(json.dumps(origin, sort_keys=True), repr(ids))[:8]
