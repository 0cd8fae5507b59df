"""The verbs on this machine's home: the methods and the answers of `Client`, without a server."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType

from lagar.client.decided import settled, undecided
from lagar.client.upload import each
from lagar.registry import answers
from lagar.registry.answers import GarbageCard, GenerationCard, ModelCard, TrafficCard, VersionCard, VersionReport
from lagar.registry.catalog import who
from lagar.registry.difference import Difference
from lagar.registry.releases import Releases, Who, open_default
from lagar.settings import Compile, compile_mode


class Local:
    """The registry that LAGAR_HOME, LAGAR_CATALOG and LAGAR_STORE name, used by whoever runs this process."""

    def __init__(self, releases: Releases | None = None) -> None:
        self._releases = releases or open_default()
        self._who = Who(who(), socket.gethostname())

    def models(self) -> tuple[ModelCard, ...]:
        return answers.model_cards(self._releases)

    def model(self, name: str) -> ModelCard:
        return answers.model_card(self._releases, name)

    def versions(self, name: str) -> tuple[VersionCard, ...]:
        return answers.version_cards(self._releases, name)

    def version(self, name: str, version: str | None = None) -> VersionReport:
        ref = answers.usual_version(self.model(name)) if version is None else version
        return answers.version_report(self._releases, name, ref)

    def history(self, name: str) -> tuple[TrafficCard, ...]:
        return answers.history_cards(self._releases, name)

    def diff(self, name: str, before: str, after: str) -> Difference:
        return self._releases.diff(name, before, after)

    def push(
        self,
        name: str,
        path: str | Path,
        *,
        version: str | None = None,
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
            name,
            Path(path),
            version=version,
            example=None if example is None else Path(example),
            training_data=None if training_data is None else Path(training_data),
            code=each(code),
            metrics=dict(metrics or {}),
            alias=alias,
            note=note,
            requirements=None if requirements is None else Path(requirements),
            compiling=None if compile is None else compile_mode(compile, "compile"),
            trust=trust,
            who=self._who,
            on_step=on_step or (lambda _step, _words: None),
            isolate=environment.isolation(self._releases.environments),
        )
        return answers.version_report(self._releases, name, pushed.version)

    def promote(
        self, name: str, version: str, *, note: str = "", wait: bool = True, timeout: float = 60.0
    ) -> GenerationCard:
        number = self._releases.propose(name, {version: 100}, self._who, note=note)
        return self._decided(number, timeout if wait else None)

    def rollback(self, name: str, *, note: str = "", wait: bool = True, timeout: float = 60.0) -> GenerationCard:
        return self._decided(self._releases.rollback(name, self._who, note=note), timeout if wait else None)

    def traffic(
        self,
        name: str,
        weights: Mapping[str, int],
        *,
        shadow: str | None = None,
        note: str = "",
        wait: bool = True,
        timeout: float = 60.0,
    ) -> GenerationCard:
        number = self._releases.propose(name, weights, self._who, action="traffic", note=note, shadow=shadow)
        return self._decided(number, timeout if wait else None)

    def alias(self, name: str, alias: str, version: str) -> dict[str, str]:
        self._releases.set_alias(name, alias, version, self._who)
        return self._releases.aliases(name)

    def drop_alias(self, name: str, alias: str) -> dict[str, str]:
        self._releases.drop_alias(name, alias, self._who)
        return self._releases.aliases(name)

    def retire(self, name: str, version: str, *, undo: bool = False) -> VersionCard:
        label = self._releases.retire(name, version, self._who, undo=undo).version
        return answers.version_report(self._releases, name, label).card

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
