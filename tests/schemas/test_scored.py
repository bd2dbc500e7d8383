"""What a table of scores says about itself is read back, and what is damaged is one line."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ambient.schemas.errors import UserError
from ambient.schemas.manifest import RECORD
from ambient.schemas.scored import SCORED_KEY, Scored, read_scored

SCORED = Scored(run="0", roots={"pool": "/p"}, command="c", package_version="0", settings={"by": ["noise"]})


def write(path: Path, metadata: bytes) -> Path:
    pq.write_table(RECORD.empty_table().replace_schema_metadata({SCORED_KEY: metadata}), path)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_scored(write(tmp_path / "s.parquet", SCORED.to_bytes())) == SCORED


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"null", "cannot be read"),
        (b"[1]", "cannot be read"),
        (b'{"version": 2}', "another version"),
        (b'{"version": 1}', "is not complete"),
        (SCORED.to_bytes().replace(b'"run"', b'"ran"'), "is not complete"),
        (SCORED.to_bytes().replace(b'{"pool": "/p"}', b'["/p"]'), "is not complete"),
        (SCORED.to_bytes().replace(b'"/p"', b"1"), "is not complete"),
    ],
)
def test_damaged_metadata_is_one_line(tmp_path: Path, metadata: bytes, words: str) -> None:
    path = write(tmp_path / "s.parquet", metadata)
    with pytest.raises(UserError, match=rf"s\.parquet .*{words}.*: score the pool again$") as error:
        read_scored(path)
    assert "\n" not in str(error.value)
