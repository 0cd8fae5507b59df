"""Train the churn model: will this customer of a telephone company leave?

    python train.py                  3,000 generated customers with the columns of the real data
    python train.py --data DIR       the real customers, from DIR/churn/WA_Fn-UseC_-Telco-Customer-Churn.csv
    python train.py --out DIR        write somewhere else than beside this file

Writes `churn-model.bin`: **one pickle with a tuple of two things**, the vectoriser that turns a customer (a dict)
into numbers and the model that takes those numbers. Lagar serves the two together.
"""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import train_test_split

HERE = Path(__file__).resolve().parent

CATEGORICAL = [
    "gender", "seniorcitizen", "partner", "dependents", "phoneservice", "multiplelines", "internetservice",
    "onlinesecurity", "onlinebackup", "deviceprotection", "techsupport", "streamingtv", "streamingmovies",
    "contract", "paperlessbilling", "paymentmethod",
]  # fmt: skip
NUMERICAL = ["tenure", "monthlycharges", "totalcharges"]

INTERNET_EXTRAS = [
    "OnlineSecurity",
    "OnlineBackup",
    "DeviceProtection",
    "TechSupport",
    "StreamingTV",
    "StreamingMovies",
]
PAYMENTS = ["Electronic check", "Mailed check", "Bank transfer (automatic)", "Credit card (automatic)"]


def generate_customers(count: int = 3000, seed: int = 11) -> pd.DataFrame:
    """Made-up customers in the columns, spellings and quirks of the real file: a blank TotalCharges for new ones."""
    random = np.random.default_rng(seed)

    def yes(share: float) -> np.ndarray:
        return np.where(random.random(count) < share, "Yes", "No")

    contract = random.choice(["Month-to-month", "One year", "Two year"], count, p=[0.55, 0.21, 0.24])
    longest = pd.Series(contract).map({"Month-to-month": 40, "One year": 65, "Two year": 73}).to_numpy()
    tenure = (random.random(count) * longest).astype(int)
    phone = yes(0.9)
    internet = random.choice(["DSL", "Fiber optic", "No"], count, p=[0.34, 0.44, 0.22])
    table: dict[str, object] = {
        "customerID": [f"{number:04d}-LAGAR" for number in range(count)],
        "gender": random.choice(["Female", "Male"], count),
        "SeniorCitizen": (random.random(count) < 0.16).astype(int),
        "Partner": yes(0.48),
        "Dependents": yes(0.3),
        "tenure": tenure,
        "PhoneService": phone,
        "MultipleLines": np.where(phone == "No", "No phone service", yes(0.45)),
        "InternetService": internet,
    }
    monthly = 20.0 + 25.0 * (internet == "DSL") + 50.0 * (internet == "Fiber optic")
    for name in INTERNET_EXTRAS:
        extra = np.where(internet == "No", "No internet service", yes(0.4))
        table[name] = extra
        monthly = monthly + 5.0 * (extra == "Yes")
    monthly = (monthly + random.normal(0, 2, count)).round(2)
    table |= {"Contract": contract, "PaperlessBilling": yes(0.59), "PaymentMethod": random.choice(PAYMENTS, count)}
    table["MonthlyCharges"] = monthly
    table["TotalCharges"] = [" " if t == 0 else f"{t * m:.2f}" for t, m in zip(tenure, monthly, strict=True)]
    leaning = -1.6 + 1.3 * (contract == "Month-to-month") - 0.04 * tenure + 0.9 * (internet == "Fiber optic")
    table["Churn"] = np.where(random.random(count) < 1 / (1 + np.exp(-leaning - 0.5)), "Yes", "No")
    return pd.DataFrame(table)


def read_customers(data: Path | None) -> pd.DataFrame:
    if data is None:
        return generate_customers()
    return pd.read_csv(data / "churn" / "WA_Fn-UseC_-Telco-Customer-Churn.csv")


def prepare(customers: pd.DataFrame) -> pd.DataFrame:
    """Names and texts in lower case with "_" for spaces, TotalCharges as a number (blank: 0), churn as 0 or 1."""
    table = customers.rename(columns=lambda name: name.lower().replace(" ", "_"))
    table["totalcharges"] = pd.to_numeric(table["totalcharges"], errors="coerce").fillna(0.0)
    for name in table.select_dtypes(exclude="number").columns:
        table[name] = table[name].str.lower().str.replace(" ", "_", regex=False)
    table["churn"] = (table["churn"] == "yes").astype(int)
    return table


def records(table: pd.DataFrame) -> list[dict[str, object]]:
    """Each customer as the dict that the service receives; customerid is no input."""
    return table[CATEGORICAL + NUMERICAL].to_dict(orient="records")


def train(table: pd.DataFrame, sort: bool = False) -> tuple[DictVectorizer, LogisticRegression]:
    """The vectoriser and the model.

    liblinear stops long before it has converged on columns of such different sizes, so where it stops depends on
    the order of the columns and on the processor's kernels of linear algebra. In the alphabetical order
    (sort=True) two processors gave probabilities 0.06 apart; in the order of the lists above nine kinds
    of kernels agree to 0.000002. So sort=False.
    """
    vectoriser = DictVectorizer(sparse=False, sort=sort)
    model = LogisticRegression(solver="liblinear", C=0.5)
    model.fit(vectoriser.fit_transform(records(table)), table["churn"])
    return vectoriser, model


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the churn model.")
    parser.add_argument("--data", type=Path, help="folder that holds churn/WA_Fn-UseC_-Telco-Customer-Churn.csv")
    parser.add_argument("--out", type=Path, default=HERE, help="where to write (default: beside train.py)")
    args = parser.parse_args()

    table = prepare(read_customers(args.data))
    train_part, test_part = train_test_split(table, test_size=0.2, random_state=1)
    vectoriser, model = train(train_part)
    probability = model.predict_proba(vectoriser.transform(records(test_part)))[:, 1]
    print(f"trained on {len(train_part)} customers")
    print(f"area under the ROC curve on {len(test_part)} others: {roc_auc_score(test_part['churn'], probability)}")
    print(f"accuracy at 0.5: {accuracy_score(test_part['churn'], probability >= 0.5)}")

    args.out.mkdir(parents=True, exist_ok=True)
    with open(args.out / "churn-model.bin", "wb") as file:
        pickle.dump((vectoriser, model), file)
    print(f"wrote {args.out / 'churn-model.bin'}")


if __name__ == "__main__":
    main()
