"""Archives: what comes out of an honest one, and what no archive may do."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lagar.errors import SetupError
from lagar.intake.archive import Bounds, is_archive, unpack


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


def zipped(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("m.zip", ""),
        ("m.tar", "w:"),
        ("m.tar.gz", "w:gz"),
        ("m.tgz", "w:gz"),
        ("m.tar.bz2", "w:bz2"),
        ("m.tbz2", "w:bz2"),
        ("m.tar.xz", "w:xz"),
        ("m.txz", "w:xz"),
    ],
)
def test_every_kind_of_archive_gives_its_files_back(tmp_path: Path, into: Path, name: str, mode: str) -> None:
    path = tmp_path / name
    files = {"wine/model.joblib": b"\x80\x04model", "wine/lib/features.py": b"x = 1\n"}
    if name.endswith(".zip"):
        zipped(path, files)
    else:
        tarred(path, *((member(entry), data) for entry, data in files.items()), mode=mode)
    assert is_archive(path)
    assert unpack(path, into) == into / "wine"
    assert {p.relative_to(into).as_posix(): p.read_bytes() for p in into.rglob("*") if p.is_file()} == files


def test_several_entries_at_the_top_stay_in_the_folder(tmp_path: Path, into: Path) -> None:
    assert unpack(zipped(tmp_path / "m.zip", {"a.txt": b"a", "b/c.txt": b"c"}), into) == into


def test_a_compressed_pickle_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "model.joblib.gz"
    path.write_bytes(b"\x1f\x8b")
    assert not is_archive(path)


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "a\\..\\evil", "C:/evil", "a\nb"])
def test_a_name_that_leads_out_is_refused_by_name(tmp_path: Path, into: Path, name: str) -> None:
    for path in (
        zipped(tmp_path / "m.zip", {name: b"x"}),
        tarred(tmp_path / "m.tar.gz", (member(name), b"x")),
    ):
        with pytest.raises(SetupError, match="leads out of"):
            unpack(path, into)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "a link to '/etc/passwd'"),
        (tarfile.LNKTYPE, "a link to '/etc/passwd'"),
        (tarfile.FIFOTYPE, "a device or a pipe"),
        (tarfile.CHRTYPE, "a device or a pipe"),
    ],
)
def test_links_and_devices_are_refused_by_name(tmp_path: Path, into: Path, kind: bytes, words: str) -> None:
    path = tarred(tmp_path / "m.tar.gz", (member("inside", kind, "/etc/passwd"), b""))
    with pytest.raises(SetupError, match=f"'inside' is {words}"):
        unpack(path, into)


def test_a_link_in_a_zip_is_refused(tmp_path: Path, into: Path) -> None:
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("inside")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(SetupError, match="'inside' is a link"):
        unpack(path, into)


def test_a_file_beneath_a_file_and_a_name_that_comes_twice_are_refused(tmp_path: Path, into: Path) -> None:
    path = tarred(tmp_path / "m.tar", (member("a"), b"x"), (member("a/b"), b"y"), mode="w:")
    with pytest.raises(SetupError, match="'a/b' is a file and a folder"):
        unpack(path, into)
    path = tarred(tmp_path / "n.tar", (member("c"), b"x"), (member("./c"), b"y"), mode="w:")
    with pytest.raises(SetupError, match="comes twice"):
        unpack(path, into)


SMALL = Bounds(max_bytes=4 * 1024**2, max_ratio=100, free_bytes=1024**2, max_files=20)


def bomb_zip(path: Path) -> Path:
    return zipped(path, {"zeros": bytes(8 * 1024**2)})


def bomb_tar(path: Path) -> Path:
    return tarred(path, (member("zeros"), bytes(8 * 1024**2)))


def many_small(path: Path) -> Path:
    return zipped(path, {f"{index}": bytes(600 * 1024) for index in range(9)})


@pytest.mark.parametrize(("make", "name"), [(bomb_zip, "m.zip"), (bomb_tar, "m.tar.gz"), (many_small, "m.zip")])
def test_what_grows_too_much_is_refused_with_sizes(
    tmp_path: Path, into: Path, make: Callable[[Path], Path], name: str
) -> None:
    path = make(tmp_path / name)
    with pytest.raises(SetupError, match=r"unpacks to at least [\d,]+, the limit is [\d,]+"):
        unpack(path, into, SMALL)
    assert sum(file.stat().st_size for file in into.rglob("*") if file.is_file()) <= 6 * 1024**2


def test_a_size_that_lies_is_not_believed(tmp_path: Path, into: Path) -> None:
    path = zipped(tmp_path / "m.zip", {"zeros": bytes(8 * 1024**2)})
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = data.index(mark) + offset
        data[start : start + 4] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(SetupError):
        unpack(path, into, SMALL)
    assert sum(file.stat().st_size for file in into.rglob("*")) <= 6 * 1024**2


def test_too_many_entries_are_refused(tmp_path: Path, into: Path) -> None:
    with pytest.raises(SetupError, match="more than 20 entries"):
        unpack(zipped(tmp_path / "m.zip", {str(index): b"" for index in range(30)}), into, SMALL)


def test_a_header_as_large_as_memory_is_refused(tmp_path: Path, into: Path) -> None:
    info = member("x", tarfile.XHDTYPE)
    info.size = 1024**3
    (tmp_path / "m.tar").write_bytes(info.tobuf() + bytes(10240))
    with pytest.raises(SetupError, match="a header of"):
        unpack(tmp_path / "m.tar", into)


def test_an_encrypted_a_damaged_and_an_empty_archive_are_refused(tmp_path: Path, into: Path) -> None:
    path = zipped(tmp_path / "m.zip", {"a": b"x" * 100})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x03\x04") + 6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(SetupError, match="encrypted"):
        unpack(path, into)
    (tmp_path / "d.tar.gz").write_bytes(os.urandom(200))
    with pytest.raises(SetupError, match="cannot be unpacked"):
        unpack(tmp_path / "d.tar.gz", into)
    with pytest.raises(SetupError, match="holds no file"):
        unpack(zipped(tmp_path / "e.zip", {}), into)


def test_modes_of_an_archive_are_not_taken_over(tmp_path: Path, into: Path) -> None:
    info = member("tool")
    info.mode = 0o4777
    unpack(tarred(tmp_path / "m.tar", (info, b"x"), mode="w:"), into)
    assert stat.S_IMODE((into / "tool").stat().st_mode) & 0o6111 == 0
