"""The trained examples, once per session and test process."""

from __future__ import annotations

import pytest

from support.examples import Examples


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return Examples(tmp_path_factory.mktemp("examples"))
