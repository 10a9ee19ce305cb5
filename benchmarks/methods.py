"""What the README's table says of every method; its last columns come from ``results.json``.

python benchmarks/methods.py        # rewrites the table in README.md
"""

import json
from dataclasses import dataclass
from pathlib import Path

from compare import methods

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- methods -->\n", "<!-- /methods -->\n"


KEYS = {row.config: row.key(0) for row in methods()}


@dataclass(frozen=True)
class Method:
    """A row: config in configs/algorithms/, class, its file in algorithms/, arXiv id, the law that is tested."""

    config: str
    name: str
    file: str
    paper: str
    checked: str


METHODS = [
    Method(
        "wind", "WIND", "wind", "2410.20727", "minimiser = exact step for every law of the responses and group size"
    ),
    Method(
        "bond", "IterativeBOND", "bond", "2407.14622", "moves of the anchor = best-of-n laws; mixing step; U-statistic"
    ),
    Method("jbond", "JBOND", "jbond", "2407.14622", "expected gradient over all triples = that of its objective"),
    Method("dpo", "DPO", "dpo", "2305.18290", "minimiser = anchor · exp(r / beta) under Bradley–Terry"),
    Method("robust_dpo", "RobustDPO", "dpo", "2403.00409", "unbiased under flipped labels"),
    Method(
        "accelerated_dpo",
        "AcceleratedPO (DPO)",
        "accelerated_po",
        "2410.06293",
        "T iterations = ref · exp(W_T r / beta)",
    ),
    Method(
        "accelerated_ipo",
        "AcceleratedPO (IPO)",
        "accelerated_po",
        "2410.06293",
        "IPO step from the extrapolated iterate",
    ),
    Method(
        "accelerated_sppo",
        "AcceleratedPO (SPPO)",
        "accelerated_po",
        "2410.06293",
        "bound under a dominating arm; cycling",
    ),
    Method("sppo", "SPPO", "sppo", "2405.00675", "multiplicative weights with the true offset; bias of ½"),
    Method("inpo", "INPO", "inpo", "2407.00617", "mirror-descent step; = WIND in other parameters"),
    Method("onpo", "ONPO", "onpo", "2502.16852", "two optimistic steps; closes in on rock–paper–scissors"),
    Method("nash_md", "NashMD", "nash_md", "2312.00886", "sequence-level gradient; limit with the mixture opponent"),
    Method("ipo", "IPO", "ipo", "2310.12036", "minimiser = ref · exp(P(y > mu) / tau)"),
    Method("xpo", "XPO", "xpo", "2405.21046", "closed form of the population; alpha = 0 is DPO"),
    Method("simpo", "SimPO", "simpo", "2405.14734", "closed form on enumerated responses; token means"),
    Method("alpha_dpo", "AlphaDPO", "alpha_dpo", "2410.10148", "alpha = 0 is SimPO; statistics over the iteration"),
    Method("aipo", "AIPO", "aipo", "2409.08845", "gradient weight; alpha = lambda = 0 is DPO"),
    Method("minor_dpo", "MinorDPO", "minor_dpo", "2408.09834", "= DPO where the rejected ratio is positive"),
    Method("chi_po", "ChiPO", "chi_po", "2407.13399", "minimiser = Lambert-W law; finite at log-ratios of 1e4"),
    Method("rpo", "RPO", "rpo", "2405.16436", "eta = 0 is DPO; SFT term as sum or mean"),
    Method("exo", "EXO", "exo", "2402.00856", "minimiser = tilted reference on a group"),
    Method("exo_pairwise", "EXOPairwise", "exo", "2402.00856", "margin log((1 - eps) / eps)"),
    Method("mpo", "MPO", "mpo", "2312.16430", "gradient weight sigma(h) sigma(-h); from memory, preference term alone"),
]


def row(method: Method, results: dict[str, dict[str, float]]) -> str:
    cells = [
        f"`{method.name}`",
        f"[{method.paper}](https://arxiv.org/abs/{method.paper})",
        f"[`{method.file}.py`](lit_align/algorithms/{method.file}.py)",
        f"[`{method.config}`](configs/algorithms/{method.config}.yaml)",
        method.checked,
    ]
    found = results.get(KEYS.get(method.config, ""))
    if found is None:
        return "| " + " | ".join([*cells, "not run", "", ""]) + " |"
    rate = "{win_rate:.2f} ({win_rate_low:.2f} - {win_rate_high:.2f})".format(**found)
    return "| " + " | ".join([*cells, rate, f"{found['responses']:.0f}", f"{found['seconds']:.0f}"]) + " |"


def main() -> None:
    path = ROOT / "benchmarks" / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    head = "| algorithm | paper | file | config | what is checked | win rate (95 %) | responses | seconds |\n"
    head += "|---|---|---|---|---|---|--:|--:|\n"
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    _, after = rest.split(END)
    rows = "".join(f"{row(method, results)}\n" for method in METHODS)
    readme.write_text(f"{before}{BEGIN}{head}{rows}{END}{after}")


if __name__ == "__main__":
    main()
