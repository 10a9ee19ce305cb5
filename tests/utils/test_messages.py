"""The one line keeps the innermost complaint behind its key, and gives a mistyped name the nearest valid one."""

import pytest

import lit_align
from lit_align.utils.messages import nearest, one_line

NESTED = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'AlignmentModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'lit_align.WIND':
        {}
    - Expected a <class 'NoneType'>
  Given value type: <class 'NestedArg'>
  Given value: NestedArg(key='risk', val='absolute')"""
JUDGE = """Parser key "judge":
          - Expected a path but {} either not accessible or invalid
          - Does not validate against any of the Union subtypes
          Subtypes: [<class 'lit_align.judges.base.Judge'>, <class 'NoneType'>]
          Errors:
            - {}"""
OPTIMIZER = """Parser key "optimizer":
          Type Callable[[Iterable], Optimizer] expects a function or a callable class: {}"""


def test_the_innermost_complaint_stays_behind_its_key():
    said = NESTED.format("""Parser key "risk":
          Expected a typing.Literal['squared', 'kl', 'nce']. Got value: absolute""")
    assert one_line(said) == "model.risk: Expected a typing.Literal['squared', 'kl', 'nce']. Got value: absolute"


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("Option 'bta' is not accepted", "model.bta: there is no such setting; did you mean model.beta?"),
        ("Option 'quux' is not accepted", "model.quux: there is no such setting"),
        (
            "unrecognized arguments: --polcy.name=x",
            "model.polcy.name: there is no such setting; did you mean model.policy.name?",
        ),
        (
            OPTIMIZER.format("Option 'lrr' is not accepted. Got value: Namespace(class_path='torch.optim.SGD', x=1)"),
            "model.optimizer.lrr: there is no such setting; did you mean model.optimizer.lr?",
        ),
        (
            OPTIMIZER.format("module 'torch.optim' has no attribute 'AdamWW'. Got value: torch.optim.AdamWW"),
            "model.optimizer: there is no class or function 'torch.optim.AdamWW'; did you mean torch.optim.AdamW?",
        ),
        (
            JUDGE.format("Sentimnet", "Expected a dot import path string: Sentimnet"),
            "model.judge: there is no class or function 'Sentimnet'; did you mean Sentiment?",
        ),
        (
            JUDGE.format("RewardJudg", "Expected a dot import path string: RewardJudg"),
            "model.judge: there is no class or function 'RewardJudg'; did you mean RewardModel?",
        ),
        (
            JUDGE.format("lit_align.Sentimnet", "module 'lit_align' has no attribute 'Sentimnet'"),
            "model.judge: there is no class or function 'lit_align.Sentimnet'; did you mean lit_align.Sentiment?",
        ),
        (
            JUDGE.format("Foo", "Expected a dot import path string: Foo"),
            "model.judge: there is no class or function 'Foo'; give a known name or a dotted path",
        ),
    ],
)
def test_what_is_mistyped_within_a_class_gets_the_nearest_name_that_is_valid_there(said, line):
    for name in ("Sentiment", "RewardModel"):
        getattr(lit_align, name)  # classes count once they are imported
    assert one_line(NESTED.format(said)) == line


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("trainer.max_epoch", "trainer.max_epochs"),
        ("max_epochs", "trainer.max_epochs"),
        ("modle.beta", "model.beta"),
        ("optimzer.lr", "model.optimizer.lr"),
        ("trainer.quux", None),
        ("quux", None),
        ("quux.beta", None),
    ],
)
def test_a_setting_is_looked_for_whole_by_its_last_part_and_by_its_first(typed, meant):
    settings = {"model", "data", "model.optimizer", "trainer.max_epochs", "trainer.devices", "seed_everything"}
    assert nearest(typed, settings) == meant
    advice = f"; did you mean {meant}?" if meant else ""
    expected = f"{typed}: there is no such setting{advice}"
    assert one_line(f"Subcommand 'fit' does not accept option '{typed}'", settings) == expected
    assert one_line(f"unrecognized arguments: --{typed} 3", settings) == expected


def test_a_plain_message_is_left_as_it_is():
    said = "judge.function: cannot import 'math.sinn' (module 'math' has no attribute 'sinn')"
    assert one_line(said) == said
    assert one_line("data.train has no prompts") == "data.train has no prompts"
    assert one_line("Errors:") == "Errors:"
