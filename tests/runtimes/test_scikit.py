"""scikit-learn is imported without pandas, and is the same scikit-learn."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from conftest import Trained

ALONE = """
    import sys
    from lagar.runtimes.scikit import import_alone

    import_alone()
    assert "sklearn.utils.fixes" in sys.modules
    assert "pandas" not in sys.modules
    assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("lagar")]
    import numpy as np
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LinearRegression
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    LinearRegression().fit(np.eye(3), [1, 2, 3]).predict(np.eye(3))
    assert "pandas" not in sys.modules
    import pandas as pd

    frame = pd.DataFrame({"city": ["Porto", "Lisboa"], "size": [1.0, 3.0]})
    pair = make_column_transformer((OneHotEncoder(sparse_output=False), ["city"]), (StandardScaler(), ["size"]))
    made = pair.set_output(transform="pandas").fit_transform(frame)
    assert list(made.columns)[-1] == "standardscaler__size"
    assert made["standardscaler__size"].tolist() == [-1.0, 1.0]
    assert sys.modules["sklearn.utils.fixes"].pd.DataFrame is pd.DataFrame
"""

LOADED = """
    import sys
    from pathlib import Path
    from lagar.intake.inspect import find_models
    from lagar.runtimes import load

    (source,) = find_models([Path(sys.argv[1])]).sources
    load(source)
    assert "sklearn" in sys.modules
    assert "pandas" not in sys.modules, "nor pyarrow behind it"
"""


def run(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), *arguments], check=True, timeout=120)


def test_pandas_is_imported_when_it_is_wanted_and_everything_is_as_it_was() -> None:
    run(ALONE)


def test_a_model_of_numbers_is_loaded_and_tried_without_pandas(logistic: Trained) -> None:
    run(LOADED, str(logistic.path))
