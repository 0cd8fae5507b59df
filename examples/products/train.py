"""Train two versions of a classifier of Portuguese product texts: toy, game, book or make-up?

    python train.py                  720 generated products
    python train.py --data DIR       the real ones: DIR/products/produtos.csv and nltk-stopwords-portuguese.txt
    python train.py --out DIR        write the versions somewhere else than in `models/` beside this file

Writes `classificador-produtos/v1.0.0/` and `classificador-produtos/v1.0.1/`, each with the model and a lagar.toml.
The second takes the accents off the words it learns from, so that "aneis" is known to it as a word of books.
"""

from __future__ import annotations

import argparse
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import joblib
import pandas as pd
import shop
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import Pipeline

HERE = Path(__file__).resolve().parent
NAME = "classificador-produtos"

# Signs and letters that do not fall apart into a plain letter and an accent.
SPELLED_OUT = str.maketrans(
    {"æ": "ae", "ø": "o", "°": "deg", "™": "(tm)", "¢": "C/", "\N{SOFT HYPHEN}": "", "\N{ZERO WIDTH SPACE}": ""}
)


def without_accents(word: str) -> str:
    """ "anéis" → "aneis"."""
    letters = unicodedata.normalize("NFKD", word.translate(SPELLED_OUT))
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


VERSIONS: dict[str, Callable[[str], str]] = {"v1.0.0": str, "v1.0.1": without_accents}


def read_products(data: Path | None) -> tuple[pd.DataFrame, frozenset[str]]:
    """The products (nome, descricao, categoria) and the words to leave out."""
    if data is None:
        return shop.products(), shop.STOP_WORDS
    table = pd.read_csv(data / "products" / "produtos.csv", sep=";")
    words = (data / "products" / "nltk-stopwords-portuguese.txt").read_text(encoding="utf-8").split()
    return table, frozenset(words)


def prepare(products: pd.DataFrame, stop_words: frozenset[str], spell: Callable[[str], str]) -> pd.DataFrame:
    """The text of each product that has both name and description: lower case, stop words dropped, words spelled."""
    table = pd.DataFrame({"texto": products["nome"] + products["descricao"], "categoria": products["categoria"]})
    table = table.dropna(subset=["texto"])

    def clean(text: str) -> str:
        return " ".join(spell(word) for word in text.lower().split() if word not in stop_words)

    table["texto"] = table["texto"].map(clean)
    return table


def train(texts: pd.Series, categories: pd.Series) -> Pipeline:
    return Pipeline([("contador", CountVectorizer()), ("bayes", MultinomialNB())]).fit(texts, categories)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train two versions of the product classifier.")
    parser.add_argument("--data", type=Path, help="folder that holds products/produtos.csv and the stop words")
    parser.add_argument("--out", type=Path, default=HERE / "models", help="folder for NAME/VERSION/ (default: models/)")
    args = parser.parse_args()

    products, stop_words = read_products(args.data)
    for version, spell in VERSIONS.items():
        table = prepare(products, stop_words, spell)
        train_x, test_x, train_y, test_y = train_test_split(
            table["texto"], table["categoria"], test_size=0.2, random_state=10
        )
        model = train(train_x, train_y)
        print(f"{version}: trained on {len(train_x)} texts, {len(model[0].vocabulary_)} words known")
        print(f"{version}: accuracy on the {len(test_x)} held-out texts: {model.score(test_x, test_y)}")

        folder = args.out / NAME / version
        folder.mkdir(parents=True, exist_ok=True)
        joblib.dump(model, folder / f"{NAME}.joblib")
        for name in ("lagar.toml", "example.json"):
            shutil.copyfile(HERE / name, folder / name)
        print(f"{version}: wrote {folder}")


if __name__ == "__main__":
    main()
