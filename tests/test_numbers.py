"""No number of a public class may be nan or infinite: what slips through a comparison is refused by its name."""

import inspect
import math
import re
import typing

import pytest

import lit_align
from lit_align import HOME, LanguageModel, Sampler

NEEDED = {
    "policy": LanguageModel("nobody/nothing"),
    "function": "math.sqrt",
    "name": "nobody/nothing",
    "model": "nobody/nothing",
    "path": "nowhere",
    "prompts_per_iteration": 4,
}
SLOTS = {
    "IterativeBOND": ["policy", *["anchor"] * 2],
    "JBOND": ["policy", "anchor", "anchor"],
    "NashMD": ["policy", "mixture"],
    "XPO": ["policy", "reference"],
}
# Built from tensors, a game or rollouts; the first three refuse what is not finite in tests/games.
NOT_TRIED = {"Contexts", "Game", "GameJudge", "Replay", "TreePolicy"}


def numbers(kind: type) -> list[str]:
    """Names of the arguments that are numbers, or may be."""
    hints = typing.get_type_hints(kind.__init__)
    return [name for name, hint in hints.items() if any(one in (int, float) for one in (hint, *typing.get_args(hint)))]


def needed(kind: type) -> dict[str, typing.Any]:
    parameters = inspect.signature(kind).parameters.values()
    given = {p.name: NEEDED.get(p.name) for p in parameters if p.default is p.empty and p.kind < p.VAR_POSITIONAL}
    slots = SLOTS.get(kind.__name__)
    return given | ({"sampler": Sampler(sources=tuple(slots))} if slots else {})


def kinds() -> list[str]:
    found = {name: getattr(lit_align, name) for name in HOME}
    built = {name: kind for name, kind in found.items() if inspect.isclass(kind) and inspect.isfunction(kind.__init__)}
    ready = {name for name, kind in built.items() if not inspect.isabstract(kind)}
    return sorted(name for name in ready - NOT_TRIED if numbers(built[name]))


@pytest.mark.parametrize("name", kinds())
def test_a_number_that_is_not_finite_is_refused_wherever_it_is_given(name, tmp_path):
    kind = getattr(lit_align, name)
    given = needed(kind) | ({"default_root_dir": tmp_path} if name == "Trainer" else {})
    kind(**given)
    for argument in numbers(kind):
        for value in (math.nan, math.inf, -math.inf):
            with pytest.raises((ValueError, TypeError, OverflowError)):
                print(f"{name} takes {argument}={value}", kind(**given | {argument: value}))


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: lit_align.Trainer(gradient_clip_val=-1.0), "trainer.gradient_clip_val must be >= 0"),
        (lambda: lit_align.WIND(NEEDED["policy"], None, warmup_steps=-1), "model.warmup_steps must be >= 0"),
        (lambda: lit_align.PromptPool(heldout_limit=-1), "data.heldout_limit must be >= 1"),
        (lambda: lit_align.RunRecord(samples=-1), "RunRecord.samples must be >= 0"),
    ],
    ids=["gradient_clip_val", "warmup_steps", "heldout_limit", "samples"],
)
def test_a_number_below_its_range_is_refused_as_it_is_typed(make, setting):
    with pytest.raises(ValueError, match=re.escape(setting)):
        make()
