from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from lagar.cli.keys import seconds
from lagar.errors import Forbidden, SettingsError, Unauthorized
from lagar.registry import keys, tables
from lagar.registry.catalog import open_catalog
from lagar.registry.secret import SCOPES
from lagar.server.auth import KeyTable, has_valid, key_rows
from support.server import lagar


def test_a_created_key_opens_what_its_scopes_say(tmp_path: Path) -> None:
    with open_catalog(tmp_path) as catalog:
        _, text = keys.create_key(catalog, "ci", ["read", "infer"])
        table = KeyTable(key_rows(keys.list_keys(catalog)))
    table.check(text, "infer")
    table.check(text, "read")
    with pytest.raises(Forbidden):
        table.check(text, "admin")


def test_a_revoked_key_is_refused_and_still_closes_the_server(tmp_path: Path) -> None:
    with open_catalog(tmp_path) as catalog:
        key, text = keys.create_key(catalog, "ci", ["infer"])
        keys.revoke_key(catalog, key.id)
        rows = key_rows(keys.list_keys(catalog))
    assert len(rows) == 1
    assert not has_valid(rows)
    with pytest.raises(Unauthorized, match="revoked"):
        KeyTable(rows).check(text, "infer")


def test_a_key_expires(tmp_path: Path) -> None:
    with open_catalog(tmp_path) as catalog:
        key, text = keys.create_key(catalog, "ci", ["infer"], expires_in_s=60)
        rows = key_rows(keys.list_keys(catalog))
    assert key.expires_at is not None
    KeyTable(rows).check(text, "infer")
    with pytest.raises(Unauthorized, match="expired"):
        KeyTable(rows, clock=lambda: time.time() + 61).check(text, "infer")
    assert has_valid(rows)
    assert not has_valid(rows, now=key.expires_at)


def test_the_secret_is_in_no_file_of_the_home(tmp_path: Path) -> None:
    done = lagar("keys", "create", "--name", "n", "--scope", "infer", home=tmp_path)
    secret = done.stdout.strip().split("_")[2]
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes()


def test_what_was_done_to_keys_is_in_the_audit(tmp_path: Path) -> None:
    with open_catalog(tmp_path) as catalog:
        key, text = keys.create_key(catalog, "ci", ["infer"], who="ana")
        keys.revoke_key(catalog, key.id, who="rui")
        keys.revoke_key(catalog, key.id, who="eva")  # already done: nothing happens, nothing is recorded
        with catalog.read() as connection:
            found = connection.execute(sa.select(tables.audit).order_by(tables.audit.c.id)).all()
        revoked = keys.list_keys(catalog)[0]
    assert [(entry.who, entry.what, entry.subject) for entry in found] == [
        ("ana", "key.create", key.id),
        ("rui", "key.revoke", key.id),
    ]
    assert json.loads(found[0].details)["scopes"] == ["infer"]
    assert text.split("_")[2] not in str(found)
    assert revoked.revoked_by == "rui"


def test_an_unknown_id_cannot_be_revoked(tmp_path: Path) -> None:
    with open_catalog(tmp_path) as catalog, pytest.raises(keys.InvalidKey, match="no key with the id 'nope'"):
        keys.revoke_key(catalog, "nope")


@pytest.mark.parametrize(
    ("name", "scopes", "message"),
    [
        ("", ["read"], "1 to 100 printable characters, got ''"),
        ("a\nb", ["read"], "printable"),
        ("x" * 101, ["read"], "1 to 100"),
        ("x", [], "at least one scope"),
        ("x", ["write"], "a scope is one of infer, feedback, read, admin, got 'write'"),
    ],
)
def test_a_key_without_sense_is_refused(tmp_path: Path, name: str, scopes: list[str], message: str) -> None:
    with open_catalog(tmp_path) as catalog:
        with pytest.raises(keys.InvalidKey, match=message):
            keys.create_key(catalog, name, scopes)
        assert keys.list_keys(catalog) == []


def test_scopes_are_kept_once_and_in_order(tmp_path: Path) -> None:
    with open_catalog(tmp_path) as catalog:
        key, _ = keys.create_key(catalog, "x", ["admin", "read", "infer", "read", "feedback"])
        assert keys.list_keys(catalog) == [key]
    assert key.scopes == SCOPES


@pytest.mark.parametrize(
    ("text", "value"), [("90d", 7776000), ("12h", 43200), ("30m", 1800), ("45s", 45), ("4w", 2419200)]
)
def test_a_duration_has_a_unit(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "90", "d", "0d", "-1d", "1.5d", "90 d", "90y", "9999999999d"])
def test_a_duration_that_does_not_read_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--expires must be a number and a unit"):
        seconds(text)


def test_a_duration_longer_than_dates_go_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"36500d, a hundred years, at most, got '99999999w'"):
        seconds("99999999w")


def test_the_command_prints_the_key_alone_on_stdout_and_never_again(tmp_path: Path) -> None:
    done = lagar("keys", "create", "--name", "web", "--scope", "infer", "--scope", "read", home=tmp_path)
    assert done.returncode == 0
    (text,) = done.stdout.splitlines()
    prefix, key_id, secret = text.split("_")
    assert prefix == "lagar"
    assert key_id in done.stderr
    assert secret not in done.stderr
    listed = lagar("keys", "list", home=tmp_path)
    assert listed.stdout.splitlines()[1].split()[:4] == [key_id, "web", "infer,read", "active"]
    as_json = lagar("keys", "list", "--json", home=tmp_path)
    assert json.loads(as_json.stdout)[0]["name"] == "web"
    for shown in (listed, as_json):
        assert secret not in shown.stdout + shown.stderr
        assert "digest" not in shown.stdout


def test_every_command_on_keys_writes_json(tmp_path: Path) -> None:
    made = lagar("keys", "create", "--name", "j", "--scope", "admin", "--expires", "2d", "--json", home=tmp_path)
    key = json.loads(made.stdout)
    assert made.stderr == ""
    assert key["key"].startswith(f"lagar_{key['id']}_")
    assert key["scopes"] == ["admin"]
    assert key["expires_at"].endswith("Z")
    gone = lagar("keys", "revoke", key["id"], "--json", home=tmp_path)
    assert json.loads(gone.stdout)[0]["state"] == "revoked"
    assert lagar("keys", "revoke", key["id"], home=tmp_path).returncode == 0


def test_wrong_use_of_the_command_has_its_exit_codes(tmp_path: Path) -> None:
    for args, code, words in (
        (["revoke", "nope"], 1, "there is no key with the id 'nope'"),
        (["create", "--name", "x", "--scope", "everything"], 1, "got 'everything'"),
        (["create", "--scope", "read"], 2, "--name"),
        (["create", "--name", "x"], 2, "--scope"),
        (["create", "--name", "x", "--scope", "read", "--expires", "soon"], 2, "got 'soon'"),
        (["frob"], 2, "frob"),
    ):
        done = lagar("keys", *args, home=tmp_path)
        assert done.returncode == code, args
        assert words in done.stderr
        assert done.stderr.startswith("lagar: ")
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""
