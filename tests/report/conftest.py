"""The headless browser, one for all tests that draw."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.report.chromium import Tab, find_chromium, open_tab


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """A tab without network."""
    program = find_chromium()
    if program is None:
        advice = "no Chromium found; install Debian's with: apt-get install chromium"
        if "CI" in os.environ:
            pytest.fail(advice)
        pytest.skip(advice)
    with open_tab(program, tmp_path_factory.mktemp("profile")) as tab:
        yield tab
