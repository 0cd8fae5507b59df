from __future__ import annotations

import errno
import os
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import lagar
from lagar.errors import HomeError, SettingsError
from lagar.registry import catalog as catalogs
from lagar.registry import tables
from lagar.registry.catalog import open_catalog
from lagar.registry.disks import refuse_network_disk
from lagar.registry.home import explained, open_home
from support.server import lagar as run_lagar


def python(script: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", script, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_home_is_created_for_its_owner_alone(tmp_path: Path) -> None:
    home = open_home(tmp_path / "a" / "home")
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    open_catalog(home).close()
    assert stat.S_IMODE(home.catalog.stat().st_mode) == 0o600
    assert sorted(path.name for path in home.path.iterdir()) == ["catalog.db", "catalog.lock"]


def test_a_home_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("x")
    with pytest.raises(HomeError, match=r"home .*/home is a file, a folder is wanted.*LAGAR_HOME"):
        open_home(tmp_path / "home")
    with pytest.raises(HomeError, match="a part of its path is a file"):
        open_home(tmp_path / "home" / "deeper")


def test_a_home_that_cannot_be_written_to_is_one_clear_line(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        command = ["setpriv", "--reuid", "65534", "--clear-groups", sys.executable]
        if shutil.which("setpriv") is None or subprocess.run([*command, "-c", ""], check=False).returncode:
            pytest.skip("root may write everywhere, and this machine lets no other user run our Python")
    else:
        command = [sys.executable]
    folder = tmp_path / "home"
    folder.mkdir(mode=0o500)
    script = "import sys; from lagar.cli.main import main; sys.exit(main(['keys', 'list']))"
    env = {**os.environ, "LAGAR_HOME": str(folder)}
    done = subprocess.run([*command, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not writable for this user; set LAGAR_HOME" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    script = (
        f"mount -t tmpfs -o size=16k none {folder} && mkdir {folder}/home && "
        f"(cat /dev/zero > {folder}/fill 2>/dev/null; true) && {sys.executable} -c "
        '\'import sys; from lagar.cli.main import main; sys.exit(main(["keys", "list"]))\''
    )
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk to fill")
    env = {**os.environ, "LAGAR_HOME": str(folder / "home")}
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], env=env, capture_output=True, text=True, check=False)
    if "mount:" in done.stderr:
        pytest.skip("this user may not mount a small disk to fill")
    assert done.returncode == 1
    assert "the disk is full; free some space" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_is_there_can_be_read_on_a_full_disk(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = f"{sys.executable} -c 'import sys; from lagar.cli.main import main; sys.exit(main(sys.argv[1:]))'"
    script = (
        f"mount -t tmpfs -o size=2m none {folder} && {command} keys create --name old --scope read --json && "
        f"(cat /dev/zero > {folder}/fill 2>/dev/null; true) && {command} keys list && {command} models && "
        f"! {command} keys create --name new --scope read"
    )
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk to fill")
    env = {**os.environ, "LAGAR_HOME": str(folder / "home")}
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], env=env, capture_output=True, text=True, check=False)
    if "mount:" in done.stderr:
        pytest.skip("this user may not mount a small disk to fill")
    assert done.returncode == 0, done.stderr
    assert "old" in done.stdout.splitlines()[-1]
    empty, full = done.stderr.splitlines()[-2:]
    assert empty.startswith("lagar: there is no model yet")
    assert "the disk is full; free some space" in full


def test_a_disk_that_is_full_while_a_folder_is_copied_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(HomeError, match="the disk is full"), explained(tmp_path, "cannot hold it"):
        shutil.copytree(tmp_path, tmp_path / "copy", copy_function=full)


def test_a_run_folder_holds_sockets_and_goes_with_its_server(tmp_path: Path) -> None:
    home = open_home(tmp_path / "h")
    with home.run_folder() as folder:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "control.sock"))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with home.run_folder() as other:
            assert other != folder
            assert folder.is_dir()
    assert not folder.exists()


def test_a_home_with_a_long_path_has_its_sockets_elsewhere(tmp_path: Path) -> None:
    home = open_home(tmp_path / ("long" * 30))
    with home.run_folder() as folder:
        assert not folder.is_relative_to(home.path)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / ("x" * 24)))
    assert not folder.exists()


@pytest.mark.parametrize("name", ["h", "long" * 30])
def test_the_run_folder_of_a_server_that_was_killed_is_removed_by_the_next(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    script = (
        "import sys; from pathlib import Path; from lagar.registry.home import open_home\n"
        "with open_home(Path(sys.argv[1])).run_folder() as folder:\n"
        "    print(folder, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        left = Path(server.stdout.readline().strip())
        home = open_home(place)
        with home.run_folder():
            assert left.is_dir()  # its server lives
        server.kill()
        server.wait()
    assert left.is_dir()
    with home.run_folder():
        assert not left.exists()
    assert list(home.run.iterdir()) == []


def test_the_schema_in_code_is_what_the_migrations_make(tmp_path: Path) -> None:
    with open_catalog(tmp_path) as catalog:
        engine = sa.create_engine(f"sqlite:///{catalog.path}")
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, tables.metadata) == []
        engine.dispose()


def test_the_code_names_every_migration_in_order() -> None:
    scripts = ScriptDirectory(str(Path(catalogs.__file__).parent / "migrations"))
    assert tuple(reversed([script.revision for script in scripts.walk_revisions()])) == catalogs.REVISIONS


def test_the_catalog_has_a_write_ahead_log_and_a_second_opening_changes_nothing(tmp_path: Path) -> None:
    open_catalog(tmp_path).close()
    before = (tmp_path / "catalog.db").read_bytes()
    with open_catalog(tmp_path) as catalog, catalog.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    assert (tmp_path / "catalog.db").read_bytes() == before


def test_processes_that_start_at_once_make_one_catalog(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from lagar.registry import catalog, keys\n"
        "sys.stdin.read()\n"
        "with catalog.open_catalog(Path(sys.argv[1])) as place: keys.create_key(place, sys.argv[2], ['read'])"
    )
    home = tmp_path / "home"
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script, str(home), f"k{i}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(6)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    for process in started:
        _, problems = process.communicate(timeout=120)
        assert process.returncode == 0, problems
    with open_catalog(home) as catalog, catalog.read() as connection:
        names = connection.execute(sa.select(tables.keys.c.name)).scalars().all()
    assert sorted(names) == [f"k{i}" for i in range(6)]


def test_writers_that_read_first_wait_for_each_other(tmp_path: Path) -> None:
    open_catalog(tmp_path).close()

    def count_up(_: int) -> None:
        with open_catalog(tmp_path) as catalog:
            for _turn in range(20):
                with catalog.write() as connection:
                    table = tables.settings
                    value = connection.execute(sa.select(table.c.value).where(table.c.name == "n")).scalar()
                    connection.execute(table.delete().where(table.c.name == "n"))
                    number = str(int(value or 0) + 1)
                    connection.execute(table.insert().values(name="n", value=number, updated_at=0.0))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(count_up, range(4)))
    with sqlite3.connect(tmp_path / "catalog.db") as connection:
        assert connection.execute("SELECT value FROM settings WHERE name = 'n'").fetchone() == ("80",)
    connection.close()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with open_catalog(tmp_path) as catalog:

        def fail() -> None:
            with catalog.write() as connection:
                catalogs.record(connection, "test", "x", "me")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        with catalog.read() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(tables.audit)).scalar() == 0


def test_a_catalog_says_when_it_was_changed_by_anyone(tmp_path: Path) -> None:
    with open_catalog(tmp_path) as catalog:
        assert not catalog.changed()
        with catalog.write() as connection:
            catalogs.record(connection, "test", "x", "me")
        assert catalog.changed()
        assert not catalog.changed()
        other = python(
            "import sys; from pathlib import Path; from lagar.registry import catalog, keys\n"
            "with catalog.open_catalog(Path(sys.argv[1])) as place: keys.create_key(place, 'x', ['read'])",
            tmp_path,
        )
        _, problems = other.communicate(timeout=120)
        assert other.returncode == 0, problems
        assert catalog.changed()
        assert not catalog.changed()


def test_a_catalog_newer_than_the_code_is_refused_and_both_are_named(tmp_path: Path) -> None:
    open_catalog(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "catalog.db")
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '0042'")
        connection.execute("UPDATE settings SET value = '\"9.8.7\"' WHERE name = 'lagar_version'")
    connection.close()
    with pytest.raises(HomeError) as caught:
        open_catalog(tmp_path)
    message = str(caught.value)
    for word in ("0042", "9.8.7", lagar.__version__, catalogs.REVISIONS[-1], "upgrade"):
        assert word in message


def test_a_file_that_is_no_catalog_is_named(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_text("this is not a database, whatever its name says " * 30)
    with pytest.raises(HomeError, match=r"catalog\.db is not an SQLite file"):
        open_catalog(tmp_path)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_network_disk_is_refused(tmp_path: Path, kind: str) -> None:
    share = tmp_path / "the share"
    share.mkdir()
    mounts = tmp_path / "mountinfo"
    point = str(share).replace(" ", "\\040")
    mounts.write_text(
        f"27 1 254:0 / / rw - ext4 /dev/vda rw\n28 27 0:9 / {point} rw,relatime shared:1 - {kind} server:/x rw\n"
    )
    with pytest.raises(HomeError, match=rf"network disk \({kind}\).*LAGAR_HOME"):
        refuse_network_disk(share / "home", mounts)
    refuse_network_disk(tmp_path, mounts)


def test_a_machine_that_does_not_list_its_mounts_is_let_through(tmp_path: Path) -> None:
    refuse_network_disk(tmp_path, tmp_path / "none")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:////tmp/x.db", "set LAGAR_HOME instead"),
        ("mysql://user:secret@host/db", "must be a postgresql:// URL"),
    ],
)
def test_a_catalog_elsewhere_is_refused_without_its_password(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        open_catalog(tmp_path, url)
    assert "secret" not in str(caught.value)
    done = run_lagar("keys", "list", home=tmp_path, env={"LAGAR_CATALOG": url})
    assert done.returncode == 2
    assert message in done.stderr


def test_a_postgresql_catalog_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    url = "postgresql://user:secret@127.0.0.1:1/db"
    done = run_lagar("keys", "list", home=tmp_path, env={"LAGAR_CATALOG": url})
    assert done.returncode == 3  # it may be there again
    assert "the catalog postgresql://user:***@127.0.0.1:1/db cannot be reached" in done.stderr
    assert "LAGAR_CATALOG" in done.stderr
    assert "secret" not in done.stderr
    assert done.stderr.count("\n") == 1
