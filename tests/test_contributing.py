"""The worked example of CONTRIBUTING.md is a whole algorithm, short, and its own law holds."""

import re
from pathlib import Path

CONTRIBUTING = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def test_the_worked_example_runs_and_is_short():
    (code,) = re.findall(r"```python\n(.*?)```", CONTRIBUTING, flags=re.DOTALL)
    assert len(code.splitlines()) < 60
    names: dict = {}
    exec(code, names)
    assert len(names["margin_of_best"]) == 4
