"""Tables of docs/performance.md: proofs and training steps, as trainer_proofs.py and train_step.py measured them.

python benchmarks/proofs_page.py
"""

import json
from pathlib import Path
from typing import Any

from marks import between

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

REFERENCE = {"cifar10": "365 (1,644 with fp16)", "imagenet512-xs": "606"}
STEPS = {
    ("cifar10", 1): "DDPM++ 55.7 M, 32x32",
    ("cifar10", 2): "the same on two GPUs",
    ("imagenet512-xs", 1): "EDM2-XS 125 M, 64x64x4, random latents in memory",
}
COMPILER = ("_compile.compile_inner", "backward._backward_impl")  # the way forward, and back; neither in the other

Row = dict[str, Any]


def main() -> None:
    page = DOCS / "performance.md"
    page.write_text(with_tables(page.read_text(), DOCS))


def with_tables(text: str, docs: Path) -> str:
    """Replace what stands between ``<!-- table NAME -->`` and ``<!-- end -->``."""
    measured = (docs / "train_step.jsonl").read_text().splitlines()
    proofs = json.loads((docs / "proofs.json").read_text())
    records = [json.loads(line) for line in measured]
    made = {
        "proofs": table(proofs),
        "steps": steps([record for record in records if "pictures" not in record]),
        "places": places([record for record in records if "pictures" in record]),
    }
    for name, lines in made.items():
        text = between(text, name, "\n".join(lines))
    return text


def steps(measured: list[Row]) -> list[str]:
    """One line per network and number of GPUs; two of them also against one."""
    lines = [
        "| network | batch | pictures/s | of the limit | data path | compiler | first step | memory | reference |",
        "|---" * 9 + "|",
    ]
    one = {m["preset"]: m["pictures_per_s"] for m in measured if m["gpus"] == 1}
    for m in measured:
        name, batch = STEPS[m["preset"], m["gpus"]], round(m["pictures_per_s"] * m["ms_per_step"] / 1000)
        many = m["gpus"] > 1
        cells = (
            f"{name} ({m['pictures_per_s'] / one[m['preset']]:.2f} times one)" if many else name,
            f"{batch:,}",
            f"{m['pictures_per_s']:,.0f}",
            f"{100 * m['share_of_peak']:.0f} %",
            f"{100 * m['data_path_share']:.1f} %",
            compiler(m),
            f"{m['first_step_s']:.0f} s",
            f"{m['memory_gib']} GiB{' each' * many}",
            "" if many else REFERENCE[m["preset"]],
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def places(measured: list[Row]) -> list[str]:
    """One line per place where pictures came from."""
    lines = ["| pictures from | pictures/s | data path | compiler | first step |", "|---" * 5 + "|"]
    for m in measured:
        cells = (
            m["pictures"],
            f"{m['pictures_per_s']:,.0f}",
            f"{100 * m['data_path_share']:.1f} %",
            compiler(m),
            f"{m['first_step_s']:.0f} s",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def compiler(measured: Row) -> str:
    """Seconds that it took; nothing where most had been compiled before."""
    seconds = [measured["compile_s"].get(phase) for phase in COMPILER]
    return f"{sum(seconds):.0f} s" if None not in seconds else ""


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
