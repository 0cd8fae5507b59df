"""The verbs on this machine's home: the methods and the answers of `Client`, without a server."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from lagar.client import given
from lagar.client.decided import settled, undecided
from lagar.client.given import Label
from lagar.registry import answers
from lagar.registry.answers import GarbageCard, GenerationCard, ModelCard, TrafficCard, VersionCard, VersionReport
from lagar.registry.catalog import who
from lagar.registry.difference import Difference
from lagar.registry.releases import Releases, Who, open_default
from lagar.settings import Compile


class Local:
    """The registry that LAGAR_HOME, LAGAR_CATALOG and LAGAR_STORE name, used by whoever runs this process."""

    def __init__(self, releases: Releases | None = None) -> None:
        self._releases = releases or open_default()
        self._who = Who(who(), socket.gethostname())

    def models(self) -> tuple[ModelCard, ...]:
        return answers.model_cards(self._releases)

    def model(self, name: str) -> ModelCard:
        return answers.model_card(self._releases, _name(name))

    def versions(self, name: str) -> tuple[VersionCard, ...]:
        return answers.version_cards(self._releases, _name(name))

    def version(self, name: str, version: Label | None = None) -> VersionReport:
        ref = answers.usual_version(self.model(name)) if version is None else _version(version)
        return answers.version_report(self._releases, _name(name), ref)

    def history(self, name: str) -> tuple[TrafficCard, ...]:
        return answers.history_cards(self._releases, _name(name))

    def diff(self, name: str, before: Label, after: Label) -> Difference:
        return self._releases.diff(_name(name), _version(before), _version(after))

    def push(
        self,
        name: str,
        path: str | Path,
        *,
        version: Label | None = None,
        example: str | Path | None = None,
        training_data: str | Path | None = None,
        code: Iterable[str | Path] = (),
        metrics: Mapping[str, float] | None = None,
        alias: str | None = None,
        note: str = "",
        requirements: str | Path | None = None,
        compile: Compile | None = None,
        trust: bool = False,
        on_step: Callable[[str, str], None] | None = None,
    ) -> VersionReport:
        from lagar.intake import environment
        from lagar.intake.push import push

        pushed = push(
            self._releases,
            _name(name),
            given.place(path, "path"),
            version=given.maybe(given.word, version, "version"),
            example=given.maybe(given.place, example, "example"),
            training_data=given.maybe(given.place, training_data, "training_data"),
            code=given.places(code, "code"),
            metrics=given.scores(metrics),
            alias=given.maybe(given.word, alias, "alias"),
            note=given.word(note, "note"),
            requirements=given.maybe(given.place, requirements, "requirements"),
            compiling=given.maybe(given.mode, compile, "compile"),
            trust=given.yes(trust, "trust"),
            who=self._who,
            on_step=on_step or (lambda _step, _words: None),
            isolate=environment.isolation(self._releases.environments),
        )
        return answers.version_report(self._releases, pushed.model, pushed.version)

    def promote(
        self, name: str, version: Label, *, note: str = "", wait: bool = True, timeout: float = 60.0
    ) -> GenerationCard:
        number = self._releases.propose(_name(name), {_version(version): 100}, self._who, note=_note(note))
        return self._decided(number, timeout if wait else None)

    def rollback(self, name: str, *, note: str = "", wait: bool = True, timeout: float = 60.0) -> GenerationCard:
        number = self._releases.rollback(_name(name), self._who, note=_note(note))
        return self._decided(number, timeout if wait else None)

    def traffic(
        self,
        name: str,
        weights: Mapping[Any, int],
        *,
        shadow: Label | None = None,
        note: str = "",
        wait: bool = True,
        timeout: float = 60.0,
    ) -> GenerationCard:
        number = self._releases.propose(
            _name(name),
            given.shares(weights),
            self._who,
            action="traffic",
            note=_note(note),
            shadow=given.maybe(given.word, shadow, "shadow"),
        )
        return self._decided(number, timeout if wait else None)

    def alias(self, name: str, alias: str, version: Label) -> dict[str, str]:
        model = _name(name)
        self._releases.set_alias(model, _alias(alias), _version(version), self._who)
        return self._releases.aliases(model)

    def drop_alias(self, name: str, alias: str) -> dict[str, str]:
        model = _name(name)
        self._releases.drop_alias(model, _alias(alias), self._who)
        return self._releases.aliases(model)

    def retire(self, name: str, version: Label, *, undo: bool = False) -> VersionCard:
        done = self._releases.retire(_name(name), _version(version), self._who, undo=undo)
        return answers.version_report(self._releases, done.model, done.version).card

    def gc(self, *, dry_run: bool = False) -> GarbageCard:
        return answers.garbage_card(self._releases.gc(dry_run=dry_run), dry_run=dry_run)

    def close(self) -> None:
        self._releases.close()

    def __enter__(self) -> Local:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _decided(self, number: int, timeout_s: float | None) -> GenerationCard:
        """The generation, once it is decided where that is waited for."""
        ends = time.monotonic() + (timeout_s or 0.0)
        while True:
            card = answers.generation_card(self._releases.generation(number))
            if timeout_s is None:
                return card
            if card.state != "prepare":
                return settled(card)
            left = ends - time.monotonic()
            if left <= 0:
                raise undecided(card, timeout_s)
            # an end by time is no change of the catalog: look each second whether it has come
            self._releases.wait_changed(min(left, 1.0))


def _name(name: Any) -> str:
    return given.word(name, "a model's name")


def _version(version: Any) -> str:
    return given.word(version, "a version")


def _alias(alias: Any) -> str:
    return given.word(alias, "an alias")


def _note(note: Any) -> str:
    return given.word(note, "note")
