"""The tables of docs/annotation.md, from docs/annotation/*.json, which annotation.py and annotation_hidden.py wrote."""

import json
from pathlib import Path
from typing import Any

from marks import between

Measured = dict[str, Any]


def write_tables(docs: Path) -> None:
    """Replace what stands between ``<!-- table KIND -->`` and ``<!-- end -->`` in DOCS/annotation.md."""
    page = docs / "annotation.md"
    page.write_text(with_tables(page.read_text(), docs / "annotation"))


def with_tables(text: str, folder: Path) -> str:
    measured = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    for kind, table in {"orders": orders, "dense": dense, "longer": longer, "oracle": oracle, "hidden": hidden}.items():
        mine = [m for m in measured if m["kind"] == kind]
        rows = "\n".join(table(mine)) if mine else "Not measured yet.\n"
        text = between(text, kind, rows)
    return text


def orders(measured: list[Measured]) -> list[str]:
    """One row per damage, one column per data set: the median sigma_min, and in brackets p10 to p90."""
    found = {m["data"]: {row["damage"]: row for row in m["rows"]} for m in measured}
    damage = [row["damage"] for row in measured[0]["rows"]]
    lines = ["| damage | " + " | ".join(found) + " |", "|---|" + "---|" * len(found)]
    for kind in damage:
        cells = [
            f"{_n(row['median'])} ({_n(row['p10'])} to {_n(row['p90'])})" for row in (m[kind] for m in found.values())
        ]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    lines.append("| in the right order | " + " | ".join("yes" if m["in_order"] else "no" for m in measured) + " |")
    return [*lines, "", *_sources(measured)]


def dense(measured: list[Measured]) -> list[str]:
    """Spearman's correlation and median |ln ratio| of each pair of estimates."""
    heads = {
        "first": "`--crossing first` to the protocol",
        "beyond": "to the protocol with its levels below 0.01",
        "reference_again": "the protocol to itself",
        "converged": "48 draws a level to the protocol",
        "rising": "default to the rising fit of the protocol's draws",
        "rising_to_first": "default to the protocol",
    }
    lines = [f"| data | pictures | {' | '.join(heads.values())} |", "|---|---|" + "---|" * len(heads)]
    for m in measured:
        pairs = [f"{m[name]['spearman']:.4f}, {m[name]['median_ln_ratio']:.3f}" for name in heads]
        lines.append(f"| {' | '.join([m['data'], str(m['compared']), *pairs])} |")
    return [*lines, "", *_sources(measured)]


def longer(measured: list[Measured]) -> list[str]:
    lines = ["| data | pool | compared | best after, allowed | median abs. ln ratio |", "|---|---|---|---|---|"]
    for m in measured:
        best = " and ".join(
            f"{judge['steps']:,} of {steps:,}" for judge, steps in zip(m["judges"], m["steps_allowed"], strict=True)
        )
        lines.append(f"| {m['data']} | {m['pool']:,} | {m['compared']:,} | {best} | {m['median_ln_ratio']:.3f} |")
    return [*lines, "", *_sources(measured)]


def oracle(measured: list[Measured]) -> list[str]:
    """Means over trainings, in brackets the lowest and the highest."""
    kl = {sigma: _spread([m["kl"][sigma] for m in measured], 4) for sigma in measured[0]["kl"]}
    lines = [f"| sigma | {' | '.join(kl)} |", "|---" * (len(kl) + 1) + "|"]
    lines += [f"| KL, nats | {' | '.join(kl.values())} |", ""]
    blurs = measured[0]["blurs"]
    heads = {
        "spearman": ("Spearman", 3),
        "median_ln_ratio": ("median abs. ln ratio", 3),
        **{k: (f"Spearman within blur {blur:g}", 2) for k, blur in enumerate(blurs)},
        "covers_own": ("interval holds its own dense value", 2),
        "covers_optimal": ("the optimum", 2),
    }
    lines += [f"| draws | {' | '.join(head for head, _ in heads.values())} |", "|---" * (len(heads) + 1) + "|"]
    for draws in measured[0]["draws"]:
        found = [dict(enumerate(m["draws"][draws]["within"])) | m["draws"][draws] for m in measured]
        cells = [_spread([each[name] for each in found], digits) for name, (_, digits) in heads.items()]
        lines.append(f"| {draws} | {' | '.join(cells)} |")
    return [*lines, "", *_sources(measured)]


def hidden(measured: list[Measured]) -> list[str]:
    """Medians of what is undamaged and of each blur, in one folder."""
    kinds = list(measured[0]["median"])[1:]
    heads = ["data", "clean set", "undamaged, in the folder", "their median", *kinds, "undamaged above a tenth of that"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for m in measured:
        whole, blurred, above = m["pictures"]["whole"], m["pictures"]["blurred"], m["whole_above_a_tenth"]
        cells = [m["data"], f"{m['clean_set']:,}", f"{whole:,} of {whole + blurred:,}"]
        cells += [*map(_n, m["median"].values()), f"{above:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *_sources(measured)]


def _spread(found: list[float], digits: int) -> str:
    among = f" ({min(found):.{digits}f} to {max(found):.{digits}f})" if len(found) > 1 else ""
    return f"{sum(found) / len(found):.{digits}f}{among}"


def _sources(measured: list[Measured]) -> list[str]:
    return [f"{m['device']}, {m['date']}: `{m['command']}`  " for m in measured]


def _n(sigma: float | None) -> str:
    return "never" if sigma is None else f"{sigma:.2g}"
