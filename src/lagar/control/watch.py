"""A server that was given paths: what lies there is what its workers answer with, and with --watch stays so.

Each place (a model file, a folder that is a model) is looked at once a second. What is as it was at the look before and
is written by nobody is taken in like a push, and goes live through the same switch as a promote. A place that cannot be
served keeps what it served before; the reason is told once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from lagar.control import disk, pins
from lagar.control.compiling import Compiler
from lagar.control.disk import Stamp
from lagar.control.progress import Given
from lagar.errors import LagarError, SettingsError, SetupError
from lagar.intake import inspect, paths
from lagar.intake.inspect import Common, Place
from lagar.intake.paths import Admitted, Finding, Found, Progress
from lagar.logs import Log
from lagar.registry.mirror import Mirror
from lagar.registry.model import Asked, ModelSource, without_folders
from lagar.registry.releases import Releases, Who
from lagar.server.channel import Commit, Message, Prepare, Prepared
from lagar.settings import Compile

LOOK_S = 1.0
KEPT_S = 3600.0
"""How often the files of what is served are marked as in use: `lagar gc` removes laid-out versions unused for a day."""

T = TypeVar("T")


class Seen(msgspec.Struct, frozen=True):
    """A place at one look."""

    place: Place
    root: str
    stamp: Stamp


class Look(msgspec.Struct, frozen=True):
    """All places at one look."""

    places: dict[Path, Seen] = {}
    lost: dict[str, str] = {}
    """A path that was given and shows no model at all → why."""


class Watcher:
    """Brings the workers of one server what lies at its paths."""

    def __init__(
        self, releases: Releases, asked: Asked, tell: Callable[[Message], None], log: Log, *, who: Who,
        progress: Progress, at_once: int, watch: bool, mirrors: Mapping[str, Mirror], default_model: str,
        pinned: Sequence[str], generation: int, sources: tuple[ModelSource, ...], begun: Callable[[], None],
        refused: Callable[[dict[str, str]], None], count: Callable[[str], None], compiling: Compile, load: bool,
    ) -> None:  # fmt: skip
        self._releases = releases
        self._asked = asked
        self._tell = tell
        self._log = log
        self._who = who
        self._progress = Given(progress, self._with_urls)
        self._at_once = at_once
        self._watch = watch
        self._load = load
        """False: what lies there at the start is taken in, and not in service."""
        self._compiling = compiling
        self._compiler = Compiler(releases, log, build=True)
        self._mirrors = mirrors
        """The folders in which S3 prefixes lie."""
        self._default_model = default_model
        self._pins = pinned
        self._generation = generation
        """The last one that was prepared; -1 before the first."""
        self._begun = begun
        """Called when the first set is known."""
        self._say_refused = refused
        self._count = count
        self._waiting: asyncio.Future[Prepared] | None = None
        self._seen = Look()
        self._tried: dict[Path, Stamp] = {}
        """How each place looked when it was taken in, or refused, last."""
        self._wrong: dict[Path, str] = {}
        self._told: set[str] = set()
        """What was said about paths, once each."""
        self._good: dict[Path, Admitted] = {_path(source): _served(source) for source in sources}
        self._kept_at = time.monotonic()
        self._off: frozenset[str] = frozenset()
        """Models that were taken out of service, as long as this process lives."""
        self._acting = asyncio.Lock()
        """One switch at a time: what the paths say, what was compiled, what is taken out of service."""

    def heard(self, outcome: Prepared) -> None:
        """The supervisor says how a preparation ended."""
        if self._waiting is not None and not self._waiting.done() and outcome.generation == self._generation:
            self._waiting.set_result(outcome)

    def supervised(self) -> None:
        """The supervisor lives: nothing here depends on it."""

    async def run(self) -> None:
        """Serve until cancelled; raises SetupError when the paths cannot be served at the start."""
        if self._generation < 0:
            await self._begin()
        else:
            self._begun()
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                async with self._acting:
                    if self._watch:
                        await self._turn()
                    if self._compiling != "off":
                        await self._take_compiled()
                if time.monotonic() - self._kept_at > KEPT_S:
                    self._kept_at = time.monotonic()
                    await asyncio.to_thread(self._keep_files)
            except LagarError as error:
                self._tell_once("the paths cannot be followed; the versions in use go on", error.message)
            except Exception as error:  # whatever it is, the next look may go well again
                self._tell_once("the paths cannot be followed; the versions in use go on", repr(error))

    async def _begin(self) -> None:
        """The first set: what was given itself must be right, and of each folder something."""
        look = await apart(lambda: self._look(strict=True))
        finding = await apart(lambda: self._find(look))
        for line in finding.skipped:
            self._log.warning(line)
        for place, wrong in finding.wrong:
            self._refuse(place.path, wrong.message, level="warning")
        tell = self._refuse_at_once() if len(finding.found) > 1 else None  # else what ends the start says so
        admitted, refused = await apart(lambda: self._admit(finding.found, tell))
        for place, error in refused:
            if place.given or not admitted:
                raise error
        if not self._watch:
            served = {(one.source.name, one.source.version) for one in admitted}
            await apart(lambda: pins.refuse_versions(self._pins, served, self._releases))
        admitted = await self._compiled(admitted)
        self._good = {one.found.place.path: one for one in admitted}
        self._off = frozenset() if self._load else frozenset(one.source.name for one in admitted)
        self._seen, self._tried = look, {path: seen.stamp for path, seen in look.places.items()}
        self._begun()
        if (await self._prepare(self._good)).ok:
            self._tell(Commit(self._generation))

    def _find(self, look: Look) -> Finding:
        """What lies at the paths; those that are still empty are waited for."""
        local = zip(self._asked.paths, self._local().paths, strict=True)
        there = tuple(path for given, path in local if given not in look.lost)
        for given, why in look.lost.items():
            self._log.warning(f"{given} shows no model yet; what is put there is served", reason=self._with_urls(why))
        paths.common_of(self._asked)
        if not there:
            self._check_pins(set())
            return Finding((), ())
        finding = paths.find(msgspec.structs.replace(self._asked, paths=there))
        names = {one.source.name for one in finding.found}
        if not look.lost:
            self._check_default(names)
        self._check_pins(names | {place.name for place, _ in finding.wrong})
        return finding

    def _check_pins(self, names: set[str]) -> None:
        """A model that nothing lies at the paths of cannot come, unless they are watched."""
        if not self._watch:
            pins.refuse_models(self._pins, names)
            return
        for pin in self._pins:
            if pin.partition("@")[0] not in names:
                self._log.warning(
                    f"{pin} is pinned, and nothing at the paths is called so; it stays loaded if it comes"
                )

    def _check_default(self, names: set[str]) -> None:
        if self._default_model and self._default_model not in names:
            raise SettingsError(
                f"default_model must be one of the models served ({', '.join(sorted(names))}), got "
                f"{self._default_model!r}"
            )

    # Looking

    def _local(self) -> Asked:
        """The paths as they lie on this machine."""
        local = tuple(str(self._mirrors[path].path) if path in self._mirrors else path for path in self._asked.paths)
        return msgspec.structs.replace(self._asked, paths=local)

    def _look(self, *, strict: bool = False) -> Look:
        """Every place as it looks now; `strict` raises where a path shows nothing and nothing can come."""
        places: dict[Path, Seen] = {}
        lost: dict[str, str] = {}
        beside = [*self._asked.code, *([self._asked.example] if self._asked.example else [])]
        shared = disk.stamp(map(Path, beside))
        for given, local in zip(self._asked.paths, self._local().paths, strict=True):
            try:
                if given in self._mirrors:
                    self._mirrors[given].follow(at_once=strict)
                for place in inspect.places_at(Path(local).expanduser().absolute(), []):
                    own = disk.stamp([place.path, *self._beside(place.path)])
                    places[place.path] = Seen(place, given, own | shared)
            except SetupError as error:
                if strict and not (self._watch and inspect.is_bare(Path(local))):
                    raise
                lost[given] = error.message
        return Look(places, lost)

    def _beside(self, path: Path) -> list[Path]:
        """Code outside of a model's folder that its lagar.toml names."""
        one = self._good.get(path)
        return [] if one is None else [Path(code) for code in one.found.source.code]

    async def _turn(self) -> None:
        """Act on what has changed and lies still."""
        before, self._seen = self._seen, await asyncio.to_thread(self._look)
        look = self._seen
        for given, why in look.lost.items():
            if before.lost.get(given) != why:
                self._tell_once(f"{given} shows no model; what is served of it goes on", why)
        for path in set(self._tried) - set(look.places):
            self._tried.pop(path)
            if self._wrong.pop(path, None):
                self._say_wrong()
        changed = [
            seen
            for path, seen in look.places.items()
            if self._tried.get(path) != seen.stamp and path in before.places and before.places[path].stamp == seen.stamp
        ]
        changed = [seen for seen in changed if not await asyncio.to_thread(disk.is_unfinished, seen.stamp)]
        left = self._without_gone(look, before)
        if changed or len(left) < len(self._good):
            await self._act(changed, left)

    def _without_gone(self, look: Look, before: Look) -> dict[Path, Admitted]:
        """What is left to be served: places that are no more are left out, but for the last good one of a model whose
        other places are not yet served, and the last one of all."""
        left = dict(self._good)
        for path, one in self._good.items():
            if path in look.places or path in before.places or _lies_in(path, look.lost, self._roots()):
                continue
            others = [other for where, other in left.items() if where != path]
            model = one.source.name
            replaced = any(other.source.name == model for other in others)
            awaited = any(seen.place.name == model and where not in left for where, seen in look.places.items())
            if others and (replaced or not awaited):
                del left[path]
            else:
                self._tell_once(f"{path} is gone; {model}@{one.source.version} goes on until there is another", "")
        return left

    def _roots(self) -> dict[str, Path]:
        return {
            given: Path(local).expanduser().absolute()
            for given, local in zip(self._asked.paths, self._local().paths, strict=True)
        }

    # Acting

    async def _act(self, changed: list[Seen], left: dict[Path, Admitted]) -> None:
        common = paths.common_of(self._asked)
        found: list[Found] = []
        for seen in changed:
            path = seen.place.path
            self._tried[path] = seen.stamp
            try:
                found.append(Found(seen.place, await asyncio.to_thread(inspect.source_at, seen.place, common)))
            except SetupError as error:
                self._refuse(path, error.message)
        admitted, refused = await apart(lambda: self._admit(found))
        admitted = await self._compiled(admitted)
        for place, refusal in refused:
            self._refuse(place.path, refusal.message)
        fresh = {one.found.place.path: one for one in admitted if self._fits(one, left, common)}
        await self._go_over(left, fresh)

    def _fits(self, one: Admitted, left: Mapping[Path, Admitted], common: Common) -> bool:
        """Whether it may stand beside the others; the reason is told where not."""
        path = one.found.place.path
        others = [other.found for where, other in left.items() if where != path and where in self._seen.places]
        try:
            inspect.refuse_together(
                [*(other.place for other in others), one.found.place],
                [*(other.source for other in others), one.found.source],
                common,
            )
        except SetupError as error:
            self._refuse(path, error.message)
            return False
        return True

    async def _go_over(self, left: dict[Path, Admitted], fresh: dict[Path, Admitted]) -> None:
        """Switch to what is left with what is new; where all of it together cannot be loaded, one after the other."""
        why = await self._switch(left | fresh)
        if not why:
            for path in fresh:
                self._accept(path)
            return
        if len(fresh) <= 1:
            for path in fresh:
                self._refuse(path, why)
            if fresh and len(left) < len(self._good):
                await self._switch(left)
            return
        for path, one in fresh.items():
            await self._go_over(left if path == next(iter(fresh)) else dict(self._good), {path: one})

    async def _compiled(self, admitted: list[Admitted]) -> list[Admitted]:
        """With --compile wait, each in the forms that it is to serve in; with off, as it was saved."""
        if self._compiling == "off":  # what was compiled here before is not used either
            return [_with(one, msgspec.structs.replace(one.source, forms=())) for one in admitted]
        if self._compiling != "wait":
            return admitted
        now = self._compiler.now
        return [_with(one, await apart(partial(now, one.source))) for one in admitted]

    async def _take_compiled(self) -> None:
        """Switch to what was compiled since the last look; what is new has its turn."""
        sources = [one.source for one in self._good.values()]
        self._compiler.want(sources)
        done = await asyncio.to_thread(self._compiler.done, sources)
        if not done:
            return
        wanted = {
            path: _with(one, done.get((one.source.name, one.source.version), one.source))
            for path, one in self._good.items()
        }
        why = await self._switch(wanted)
        if why:
            self._log.error("a compiled version cannot be served; it goes on as it was saved", reason=why)

    async def _switch(self, wanted: dict[Path, Admitted]) -> str:
        """Why the workers cannot answer with that; "" when they do."""
        if self._set(wanted) == self._set(self._good):
            self._good = wanted
            return ""
        outcome = await self._prepare(wanted)
        if not outcome.ok:
            self._count("failed")
            return outcome.reason or "it could not be loaded"
        self._tell(Commit(self._generation))
        self._count("switched")
        self._good = wanted
        return ""

    async def _prepare(self, wanted: Mapping[Path, Admitted]) -> Prepared:
        self._generation += 1
        self._waiting = asyncio.get_running_loop().create_future()
        sources, live = self._set(wanted)
        self._tell(Prepare(self._generation, tuple(sources.values()), live))
        return await self._waiting

    def _set(self, wanted: Mapping[Path, Admitted]) -> tuple[dict[str, ModelSource], dict[str, str]]:
        """The versions that are in service, each once, and those that answer when none is named."""
        on = [one for one in wanted.values() if one.source.name not in self._off]
        sources = {f"{one.source.name}@{one.source.version}": one.source for one in on}
        return dict(sorted(sources.items())), paths.live_of(on)

    # In service or not

    def placed(self) -> list[tuple[str, str, bool]]:
        """Name, version, and whether it is in service, of all that lies at the paths and is good."""
        sources = {(one.source.name, one.source.version) for one in self._good.values()}
        return [(name, version, name not in self._off) for name, version in sorted(sources)]

    def refused_places(self) -> list[tuple[str, str]]:
        """Name and reason of what lies at the paths and is not served."""
        return sorted((path.name, self._with_urls(without_folders(why))) for path, why in self._wrong.items())

    async def put_in_service(self, model: str, on: bool) -> str:
        """Switch all versions of a model on or off, until this server ends; why that cannot be, or ""."""
        async with self._acting:
            before = self._off
            self._off = before - {model} if on else before | {model}
            if self._off == before:
                return ""
            outcome = await self._prepare(self._good)
            if not outcome.ok:
                self._off = before
                self._count("failed")
                return outcome.reason or "it could not be loaded"
            self._tell(Commit(self._generation))
            self._count("switched")
            self._log.info(f"{model} is {'' if on else 'not '}in service")
            return ""

    def _admit(
        self, found: Sequence[Found], tell: Callable[[Place, LagarError], None] | None = None
    ) -> tuple[list[Admitted], list[tuple[Place, LagarError]]]:
        return paths.admit_all(
            self._releases, found, self._who, self._progress, at_once=self._at_once, tell=tell or (lambda *_: None)
        )

    def _refuse_at_once(self) -> Callable[[Place, LagarError], None]:
        """What tells of refusals while others are still taken in, whatever thread it is called in."""
        loop = asyncio.get_running_loop()

        def tell(place: Place, error: LagarError) -> None:
            if not place.given:
                loop.call_soon_threadsafe(self._refuse, place.path, error.message, "warning")

        return tell

    def _keep_files(self) -> None:
        for one in self._good.values():
            self._releases.touch(one.source)

    # Saying

    def _accept(self, path: Path) -> None:
        self._told.clear()
        if self._wrong.pop(path, None):
            self._say_wrong()

    def _refuse(self, path: Path, why: str, level: str = "error") -> None:
        self._wrong[path] = why
        one = self._good.get(path)
        on = f"; {one.source.name}@{one.source.version} goes on" if one is not None else ""
        said = f"{self._as_given(path)} is not served{on}"
        (self._log.warning if level == "warning" else self._log.error)(said, reason=self._with_urls(why))
        self._say_wrong()

    def _say_wrong(self) -> None:
        self._say_refused({self._as_given(path): self._with_urls(why) for path, why in self._wrong.items()})

    def _as_given(self, path: Path) -> str:
        return self._with_urls(str(path))

    def _with_urls(self, text: str) -> str:
        for url, mirror in self._mirrors.items():
            text = text.replace(str(mirror.path), url.rstrip("/"))
        return text

    def _tell_once(self, what: str, why: str) -> None:
        if what + why not in self._told:
            self._told.add(what + why)
            self._log.error(self._with_urls(what), **({"reason": self._with_urls(why)} if why else {}))


def _path(source: ModelSource) -> Path:
    return Path(source.folder or source.path)


def _with(one: Admitted, source: ModelSource) -> Admitted:
    return msgspec.structs.replace(one, source=source)


def _served(source: ModelSource) -> Admitted:
    """A version that the workers have since before this process: where it came from is found out at the next look."""
    return Admitted(Found(Place(_path(source), source.name), source), source)


def _lies_in(path: Path, lost: Mapping[str, str], roots: Mapping[str, Path]) -> bool:
    return any(path.is_relative_to(roots[given]) for given in lost)


async def apart(work: Callable[[], T]) -> T:
    """What work gives or raises, from a thread that ends with the process: intake may take minutes."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(outcome: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(outcome)  # type: ignore[arg-type]
        else:
            done.set_exception(error)

    def run() -> None:
        try:
            outcome = work()
        except Exception as error:
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, outcome, None)

    threading.Thread(target=run, daemon=True).start()
    return await done
