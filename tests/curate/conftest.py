"""What every test of curation shares."""

from collections.abc import Iterator

import pytest
from ambient.curate.uris import close_archives


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    """Archives stay open while a program runs, whatever becomes of their files."""
    yield
    close_archives()
