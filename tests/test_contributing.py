"""The examples of CONTRIBUTING.md: an algorithm that is whole and short, a metric, and the configs that take them."""

import csv
import re
from pathlib import Path

import yaml

from lit_align import RewardFunction, Sampler
from lit_align.cli import main
from tests.command_line import write_config, write_yaml

CONTRIBUTING = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
CODE, METRICS = re.findall(r"```python\n(.*?)```", CONTRIBUTING, flags=re.DOTALL)
(OVERLAY,) = re.findall(r"```yaml\n(.*?)```", CONTRIBUTING, flags=re.DOTALL)


def test_the_worked_example_runs_and_is_short():
    assert len(CODE.splitlines()) < 60
    names: dict = {}
    exec(CODE, names)
    assert len(names["margin_of_best"]) == 4


def test_a_config_names_the_worked_example_and_what_it_is_made_of(tmp_path, tiny_model, pools, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("hinge_of_a_page.py").write_text(CODE.split("# tests/")[0])
    folder = write_config(tmp_path, tiny_model, pools)
    config = yaml.safe_load(Path(folder, "config.yaml").read_text())
    del config["model"]["init_args"]["beta"]
    config["model"]["class_path"] = "hinge_of_a_page.HingePO"
    config["model"]["init_args"]["delta"] = 2.0
    path = write_yaml(tmp_path / "own" / "hinge.yaml", config)
    cli = main(["plan", "-c", str(path), "--model.sampler.temperature", "0.5"])
    assert type(cli.model).__name__ == "HingePO"
    assert cli.model.delta == 2.0
    assert isinstance(cli.model.judge, RewardFunction)
    assert cli.model.sampler == Sampler(group_size=4, max_new_tokens=8, temperature=0.5)


def test_a_config_names_the_metrics_and_they_are_columns(tmp_path, tiny_model, pools, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("my_metrics.py").write_text(METRICS)
    Path("metrics.yaml").write_text(OVERLAY)
    cli = main(["fit", "-c", write_config(tmp_path, tiny_model, pools), "-c", "metrics.yaml"])
    with (Path(cli.trainer.default_root_dir) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["val/loud"] for row in rows] == ["0.0", "0.0"]
    assert all(0 <= float(row[f"val/says_{word}"]) <= 1 for row in rows for word in ("sun", "rain"))
    assert float(cli.trainer.callback_metrics["val/loud"]) == 0
    assert "loud" in capsys.readouterr().out
    cli = main(["validate", "-c", str(cli.trainer.default_root_dir), "--ckpt_path", "last"])
    assert float(cli.trainer.callback_metrics["val/says_sun"]) == float(rows[-1]["val/says_sun"])
