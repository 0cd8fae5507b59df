"""API keys of a home, made without a command line."""

from __future__ import annotations

from pathlib import Path

from lagar.registry.catalog import open_catalog
from lagar.registry.home import open_home
from lagar.registry.keys import create_key, revoke_key
from lagar.registry.secret import SCOPES


def key_for(home: Path, *scopes: str) -> str:
    """A new key with these scopes, as its owner sees it."""
    with open_catalog(open_home(home)) as catalog:
        return create_key(catalog, "+".join(scopes), list(scopes))[1]


def keys_for_each_scope(home: Path) -> dict[str, str]:
    """Scope → a key that has only this one."""
    with open_catalog(open_home(home)) as catalog:
        return {scope: create_key(catalog, scope, [scope])[1] for scope in SCOPES}


def revoke(home: Path, key: str) -> None:
    """Make a key invalid from now on."""
    with open_catalog(open_home(home)) as catalog:
        revoke_key(catalog, key.split("_")[1])
