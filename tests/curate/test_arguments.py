"""Words of the command line that say several things."""

import pytest
from ambient.curate.arguments import moved_roots, named, numbers
from ambient.schemas.errors import UserError


def test_names_and_values() -> None:
    assert named(None, "--weights", "measure=FILE") == {}
    assert named(["a=b", "c=d=e"], "--weights", "measure=FILE") == {"a": "b", "c": "d=e"}


def test_roots() -> None:
    assert moved_roots(None) == {}
    assert moved_roots(["pool=/a=b", "clean=/c"]) == {"pool": "/a=b", "clean": "/c"}
    for bad in ("pool", "pool="):
        with pytest.raises(UserError, match="--root is written name=path"):
            moved_roots([bad])


def test_numbers() -> None:
    assert numbers("1,5,9-12", "--seeds") == [1, 5, 9, 10, 11, 12]
    assert numbers("3", "--labels") == [3]
    for bad in ("", "a", "1,", "-3", "3-", "5-2", "1.5"):
        with pytest.raises(UserError, match="--seeds is written"):
            numbers(bad, "--seeds")
