"""Writing: whole or not at all, one process at a time, and no other run's parts."""

import errno
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from ambient.curate import manifest as manifest_module
from ambient.curate.manifest import Work, is_finished, write_manifest, write_table
from ambient.curate.reporter import Reporter
from ambient.schemas.errors import UserError
from ambient.schemas.manifest import METADATA_KEY, ROW_GROUP_SIZE, manifest_schema, read_metadata
from manifests import METADATA, rows

HOLD = """
import sys
from pathlib import Path
from ambient.curate.manifest import Work
with Work(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_disk_that_fills_while_the_manifest_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pq.ParquetWriter.write_table

    def write_then_fail(self: pq.ParquetWriter, *arguments: object, **options: object) -> None:
        real(self, *arguments, **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write_then_fail)
    (tmp_path / "m.parquet").write_text("the old one")
    with pytest.raises(UserError, match="is full: free some space"):
        write_manifest(tmp_path / "m.parquet", rows(3), manifest_schema([]), METADATA)
    assert (tmp_path / "m.parquet").read_text() == "the old one"
    assert listing(tmp_path) == ["m.parquet"]


@pytest.mark.parametrize("sizes", [[23], [1] * 23, [0, 5, 0, 0, 11, 7, 0], [9, 14], [2, 20, 1]])
def test_curves_come_in_parts_of_any_size(sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of 7; every fifth of 28 rows has no curve, and neither has the last row group."""
    monkeypatch.setattr(manifest_module, "ROW_GROUP_SIZE", 7)
    places = [row for row in range(28) if row % 5 != 2 or row == 27][:23]
    table = rows(28).drop_columns(["p_clean", "draws"])
    curves = pa.table(
        {"row": places, "p_clean": [[row / 100, 0.5] for row in places], "draws": [[row, 8] for row in places]}
    )
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = [curves.slice(start, size) for start, size in zip(starts, sizes, strict=True)]
    path = tmp_path / "m.parquet"
    write_manifest(path, table, manifest_schema([]), METADATA, curves=iter(parts))
    found = pq.read_table(path)
    assert found["uri"].equals(table["uri"].cast(pa.string()))
    assert pq.ParquetFile(path).num_row_groups == 4
    expected = [[row, 8] if row in places else None for row in range(28)]
    assert found["draws"].to_pylist() == expected
    assert [curve and round(100 * curve[0]) for curve in found["p_clean"].to_pylist()] == [
        row if row in places else None for row in range(28)
    ]


def test_manifest_round_trip_in_row_groups(tmp_path: Path) -> None:
    table = rows(ROW_GROUP_SIZE + 10)
    path = tmp_path / "m.parquet"
    write_manifest(path, table, manifest_schema([]), METADATA)
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [ROW_GROUP_SIZE, 10]
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert file.read().equals(table)
    file.close()
    assert read_metadata(path) == METADATA


def test_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    """However the table is chunked, its columns ordered, and its dictionaries built."""
    table = rows(90, source=["b", "a", "c"] * 30, status=["ok", "unreadable", "ok"] * 30)
    shuffled = pc.take(table, pa.array(range(89, -1, -1)))
    variants = [
        table,
        pa.concat_tables([table.slice(0, 7), table.slice(7, 50), table.slice(57)]),
        table.select(table.column_names[::-1]),
        pc.take(shuffled, pa.array(range(89, -1, -1))),  # dictionaries keep the words of the other order
        pa.concat_tables([table, rows(1, source="z")]).unify_dictionaries().slice(0, 90),
    ]
    written = []
    for number, variant in enumerate(variants):
        path = tmp_path / f"{number}.parquet"
        write_manifest(path, variant, manifest_schema([]), METADATA)
        written.append(path.read_bytes())
    assert len(set(written)) == 1


def test_parts_go_at_success_and_stay_at_failure(tmp_path: Path) -> None:
    manifest = tmp_path / "deep" / "m.parquet"
    with pytest.raises(KeyboardInterrupt), Work(manifest, "run") as work:
        write_table(work.part("curves", 3), rows(2))
        raise KeyboardInterrupt
    with Work(manifest, "run") as again:
        assert not again.discarded
        assert again.part("curves", 3).exists()
        assert again.part("curves", 3).name == "curves-000003.parquet"
    assert listing(manifest.parent) == []


def test_parts_of_another_run_are_discarded(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Work(tmp_path / "m.parquet", "one") as work:
        write_table(work.part("records", 0), rows(2))
        (work.folder / "folder").mkdir()
        raise KeyboardInterrupt
    with Work(tmp_path / "m.parquet", "two") as other:
        assert other.discarded
        assert listing(other.folder) == ["lock", "run.json"]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "m.parquet.parts"
    (folder / "chapters").mkdir(parents=True)
    (folder / "thesis.tex").write_text("all of it")
    with pytest.raises(UserError, match="is not ambient's: choose another -o"), Work(tmp_path / "m.parquet", "run"):
        pass
    assert listing(folder) == ["chapters", "thesis.tex"]
    write_manifest(tmp_path / "m.parquet", rows(1), manifest_schema([]), METADATA)
    reporter = Reporter(quiet=True)
    assert is_finished(tmp_path / "m.parquet", METADATA.run, METADATA_KEY, overwrite=False, reporter=reporter)
    assert listing(folder) == ["chapters", "thesis.tex"]


def test_a_kill_while_the_parts_are_removed_leaves_a_folder_that_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(folder: Path) -> None:
        assert listing(folder) == ["lock"]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(manifest_module.shutil, "rmtree", stop)
        with pytest.raises(KeyboardInterrupt), Work(tmp_path / "m.parquet", "run") as work:
            write_table(work.part("curves", 0), rows(2))
    with Work(tmp_path / "m.parquet", "other"):
        pass
    assert listing(tmp_path) == []


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    manifest = tmp_path / "m.parquet"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(manifest), "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        write_table(manifest.with_name("m.parquet.parts") / "records-000000.parquet", rows(1))
        for run in ("run", "other"):
            with pytest.raises(UserError, match="another run is writing"), Work(manifest, run):
                pass
        assert (tmp_path / "m.parquet.parts" / "records-000000.parquet").exists()
        with Work(tmp_path / "another.parquet", "run"):
            pass  # not in the way
        holder.kill()
    with Work(manifest, "run") as work:  # a killed process holds nothing
        assert work.part("records", 0).exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), Work(tmp_path / "file" / "m.parquet", "run"):
        pass


def test_a_full_disk_at_the_start_leaves_no_open_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail)
        with pytest.raises(UserError, match="is full: free some space"), Work(tmp_path / "m.parquet", "run"):
            pass
    with Work(tmp_path / "m.parquet", "run"):
        pass
