"""The log of a run."""

from pathlib import Path

from ambient.train import metrics


def test_lines_are_added(tmp_path: Path) -> None:
    for images in (10, 20):
        metrics.append(tmp_path / "metrics.jsonl", {"images": images})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"images": 10}\n{"images": 20}\n'


def test_metrics_are_cut_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"images": 10}\n{"images": 20}\n{"images": 30}\n{"ima')
    metrics.cut(path, 20)
    assert path.read_text() == '{"images": 10}\n{"images": 20}\n'
    metrics.cut(path, 0)
    assert path.read_text() == ""
