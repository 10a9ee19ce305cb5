"""The profile of an iteration, through a run."""

import pytest

from lit_align.callbacks.profile import STAGES, Profile
from tests.command_line import write_config
from tests.tiny_runs import build


def test_every_stage_has_its_seconds_and_those_of_a_model_their_work(tiny_model, pools, tmp_path, capsys):
    run = build(tiny_model, pools, tmp_path, profile=True).fit()
    (profile,) = (callback for callback in run.trainer.callbacks if isinstance(callback, Profile))
    assert set(profile.seconds) == set(STAGES)
    assert set(profile.operations) == set(STAGES) - {"judge"}
    assert all(value > 0 for value in (*profile.seconds.values(), *profile.operations.values()))
    # Two policies were scored, and a backward pass costs at least as much as a forward pass.
    assert profile.operations["score"] == 2 * profile.operations["sample"]
    assert profile.operations["train"] > 2 * profile.operations["sample"]
    said = capsys.readouterr().out
    assert "profile of the last iteration" in said
    assert all(stage in said for stage in STAGES)


def test_shares_are_of_the_iteration_and_of_the_peak():
    profile = Profile()
    profile.seconds, profile.operations = {"sample": 3.0, "judge": 1.0}, {"sample": 6e9}
    table = profile.table(fastest=4e9)
    cells = {column.header: list(column.cells) for column in table.columns}
    assert cells["stage"] == ["sample", "judge"]
    assert cells["share of time"] == ["75%", "25%"]
    assert cells["share of peak"] == ["50%", "-"]


@pytest.mark.slow
def test_the_command_line_has_a_switch_for_it(tiny_model, pools, tmp_path, capsys):
    from lit_align.cli import main

    main(["fit", "-c", write_config(tmp_path, tiny_model, pools), "--profile"])
    assert "share of peak" in capsys.readouterr().out


def test_a_policy_without_layers_is_refused():
    from lit_align.cli import main

    with pytest.raises(ValueError, match="--profile counts the work of a LanguageModel"):
        main(["fit", "-c", "configs/bandit/wind.yaml", "--profile", "--trainer.max_epochs", "1"])
