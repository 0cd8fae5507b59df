"""Real models with the signatures of `protocols.views`, so that the corpus has its outcomes on a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import joblib
from sklearn.datasets import load_wine
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from protocols.views import CHURN_RECORD, WINE_NAMES

_CHURN = '''
class Churn:
    """True for those who came lately; every value that was sent has a part in the probability."""

    def load(self, path):
        pass

    def predict(self, rows):
        shares = [1 / (2 + row["tenure"] + len(str(sorted(row.items())))) for row in rows]
        return {
            "predict": [row["tenure"] < 12 for row in rows],
            "predict_proba": [[1 - share, share] for share in shares],
        }
'''
_CHURN_RULES = """
class = "churn_model:Churn"
example = "example.json"

[fields]
gender = { type = "string", categories = ["female", "male"] }
contract = { type = "string", categories = ["month-to-month", "one_year", "two_year"] }
plan = { type = "string", categories = ["a", "b"], unknown = "allow" }
tenure = { type = "int", range = [0, 600] }
charges = { type = "float" }
discount = { type = "float", nullable = true }
paperless = { type = "bool" }
visits = { type = "int", default = 3 }
zone = { nullable = false }
"""

_STRICT = '''
import numpy as np


class Strict:
    """The weighted sum of a row."""

    def load(self, path):
        pass

    def predict(self, rows: np.ndarray):
        return rows @ np.array([1.0, 0.5, 0.25])
'''
_STRICT_RULES = """
class = "strict_model:Strict"
extra_fields = "refuse"

[fields]
a = { type = "float" }
b = { type = "int" }
k = { categories = [0, 1] }
"""

_OPEN = '''
import numpy as np


class Open:
    """The sum of a row of any width."""

    def load(self, path):
        pass

    def predict(self, rows: np.ndarray):
        return rows.sum(axis=1)
'''


def corpus_models(folder: Path) -> list[Path]:
    """Models named wine, churn, text, strict and open below `folder`, each of version 1."""
    _custom(folder / "churn", "churn_model.py", _CHURN, _CHURN_RULES)
    # `zone` takes a text or a number: two example rows leave its type open
    records = [CHURN_RECORD, {**CHURN_RECORD, "zone": 7}]
    (folder / "churn" / "example.json").write_text(json.dumps(records))
    _custom(folder / "strict", "strict_model.py", _STRICT, _STRICT_RULES)
    _custom(folder / "open", "open_model.py", _OPEN, 'class = "open_model:Open"\n')
    return [folder / name for name in ("churn", "strict", "open")] + [_wine(folder), _text(folder)]


def _custom(folder: Path, module: str, source: str, rules: str) -> None:
    folder.mkdir(parents=True)
    (folder / module).write_text(source)
    (folder / "lagar.toml").write_text(f'name = "{folder.name}"\nversion = "1"\n{rules}')


def _wine(folder: Path) -> Path:
    rows, labels = load_wine(return_X_y=True, as_frame=True)
    rows.columns = list(WINE_NAMES)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(rows, labels)
    return _saved(model, folder / "wine")


def _text(folder: Path) -> Path:
    texts = ["dark souls", "minecraft", "senhor dos anéis", "dom casmurro"]
    model = make_pipeline(CountVectorizer(), MultinomialNB()).fit(texts, ["game", "game", "livro", "livro"])
    return _saved(model, folder / "text")


def _saved(model: Any, folder: Path) -> Path:
    (folder / "1").mkdir(parents=True)
    joblib.dump(model, folder / "1" / "model.joblib")
    return folder
