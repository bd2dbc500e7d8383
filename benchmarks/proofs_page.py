"""The table of docs/performance.md's proofs, made from docs/proofs.json, which trainer_proofs.py measured.

python benchmarks/proofs_page.py
"""

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
NAMES = {
    "bf16 compiled to fp32 eager, seed 0": "bf16 compiled to fp32 eager, one seed",
    "bf16 compiled to fp32 eager, seed 1": "the same, another seed",
    "two processes, ddp, to one": "two GPUs, DDP, to one, fp32 weights and bf16 steps",
    "two processes, fsdp, to one": "two GPUs, FSDP, to one",
    "two processes, ddp, killed; then one": "begun with DDP on two GPUs, SIGKILL, continued on one, to one",
    "two processes, fsdp, killed; then one": "begun with FSDP on two GPUs, SIGKILL, continued on one, to one",
}
YARDSTICKS = {
    "precision": "fp32, one seed to another",
    "world": "one GPU, one seed to another",
    "resize": "one GPU, one seed to another",
}

Row = dict[str, Any]


def main() -> None:
    page = DOCS / "performance.md"
    page.write_text(with_table(page.read_text(), json.loads((DOCS / "proofs.json").read_text())))


def with_table(text: str, proofs: dict[str, Row]) -> str:
    """Replace what stands between ``<!-- table proofs -->`` and ``<!-- end -->``."""
    made = "\n".join(table(proofs))
    return re.sub("(<!-- table proofs -->\n).*?(<!-- end -->)", rf"\g<1>{made}\n\g<2>", text, flags=re.DOTALL)


def table(proofs: dict[str, Row]) -> list[str]:
    """One line per comparison: the difference of two curves, and what it is to be compared with."""
    lines = ["| what | difference | yardstick | date |", "|---|---|---|---|"]
    for name, proof in proofs.items():
        if name in YARDSTICKS:
            first, *others = proof["rows"]
            found = [(NAMES[row["what"]], row["rms"], f"{first['rms']:.4f}: {YARDSTICKS[name]}") for row in others]
        elif name == "resume":
            among, later, resumed = proof["rows"]
            these = f"{among['least']:.4f} to {among['rms']:.4f}: those three to each other"
            what = "SIGKILL and continued on one GPU, the next 50 steps, to three undisturbed runs"
            found = [(what, resumed["rms"], f"{these}; {later['rms']:.4f}: a run to itself one step later")]
        else:
            continue
        lines += [f"| {what} | {rms:.4f} | {yardstick} | {proof['date']} |" for what, rms, yardstick in found]
    return lines


if __name__ == "__main__":
    main()
