"""What is given on the command line and is no model or no code is refused for what it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lagar.errors import SetupError
from lagar.intake.inspect import common_of, survey


def test_a_pipe_is_not_called_missing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.pkl")
    with pytest.raises(SetupError, match=r"model\.pkl is a pipe, a socket or a device"):
        survey([tmp_path / "model.pkl"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my features.py", "no pickle can import a module of this name"),
        ("sklearn.py", "would hide the library 'sklearn'"),
    ],
)
def test_code_that_could_not_be_imported_or_would_hide_a_library_is_refused(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / name).write_text("def double(x):\n    return x * 2\n")
    with pytest.raises(SetupError, match=message):
        common_of(name=None, code=[tmp_path / name], example=None, trust=False)
    assert common_of(name=None, code=[tmp_path], example=None, trust=False).code == (str(tmp_path),)
