"""Exact evaluation: the measures of the theory, means over contexts, intervals over copies."""

from pathlib import Path

import lightning as L
import pytest
import torch

from lit_align import WIND, ExactEvaluator, Previous, RewardFunction, Sampler
from lit_align.evaluation.win_rate import WinRate
from lit_align.games import exploitability, kl, sub_optimality, win_rate, wind_equilibrium
from lit_align.games.contexts import Contexts
from lit_align.games.enumeration import Enumeration
from lit_align.games.judge import GameJudge
from lit_align.games.policies import TabularPolicy
from lit_align.iteration.collector import Collector
from lit_align.iteration.heldout_files import HeldOutFiles
from lit_align.iteration.stages import Stages
from lit_align.models.language_model import LanguageModel
from lit_align.run_folder import RunFolder
from lit_align.runs.trainer import Trainer
from tests.conftest import prompts_of
from tests.games.playing import game, moved, tree
from tests.tiny_runs import build

BETA = 0.3
NOWHERE = HeldOutFiles(RunFolder(Path("nowhere")))


def policy(**options):
    return moved(TabularPolicy(game(6, copies=3, **options)))


def measure(evaluator, some, rows=None):
    """Evaluate some contexts, all by default."""
    collector = Collector(some, GameJudge(some.game), Sampler(), Previous(), Stages(visible=False))
    prompts = some.encode(some.game.records)
    prompts = prompts if rows is None else prompts.select(rows)
    with torch.no_grad():
        evaluator.evaluate(collector, prompts, NOWHERE, iteration=0, seed=0)
    assert not NOWHERE.run.path.exists()  # it leaves no file


def test_measures_are_the_means_over_contexts_of_those_of_the_theory():
    some, evaluator = policy(), ExactEvaluator(BETA)
    measure(evaluator, some)
    found = evaluator.result()
    law, rules = some.distribution().detach(), some.game
    equilibrium = wind_equilibrium(rules.reference, rules.preference, beta=BETA)
    expected = {
        "kl": kl(law, rules.reference),
        "exploitability": exploitability(law, rules.preference, reference=rules.reference, beta=BETA),
        "kl_to_equilibrium": kl(equilibrium, law),
        "sub_optimality": sub_optimality(law, rules.rewards),
    }
    assert found.keys() == expected.keys() | {"win_rate", "win_rate_low", "win_rate_high"}
    for name, values in expected.items():
        assert found[name] == pytest.approx(float(values.mean()), rel=1e-12), name
    wins = win_rate(law, rules.reference, rules.preference)
    assert found["win_rate"] == pytest.approx(float(wins.mean()), rel=1e-6)


def test_small_distances_keep_their_digits():
    some, evaluator = TabularPolicy(game(rewards=False)), ExactEvaluator(BETA)
    equilibrium = wind_equilibrium(some.game.reference, some.game.preference, beta=BETA)
    with torch.no_grad():
        some.logits.copy_(equilibrium.log())
        some.logits[:, 0] += 1e-6
    measure(evaluator, some)
    found = evaluator.result()["kl_to_equilibrium"]
    assert found == pytest.approx(float(kl(equilibrium, some.distribution().detach()).mean()), rel=1e-9)
    assert 0 < found < 1e-11


def test_the_interval_is_one_over_copies():
    some, evaluator = policy(), ExactEvaluator()
    measure(evaluator, some)
    found = evaluator.result()
    wins = win_rate(some.distribution().detach(), some.game.reference, some.game.preference)
    by_copy, by_context = WinRate(), WinRate()
    by_copy.update(wins, torch.tensor([0, 0, 1, 1, 2, 2]))
    by_context.update(wins, torch.arange(6))
    interval = [found[name] for name in ("win_rate", "win_rate_low", "win_rate_high")]
    assert interval == pytest.approx(by_copy.compute().tolist())
    assert interval != pytest.approx(by_context.compute().tolist(), abs=1e-3)


def test_only_the_contexts_asked_for_are_measured():
    some, evaluator = policy(), ExactEvaluator()
    rows = [4, 1]
    measure(evaluator, some, rows)
    expected = kl(some.distribution().detach(), some.game.reference)[rows].mean()
    assert evaluator.result()["kl"] == pytest.approx(float(expected), rel=1e-12)


def test_batches_add_up_and_a_result_starts_afresh():
    some, whole, parts = policy(), ExactEvaluator(BETA), ExactEvaluator(BETA)
    measure(whole, some)
    measure(parts, some, [0, 1, 2, 3])
    measure(parts, some, [4, 5])
    expected = whole.result()
    assert parts.result() == pytest.approx(expected)
    moved(some)
    for evaluator in (whole, parts):
        measure(evaluator, some)
    again = whole.result()
    assert parts.result() == pytest.approx(again)
    assert again["kl"] > expected["kl"] + 0.1


@pytest.mark.parametrize(
    ("beta", "rewards", "absent"),
    [(0.0, True, {"kl_to_equilibrium"}), (BETA, False, {"sub_optimality"}), (BETA, True, set())],
)
def test_what_a_game_does_not_have_is_not_measured(beta, rewards, absent):
    evaluator = ExactEvaluator(beta)
    measure(evaluator, policy(rewards=rewards))
    names = {"kl", "exploitability", "kl_to_equilibrium", "sub_optimality"}
    assert names - evaluator.result().keys() == absent


def test_the_reference_is_even_with_itself_and_the_equilibrium_unexploitable():
    some, evaluator = TabularPolicy(game()), ExactEvaluator(BETA)
    measure(evaluator, some)
    start = evaluator.result()
    assert start["win_rate"] == pytest.approx(0.5)
    assert start["kl"] == pytest.approx(0, abs=1e-14)
    assert start["exploitability"] > 0.01
    with torch.no_grad():
        some.logits.copy_(wind_equilibrium(some.game.reference, some.game.preference, beta=BETA).log())
    measure(evaluator, some)
    end = evaluator.result()
    assert end["exploitability"] == pytest.approx(0, abs=1e-10)
    assert end["kl_to_equilibrium"] == pytest.approx(0, abs=1e-10)


def test_an_evaluator_that_has_seen_one_game_measures_another_by_its_own_equilibrium():
    evaluator, fresh = ExactEvaluator(BETA), ExactEvaluator(BETA)
    measure(evaluator, policy())
    evaluator.result()
    other = policy(seed=5)
    for some in (evaluator, fresh):
        measure(some, other)
    assert evaluator.result() == pytest.approx(fresh.result())


def test_a_tree_is_measured_by_its_responses():
    some, evaluator = tree(), ExactEvaluator(BETA)
    measure(evaluator, some)
    expected = kl(some.distribution().detach(), some.game.reference).mean()
    assert evaluator.result()["kl"] == pytest.approx(float(expected), rel=1e-12)


def test_a_run_has_a_row_for_the_start_and_one_for_each_evaluated_iteration(tmp_path):
    torch.manual_seed(0)
    some = TabularPolicy(game(4, copies=2))
    module = WIND(
        some,
        GameJudge(some.game),
        beta=BETA,
        eta=1.0,
        sampler=Enumeration(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        evaluator=ExactEvaluator(BETA),
        keep_rollouts=False,
    )
    laws = {0: some.game.reference}
    keep = L.pytorch.callbacks.LambdaCallback(
        on_train_epoch_end=lambda trainer, module: laws.update({len(laws): some.distribution().detach()})
    )
    options = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    trainer = Trainer(
        default_root_dir=tmp_path,
        max_epochs=4,
        check_val_every_n_epoch=2,
        enable_checkpointing=False,
        callbacks=[keep],
        **options,
    )
    trainer.fit(module, Contexts(some.game))
    assert [row["iteration"] for row in module.history] == [0, 1, 2, 3, 4]
    measured = [int(row["iteration"]) for row in module.history if "val/kl" in row]
    assert measured == [0, 2, 4]
    for iteration in measured:
        expected = kl(laws[iteration], some.game.reference).mean()
        assert module.history[iteration]["val/kl"] == pytest.approx(float(expected), rel=1e-6, abs=1e-12)
    assert module.history[4]["val/kl_to_equilibrium"] < module.history[0]["val/kl_to_equilibrium"]
    assert not [path for path in tmp_path.rglob("*.parquet")]


def test_an_evaluation_by_draws_agrees_with_the_exact_one(tmp_path):
    some = moved(TabularPolicy(game(400, 3)))
    module = WIND(some, GameJudge(some.game), sampler=Sampler(group_size=2))
    options = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    trainer = Trainer(default_root_dir=tmp_path, enable_checkpointing=False, **options)
    module.iteration += 1
    (drawn,) = trainer.validate(module, Contexts(some.game), verbose=False)
    evaluator = ExactEvaluator()
    measure(evaluator, some)
    exact = evaluator.result()
    assert drawn["val/win_rate_low"] - 0.02 < exact["win_rate"] < drawn["val/win_rate_high"] + 0.02
    assert drawn["val/kl"] == pytest.approx(exact["kl"], abs=0.15)


def test_a_policy_that_cannot_be_enumerated_is_refused_in_one_line(tiny_model, pools, tmp_path):
    run = build(tiny_model, pools, tmp_path, wind={"evaluator": ExactEvaluator()})
    prompts = run.module.policy.encode(prompts_of(2))
    with pytest.raises(ValueError, match="policies that can be enumerated, not LanguageModel") as error:
        run.module.evaluator.evaluate(run.module.collector, prompts, NOWHERE, iteration=0, seed=0)
    assert "\n" not in str(error.value)
    assert WIND(LanguageModel(tiny_model), RewardFunction("tests.conftest.happiness")).evaluator.judges == {}


def test_a_negative_beta_is_refused():
    with pytest.raises(ValueError, match=r"model\.evaluator\.beta must be >= 0, got -0\.1"):
        ExactEvaluator(-0.1)
