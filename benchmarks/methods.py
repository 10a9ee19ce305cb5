"""The README's table of methods: what their files in ``configs/algorithms/`` say of them, and ``results.json``.

python benchmarks/methods.py        # rewrites the table in README.md, and tells of new methods in CHANGELOG.md
"""

import json
import re
from pathlib import Path

import yaml
from compare import Row, methods

from lit_align import HOME

ROOT = Path(__file__).parents[1]
ADDED = "### Added\n\n"
BEGIN, END = "<!-- methods -->\n", "<!-- /methods -->\n"
HEAD = """\
| algorithm | paper | file | config | what is checked | win rate (95 %) | responses | seconds |
|---|---|---|---|---|---|--:|--:|
"""


def line(method: Row, results: dict[str, dict[str, float]]) -> str:
    text = method.overlay.read_text()
    model = yaml.safe_load(text)["model"]
    objective = model.get("init_args", {}).get("objective")
    kind, paper, checked = model["class_path"], *re.search(r"arXiv:([\d.]+).*# Tested: (.*)\.\n", text, re.S).groups()
    file = f"lit_align/{HOME[kind].replace('.', '/')}.py"
    cells = [
        f"`{kind} ({objective.upper()})`" if objective else f"`{kind}`",
        f"[{paper}](https://arxiv.org/abs/{paper})",
        f"[`{Path(file).name}`]({file})",
        f"[`{method.config}`](configs/algorithms/{method.config}.yaml)",
        checked,
    ]
    found = results.get(method.key(0))
    if found is None:
        return "| " + " | ".join([*cells, "not run", "", ""]) + " |\n"
    rate = "{win_rate:.2f} ({win_rate_low:.2f} - {win_rate_high:.2f})".format(**found)
    return "| " + " | ".join([*cells, rate, f"{found['responses']:.0f}", f"{found['seconds']:.0f}"]) + " |\n"


def table(results: dict[str, dict[str, float]]) -> str:
    """One line a method, the two papers' first."""
    papers = ["2410.20727", "2410.06293"]

    def order(text: str) -> tuple[int, str]:
        return next((place for place, paper in enumerate(papers) if paper in text), len(papers)), text.lower()

    return HEAD + "".join(sorted((line(method, results) for method in methods()), key=order))


def with_stubs(changelog: str) -> str:
    """The changelog, with what the first line of its file says of each method that is not in it yet."""
    fresh = ""
    for method in methods():
        text = method.overlay.read_text()
        kind, (title, _, said) = yaml.safe_load(text)["model"]["class_path"], text.splitlines()[0].partition(" (")
        name = title.removeprefix("# ")
        if not re.search(rf"\b({kind}|{re.escape(name)})\b", changelog, re.IGNORECASE):
            fresh += f"- **{name}** (`{kind}`, {said}\n"
    head, heading, rest = changelog.partition(ADDED)
    return head + heading + fresh + rest


def main() -> None:
    changelog = ROOT / "CHANGELOG.md"
    changelog.write_text(with_stubs(changelog.read_text()))
    path = ROOT / "benchmarks" / "results.json"
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    _, after = rest.split(END)
    results = json.loads(path.read_text()) if path.exists() else {}
    readme.write_text(f"{before}{BEGIN}{table(results)}{END}{after}")


if __name__ == "__main__":
    main()
