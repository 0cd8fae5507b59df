"""Which versions answer for a model: rows that are only added, so that who put what into production is never lost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from lagar.errors import InvalidVersion
from lagar.registry import records
from lagar.registry.tables import traffic as table

Action = Literal["promote", "rollback", "traffic", "retire", "load", "unload"]


class Split(msgspec.Struct, frozen=True):
    """What answers for one model: version → percent (sum 100; {}: nothing), and which version only listens."""

    weights: dict[str, int]
    shadow: str | None = None


class Traffic(msgspec.Struct, frozen=True):
    """One line of a model's history."""

    id: int
    model: str
    weights: dict[str, int]
    shadow: str | None
    at: float
    by: str
    host: str
    action: Action
    note: str
    generation: int
    before: int | None
    """The line that a rollback from this one restores."""

    @property
    def split(self) -> Split:
        return Split(self.weights, self.shadow)


def last(connection: Connection, model: str) -> Traffic | None:
    """The line that counts now; None for a model that was never live."""
    row = connection.execute(sa.select(table).where(table.c.model == model).order_by(table.c.id.desc()).limit(1))
    found = row.first()
    return None if found is None else _traffic(found)


def at(connection: Connection, generation: int | None = None) -> dict[str, Traffic]:
    """What counted for each model after a generation (None: now), models that nothing answers for left out."""
    upto = sa.select(sa.func.max(table.c.id)).group_by(table.c.model)
    if generation is not None:
        upto = upto.where(table.c.generation <= generation)
    rows = connection.execute(sa.select(table).where(table.c.id.in_(upto)).order_by(table.c.model))
    return {row.model: _traffic(row) for row in rows if row.weights != "{}"}


def history(connection: Connection, model: str) -> list[Traffic]:
    """Every line of a model, oldest first."""
    rows = connection.execute(sa.select(table).where(table.c.model == model).order_by(table.c.id))
    return [_traffic(row) for row in rows]


def previous(connection: Connection, model: str) -> tuple[Split, int | None]:
    """What a rollback restores, and what a second one would; raises InvalidVersion where there is nothing."""
    now = last(connection, model)
    records.require(connection, model)
    if now is None or now.before is None:
        if now is None:
            first = "was never live"
        elif len(history(connection, model)) == 1:
            first = f"has only ever had {describe(now.split)}"
        else:
            first = f"is back at what was live first, {describe(now.split)}"
        raise InvalidVersion(f"{model} {first}: there is nothing to roll back to; `lagar history {model}` shows why")
    row = connection.execute(sa.select(table).where(table.c.id == now.before)).one()
    found = _traffic(row)
    return found.split, found.before


def checked(connection: Connection, model: str, split: Split) -> Split:
    """The split with labels for aliases; raises NotFound, and InvalidVersion for weights or states that cannot be."""
    weights: dict[str, int] = {}
    for ref, weight in split.weights.items():
        label = records.resolve(connection, model, ref)
        if label in weights:
            raise InvalidVersion(f"the traffic of {model} names version {label} twice")
        weights[label] = weight
    _check_weights(model, weights)
    shadow = None if split.shadow is None else records.resolve(connection, model, split.shadow)
    if shadow is not None and (shadow in weights or not weights):
        raise InvalidVersion(f"the shadow of {model} must be another version than those that answer, got {shadow}")
    for label in (*weights, *([shadow] if shadow else [])):
        if records.state_of(connection, model, label) != "ready":
            raise InvalidVersion(f"{model}@{label} is retired: `lagar retire {model} {label} --undo` brings it back")
    return Split(weights, shadow)


def insert(
    connection: Connection, model: str, split: Split, *, generation: int, before: int | None, values: Mapping[str, Any]
) -> None:
    """Add a line; `values` are at, by, host, action and note."""
    connection.execute(
        table.insert().values(
            model=model,
            weights=json.dumps(split.weights),
            shadow=split.shadow,
            generation=generation,
            before=before,
            **values,
        )
    )


def describe(split: Split) -> str:
    """In words: "version 3", "1 (90 %) and 2 (10 %), shadow 4", "nothing"."""
    if not split.weights:
        return "nothing"
    if len(split.weights) == 1:
        text = f"version {next(iter(split.weights))}"
    else:
        text = " and ".join(f"{label} ({weight} %)" for label, weight in split.weights.items())
    return f"{text}, shadow {split.shadow}" if split.shadow else text


def _check_weights(model: str, weights: Mapping[str, int]) -> None:
    if not weights:
        return
    for label, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int) or not 0 < weight <= 100:
            raise InvalidVersion(f"the weight of {model}@{label} must be a whole percentage of 1 to 100, got {weight}")
    if sum(weights.values()) != 100:
        raise InvalidVersion(f"the weights of {model} must add up to 100, got {sum(weights.values())}")


def _traffic(row: Row[Any]) -> Traffic:
    return Traffic(**{**row._mapping, "weights": json.loads(row.weights)})
