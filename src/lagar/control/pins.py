"""What `--pin` names and is not there: refused where it can never come, told with the next step where it may."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lagar.errors import NotFound, SettingsError
from lagar.registry.releases import Releases
from lagar.settings import suggestion


def refuse_models(pins: Sequence[str], names: Collection[str]) -> None:
    """Raise SettingsError for a pin of a model that is none of `names`, which are all that a server will ever have."""
    for pin in pins:
        name = pin.partition("@")[0]
        if name not in names:
            known = tuple(sorted(names))
            raise SettingsError(
                f"pin must name models that are served ({', '.join(known)}), got {pin!r}{suggestion(name, known)}"
            )


def refuse_versions(pins: Sequence[str], served: Collection[tuple[str, str]], releases: Releases) -> None:
    """Raise SettingsError for a pin of a version that is neither served nor in the home."""
    for pin in pins:
        name, _, label = pin.partition("@")
        if label and (name, label) not in served and (why := _missing(releases, name, label)):
            raise SettingsError(f"pin must name versions that there are, got {pin!r}: {why}")


def absence(releases: Releases, pin: str) -> str:
    """Why nothing is loaded of a pin that a promote or a push may bring, and what would."""
    name, _, label = pin.partition("@")
    known = tuple(entry.name for entry in releases.models())
    if name not in known:
        return (
            f"there is no model {name!r}{suggestion(name, known)}; `lagar models` lists those there are, "
            f"`lagar push {name} PATH` makes it, and once it is live it stays loaded"
        )
    if label:
        return _missing(releases, name, label)
    return f"nothing of {name} is live: `lagar promote {name} VERSION`, and from then on it stays loaded"


def _missing(releases: Releases, name: str, label: str) -> str:
    """Why there is no such version; "" where there is."""
    try:
        found = releases.get(name, label).version
    except NotFound as error:
        return error.message
    return "" if found == label else f"{label} is an alias, which may move: pin {name}@{found}"
