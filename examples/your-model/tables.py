"""The four tables of the task: generated in the columns of the real ones, or read from their files.

Each reader gives the inputs and the target, already without the rows that have no target.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_iris

Table = tuple[pd.DataFrame, pd.Series]

IRIS = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
SPECIES = ["setosa", "versicolor", "virginica"]


def iris(data: Path | None) -> Table:
    """150 flowers, 4 lengths in cm; the target is 0 setosa, 1 versicolor, 2 virginica."""
    if data is None:
        inputs, species = load_iris(return_X_y=True, as_frame=True)
        return inputs.set_axis(IRIS, axis=1), species.rename("species")
    table = pd.read_csv(data / "tabular" / "small" / "iris.csv", header=0, names=[*IRIS, "species"])
    return table[IRIS], table["species"].str.removeprefix("Iris-").map(SPECIES.index)


def california(data: Path | None) -> Table:
    """Districts of California; the target is the median price of a house in 100,000 dollars."""
    file = "tabular/california/california_housing.csv"
    table = _districts() if data is None else pd.read_csv(data / file)
    return table.drop(columns="MedHouseVal"), table["MedHouseVal"]


def _districts(count: int = 1500, seed: int = 1) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    income = random.lognormal(1.25, 0.45, count).clip(0.5, 15)
    rooms = (4.2 + 0.35 * income + random.normal(0, 0.8, count)).clip(1, 20)
    table = pd.DataFrame(
        {
            "MedInc": income.round(4),
            "HouseAge": random.integers(1, 53, count).astype(float),
            "AveRooms": rooms,
            "AveBedrms": (rooms / 5 + random.normal(0, 0.1, count)).clip(0.4, 5),
            "Population": random.lognormal(7, 0.7, count).round(),
            "AveOccup": random.lognormal(1.05, 0.25, count),
            "Latitude": random.uniform(32.5, 42, count).round(2),
            "Longitude": random.uniform(-124.3, -114.3, count).round(2),
        }
    )
    coast = table["Longitude"] + 0.85 * (table["Latitude"] - 37) + 119
    price = 0.4 + 0.42 * table["MedInc"] - 0.08 * coast + random.normal(0, 0.4, count)
    return table.assign(MedHouseVal=price.clip(0.15, 5.00001).round(3))


def bank(data: Path | None) -> Table:
    """Calls of a bank's campaign; the target is 1 where the customer signed. Cells nobody asked for say "unknown".

    `duration` is left out: how long a call took is known only when its result is.
    """
    table = _calls() if data is None else pd.read_csv(data / "tabular" / "bank" / "bank_marketing_train_data.csv")
    return table.drop(columns=["duration", "y"]), (table["y"] == "yes").astype(int)


JOBS = [
    "admin.", "blue-collar", "entrepreneur", "housemaid", "management", "retired", "self-employed", "services",
    "student", "technician", "unemployed", "unknown",
]  # fmt: skip
EDUCATION = [
    "basic.4y", "basic.6y", "basic.9y", "high.school", "illiterate", "professional.course", "university.degree",
    "unknown",
]  # fmt: skip
MONTHS = ["mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]


def _calls(count: int = 2000, seed: int = 2) -> pd.DataFrame:
    random = np.random.default_rng(seed)

    def one_of(values: list[str], unknown: float = 0.0) -> np.ndarray:
        chosen = random.choice(values, count)
        return np.where(random.random(count) < unknown, "unknown", chosen)

    called_before = random.random(count) < 0.15
    rate = random.choice([-3.4, -1.8, -0.1, 1.1, 1.4], count)
    euribor = (2.9 + 1.3 * rate / 2 + random.normal(0, 0.1, count)).clip(0.6, 5.1).round(3)
    table = {
        "age": random.normal(40, 11, count).clip(17, 95).astype(int),
        "job": one_of(JOBS),
        "marital": one_of(["divorced", "married", "single"], 0.01),
        "education": one_of(EDUCATION),
        "default": one_of(["no", "no", "no", "no", "yes"], 0.2),
        "housing": one_of(["no", "yes"], 0.02),
        "loan": one_of(["no", "no", "no", "yes"], 0.02),
        "contact": one_of(["cellular", "telephone"]),
        "month": one_of(MONTHS),
        "day_of_week": one_of(["mon", "tue", "wed", "thu", "fri"]),
        "duration": random.exponential(250, count).astype(int),
        "campaign": random.geometric(0.4, count),
        "pdays": np.where(called_before, random.integers(1, 20, count), 999),
        "previous": np.where(called_before, random.integers(1, 4, count), 0),
        "poutcome": np.where(called_before, random.choice(["failure", "success"], count), "nonexistent"),
        "emp.var.rate": rate,
        "cons.price.idx": random.normal(93.6, 0.55, count).round(3),
        "cons.conf.idx": random.normal(-40.5, 4.6, count).round(1),
        "euribor3m": euribor,
        "nr.employed": (5160 + 28 * rate).round(1),
    }
    leaning = -2.2 - 0.5 * rate + 2.0 * (table["poutcome"] == "success") + 0.6 * (table["contact"] == "cellular")
    signed = random.random(count) < 1 / (1 + np.exp(-leaning))
    return pd.DataFrame({**table, "y": np.where(signed, "yes", "no")})


SENSORS = [
    "PT08.S1(CO)", "NMHC(GT)", "C6H6(GT)", "PT08.S2(NMHC)", "NOx(GT)", "PT08.S3(NOx)", "NO2(GT)", "PT08.S4(NO2)",
    "PT08.S5(O3)", "T", "RH", "AH",
]  # fmt: skip
MISSING = -200
"""What the air station writes where a sensor gave nothing."""


def air_quality(data: Path | None) -> Table:
    """Hourly readings of an air station; the target is the carbon monoxide in mg/m³. Missing readings are -200."""
    if data is None:
        table = _hours()
    else:
        # Decimal commas, an empty last column and empty last rows: the file was made by a spreadsheet.
        table = pd.read_csv(data / "tabular" / "air-quality" / "AirQualityUCI.csv", sep=";", decimal=",")
        table = table.dropna(how="all")
    table = table[table["CO(GT)"] != MISSING]
    return table[SENSORS].astype(float), table["CO(GT)"].astype(float)


def _hours(count: int = 1500, seed: int = 3) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    traffic = 1.5 + np.sin(np.arange(count) * 2 * np.pi / 24) + random.normal(0, 0.35, count)
    carbon = traffic.clip(0.1)

    def sensor(base: float, slope: float, noise: float, decimals: int = 0) -> np.ndarray:
        return (base + slope * carbon + random.normal(0, noise, count)).clip(0.1).round(decimals)

    table = {
        "CO(GT)": carbon.round(1),
        "PT08.S1(CO)": sensor(750, 170, 50),
        "NMHC(GT)": sensor(40, 100, 60),
        "C6H6(GT)": sensor(0.5, 4.7, 1, 1),
        "PT08.S2(NMHC)": sensor(600, 160, 40),
        "NOx(GT)": sensor(60, 100, 60),
        "PT08.S3(NOx)": sensor(1150, -130, 90),
        "NO2(GT)": sensor(60, 25, 20),
        "PT08.S4(NO2)": sensor(1100, 160, 120),
        "PT08.S5(O3)": sensor(450, 260, 120),
        "T": random.normal(18, 8, count).round(1),
        "RH": random.normal(49, 16, count).clip(9, 89).round(1),
        "AH": random.normal(1.0, 0.35, count).clip(0.2, 2.2).round(4),
    }
    for name, values in table.items():
        share = 0.6 if name == "NMHC(GT)" else 0.08
        table[name] = np.where(random.random(count) < share, MISSING, values)
    return pd.DataFrame(table)


READERS: dict[str, Callable[[Path | None], Table]] = {
    "iris": iris,
    "california": california,
    "bank": bank,
    "air-quality": air_quality,
}
