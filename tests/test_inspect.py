"""Paths on disk become model sources: names, versions, kinds by content, refusals in one line."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lagar.errors import SetupError, UnsupportedModel
from lagar.intake.folder import _ALLOWED, FieldRule, LagarToml
from lagar.intake.inspect import find_models
from lagar.registry.versions import greatest, natural_key

PICKLE = pickle.dumps({"any": "object"})
XGBOOST = b'{"learner":{"learner_model_param":{}},"version":[3,2,0]}'
LIGHTGBM = b"tree\nversion=v4\nnum_class=1\n"


def put(path: Path, data: bytes = PICKLE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def only(path: Path, **options: Any) -> Any:
    (source,) = find_models([path], **options).sources
    return source


@pytest.mark.parametrize(
    ("file", "data", "kind", "pickled"),
    [
        ("a.joblib", PICKLE, "sklearn", True),
        ("a.pkl", pickle.dumps([1], protocol=0), "sklearn", True),
        ("a.bin", gzip.compress(PICKLE, mtime=0), "sklearn", True),
        ("a.bin", XGBOOST, "xgboost", False),
        ("a.bin", LIGHTGBM, "lightgbm", False),
        ("a.bin", b"CBM1....", "catboost", False),
        ("a.bin", b"\x08\x08\x12\x07skl2onnx", "onnx", False),
        ("a.json", XGBOOST, "xgboost", False),
        ("a.ubj", b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner{", "xgboost", False),
        ("a.bst", LIGHTGBM, "lightgbm", False),
        ("a.bst", XGBOOST, "xgboost", False),
        ("a.txt", LIGHTGBM, "lightgbm", False),
        ("a.cbm", b"CBM1....", "catboost", False),
        ("a.onnx", b"\x08\x08:\x00", "onnx", False),
    ],
)
def test_the_content_says_the_kind(tmp_path: Path, file: str, data: bytes, kind: str, pickled: bool) -> None:
    source = only(put(tmp_path / file, data))
    assert (source.kind, source.pickled, source.name, source.version) == (kind, pickled, "a", "1")
    assert source.sha256 == hashlib.sha256(data).hexdigest()


def torch_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", PICKLE)
    return path


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.pkl", "net.bin"])
def test_a_torch_file_is_refused_by_name_with_the_onnx_route(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsupportedModel, match=r"is a PyTorch file.*torch\.onnx\.export"):
        find_models([torch_zip(tmp_path / name)])


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("a.pt", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "PyTorch"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", r"Keras or HDF5 file.*tf2onnx"),
        ("a.keras", b"whatever", r"a \.keras file"),
        ("a.safetensors", b"\x40\0\0\0\0\0\0\0" + b'{"w":{}}', "safetensors"),
        ("a.pmml", b'<?xml version="1.0"?><PMML version="4.4">', "PMML"),
        ("a.tflite", b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        ("a.bst", b"binf\0\0", "XGBoost's old binary format"),
        ("a.joblib", b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        ("a.joblib", b"hello, world", "no model file that Lagar knows"),
        ("a.csv", b"a,b\n1,2\n", "no model file that Lagar knows"),
        ("a.json", b'{"a": 1}', "no model file that Lagar knows"),
        ("a.joblib", b"", r"is empty \(0 bytes\)"),
        ("a.joblib", b"\x1f\x8b\x08\x00" + b"\xff" * 40, "damaged"),
    ],
)
def test_what_is_no_model_is_refused_with_the_way_round(tmp_path: Path, file: str, data: bytes, message: str) -> None:
    with pytest.raises(SetupError, match=message) as caught:
        find_models([put(tmp_path / file, data)])
    assert "\n" not in str(caught.value)
    assert file in str(caught.value)


def test_a_keras_archive_and_a_saved_model_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(UnsupportedModel, match="Keras"):
        find_models([tmp_path / "a.keras"])
    put(tmp_path / "saved" / "saved_model.pb", b"x")
    with pytest.raises(UnsupportedModel, match=r"TensorFlow SavedModel.*--saved-model saved"):
        find_models([tmp_path / "saved"])


def test_a_skops_file_is_a_model_without_a_pickle(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.skops", "w") as archive:
        archive.writestr("schema.json", "{}")
    (source,) = find_models([tmp_path / "a.skops"]).sources
    assert (source.kind, source.pickled) == ("sklearn", False)


def test_missing_paths_and_empty_folders_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"gone\.joblib: no such file or folder"):
        find_models([tmp_path / "gone.joblib"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SetupError, match="empty holds no model: expected a model file"):
        find_models([tmp_path / "empty"])
    with pytest.raises(SetupError, match="no model was given"):
        find_models([])
    with pytest.raises(SetupError, match=r"--code .*gone: no such file"):
        find_models([put(tmp_path / "a.pkl")], code=[tmp_path / "gone"])
    with pytest.raises(SetupError, match=r"--example .*gone: no such file"):
        find_models([tmp_path / "a.pkl"], example=tmp_path / "gone")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_is_one_line(tmp_path: Path) -> None:
    path = put(tmp_path / "a.pkl")
    path.chmod(0)
    with pytest.raises(SetupError, match="cannot be read"):
        find_models([path])


def test_a_file_called_model_takes_the_name_of_its_folder(tmp_path: Path) -> None:
    assert only(put(tmp_path / "wine" / "model.joblib")).name == "wine"
    assert only(tmp_path / "wine").name == "wine"
    assert only(put(tmp_path / "my wine" / "model.joblib")).name == "model"
    assert only(put(tmp_path / "wine-2.0.pkl")).name == "wine-2.0"
    assert only(tmp_path / "wine-2.0.pkl", name="red").name == "red"


def test_a_folder_called_name_and_version_is_both(tmp_path: Path) -> None:
    for folder in ("wine-v1.0.9", "wine-v1.0.10", "iris-2024", "plain"):
        put(tmp_path / folder / "model.pkl")
    found = find_models([tmp_path])
    assert [f"{source.name}@{source.version}" for source in found.sources] == [
        "iris-2024@1", "plain@1", "wine@v1.0.9", "wine@v1.0.10"
    ]  # fmt: skip
    assert found.live["wine"] == "v1.0.10"
    assert only(tmp_path / "wine-v1.0.9").version == "v1.0.9"


@pytest.mark.parametrize("name", ["a b", "", "-a", "a/b", "é", "a" * 101])
def test_a_name_is_checked(tmp_path: Path, name: str) -> None:
    with pytest.raises(SetupError, match="1 to 100 of the characters"):
        find_models([put(tmp_path / "a.pkl")], name=name)


def test_a_bad_file_name_says_to_use_name(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="got 'my model'; give one with --name"):
        find_models([put(tmp_path / "my model.pkl")])


def test_versions_sort_as_people_read_them(tmp_path: Path) -> None:
    versions = ["v1.0.9", "v1.0.10", "v1.0.2"]
    for version in versions:
        put(tmp_path / "wine" / version / "model.joblib", pickle.dumps(version))
    put(tmp_path / "iris.pkl")
    put(tmp_path / "churn" / "9" / "churn.bin")
    put(tmp_path / "churn" / "10" / "churn.bin")
    put(tmp_path / "plain" / "model.pkl")
    put(tmp_path / ".hidden" / "1" / "model.pkl")
    found = find_models([tmp_path])
    assert found.live == {"churn": "10", "iris": "1", "plain": "1", "wine": "v1.0.10"}
    wine = [source.version for source in found.sources if source.name == "wine"]
    assert wine == ["v1.0.2", "v1.0.9", "v1.0.10"]
    one = find_models([tmp_path / "wine"])
    assert one.live == {"wine": "v1.0.10"}
    assert find_models([tmp_path / "wine"], name="vinho").live == {"vinho": "v1.0.10"}


def test_natural_order() -> None:
    ordered = ["1.0-rc1", "1.0-rc2", "1.0", "1.0.1", "v1.0.9", "v1.0.10", "v2-beta", "2", "10"]
    assert sorted(sorted(ordered), key=natural_key) == ordered
    assert greatest(["9", "10"]) == "10"


def test_several_models_cannot_share_one_name_or_example(tmp_path: Path) -> None:
    put(tmp_path / "a.pkl")
    put(tmp_path / "b.pkl")
    with pytest.raises(SetupError, match="--name names one model, and 2 were found: a, b"):
        find_models([tmp_path], name="x")
    put(tmp_path / "rows.csv")
    with pytest.raises(SetupError, match="--example belongs to one model"):
        find_models([tmp_path], example=tmp_path / "rows.csv")
    put(tmp_path / "other" / "a.pkl")
    with pytest.raises(SetupError, match="are both a@1"):
        find_models([tmp_path / "a.pkl", tmp_path / "other" / "a.pkl"])


def test_files_beside_models_are_left_alone_and_unsupported_ones_are_told(tmp_path: Path) -> None:
    put(tmp_path / "wine.pkl")
    put(tmp_path / "README.txt", b"tree of models")
    put(tmp_path / "example.json", b'{"a": 1}')
    put(tmp_path / "net.h5", b"\x89HDF\r\n\x1a\n")
    found = find_models([tmp_path])
    assert list(found.live) == ["wine"]
    (line,) = found.skipped
    assert "net.h5 is not served" in line


def test_a_folder_with_lagar_toml_is_one_model(tmp_path: Path) -> None:
    put(tmp_path / "m" / "model.joblib")
    put(tmp_path / "m" / "old.joblib")
    put(tmp_path / "m" / "handlers.py", b"")
    put(tmp_path / "m" / "lib" / "features.py", b"")
    toml = 'name = "churn"\nversion = "v2"\ncode = ["lib"]\nextra_fields = "refuse"\n'
    toml += '[fields."fixed acidity"]\nnullable = true\n'
    put(tmp_path / "m" / "lagar.toml", toml.encode())
    source = only(tmp_path / "m", trust=True)
    assert (source.name, source.version, Path(source.path).name) == ("churn", "v2", "model.joblib")
    assert source.code == (str(tmp_path / "m" / "lib"),)
    assert Path(source.handlers).name == "handlers.py"
    assert source.field_rules == {"fixed acidity": {"nullable": True}}
    assert source.options == {"extra_fields": "refuse"}
    assert source.trust
    put(tmp_path / "m" / "lagar.toml", b'model = "old.joblib"')
    assert Path(only(tmp_path / "m").path).name == "old.joblib"
    assert only(tmp_path / "m").name == "m"


def test_a_folder_of_several_files_wants_to_be_told_which(tmp_path: Path) -> None:
    put(tmp_path / "m" / "a.joblib")
    put(tmp_path / "m" / "b.joblib")
    put(tmp_path / "m" / "lagar.toml", b"")
    with pytest.raises(SetupError, match=r"holds 2 model files \(a.joblib, b.joblib\); name one in lagar.toml"):
        find_models([tmp_path / "m"])


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[fields."a b"]\nunknown = "ignore"', '[fields."a b"] unknown must be "refuse" or "allow", got "ignore"'),
        ('[fields.a]\nrange = [0, "x"]', '[fields."a"] range must be two numbers, [min, max], where'),
        ("[fields.a]\nrange = [1, 2, 3]", "got [1, 2, 3]"),
        ('[fields.a]\ntype = "number"', 'type must be "float", "int", "bool" or "string", got "number"'),
        ('[fields.a]\nnullable = "yes"', 'nullable must be true or false, got "yes"'),
        ("[fields.a]\ncategories = [[1]]", "categories must be a list of texts, numbers, true and false, got [[1]]"),
        ("[fields.a]\ndefault = 2026-01-01", 'default must be a text, a number, true or false, got "2026-01-01"'),
        ("version = 2", 'version must be a text in quotes, such as "2", got 2'),
        ('code = "lib"', 'code must be a list of texts, got "lib"'),
        ('extra_fields = "allow"', 'extra_fields must be "ignore" or "refuse", got "allow"'),
        ("fields = 1", 'fields must be a table: [fields."NAME"], got 1'),
    ],
)
def test_a_wrong_value_in_lagar_toml_is_named_with_what_is_allowed(tmp_path: Path, toml: str, message: str) -> None:
    put(tmp_path / "m" / "a.joblib")
    put(tmp_path / "m" / "lagar.toml", toml.encode())
    with pytest.raises(SetupError) as refused:
        find_models([tmp_path / "m"])
    assert message in refused.value.message
    assert "$" not in refused.value.message


def test_every_key_of_lagar_toml_has_words_for_what_it_takes() -> None:
    keys = {field.encode_name for kind in (LagarToml, FieldRule) for field in msgspec.structs.fields(kind)}
    assert keys == set(_ALLOWED)


def test_lagar_toml_and_its_version_folder_must_agree(tmp_path: Path) -> None:
    put(tmp_path / "wine" / "1.0" / "model.joblib")
    put(tmp_path / "wine" / "1.0" / "lagar.toml", b'version = "2.0"')
    with pytest.raises(SetupError, match=r"says version '2\.0' and lies in the folder '1.0'"):
        find_models([tmp_path / "wine"])
    put(tmp_path / "wine" / "1.0" / "lagar.toml", b"")
    source = only(tmp_path / "wine")
    assert (source.name, source.version) == ("wine", "1.0")
