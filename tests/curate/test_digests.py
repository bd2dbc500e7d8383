"""Digests: of bytes, of values, of files."""

import hashlib
from pathlib import Path

import pytest
from ambient.curate import digests
from ambient.schemas.errors import UserError


def test_of_a_file_and_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    expected = hashlib.blake2b(data, digest_size=16).hexdigest()
    assert digests.of_bytes(data) == digests.of_file(tmp_path / "file") == expected


def test_of_a_value() -> None:
    assert digests.of_json({"a": 1, "b": [1, "ü"]}) == digests.of_json({"b": [1, "ü"], "a": 1})
    assert len({digests.of_json(value) for value in (1, "1", [1], {"a": 1}, None, 1.5)}) == 6


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="cannot be read") as error:
            digests.of_file(path)
        assert "\n" not in str(error.value)
