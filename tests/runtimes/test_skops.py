"""skops files: opened without a pickle, their types held to the allow-list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from lagar.errors import LoadFailed, UnsafePickle
from lagar.intake.inspect import find_models
from lagar.runtimes import load
from runtimes.conftest import answers, same

skops = pytest.importorskip("skops.io", reason="skops is not installed")

X = np.arange(40.0).reshape(20, 2)
Y = [0, 1] * 10


class Odd(LogisticRegression):
    """A class that is on no list."""


def test_a_skops_file_answers_as_its_model(tmp_path: Path) -> None:
    model = make_pipeline(FunctionTransformer(np.log1p), StandardScaler(), LogisticRegression()).fit(X, Y)
    skops.dump(model, tmp_path / "coin.skops")
    loaded = load(find_models([tmp_path / "coin.skops"]).sources[0])
    same(answers(loaded, X)["predict_proba"], model.predict_proba(X))
    assert (loaded.source.name, loaded.source.kind, loaded.source.pickled) == ("coin", "sklearn", False)


def test_a_type_outside_the_allow_list_is_named(tmp_path: Path) -> None:
    skops.dump(Odd().fit(X, Y), tmp_path / "odd.skops")
    with pytest.raises(UnsafePickle, match=r"outside the allow-list: .*test_skops\.Odd.*--code FILE.*--trust"):
        load(find_models([tmp_path / "odd.skops"]).sources[0])


def test_a_damaged_file_is_told_of_as_such(tmp_path: Path) -> None:
    path = tmp_path / "coin.skops"
    skops.dump(LogisticRegression().fit(X, Y), path)
    path.write_bytes(path.read_bytes().replace(b"__module__", b"__mudule__"))
    with pytest.raises(LoadFailed, match=r"coin\.skops (cannot be read by skops|is a damaged zip archive)"):
        load(find_models([path]).sources[0])
