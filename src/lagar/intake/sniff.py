"""What a model file is, told by its first bytes; the extension only breaks ties."""

from __future__ import annotations

import bz2
import json
import lzma
import pickletools
import re
import zipfile
import zlib
from pathlib import Path

from lagar.errors import LoadFailed, SetupError, UnsupportedModel
from lagar.registry.model import Kind

PICKLE_SUFFIXES = frozenset({".joblib", ".pkl", ".pickle", ".bin"})
MODEL_SUFFIXES = PICKLE_SUFFIXES | {".ubj", ".json", ".bst", ".txt", ".cbm", ".onnx", ".skops"}
UNSUPPORTED_SUFFIXES = frozenset({".pt", ".pth", ".h5", ".hdf5", ".keras", ".safetensors", ".pmml", ".tflite"})
"""Refused by name, by their content where they exist and by their suffix otherwise."""

_HEAD_BYTES = 64 * 1024
_XGBOOST_KEYS = (b'"learner"', b"learner")
_TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
_ONNX_HEAD = re.compile(rb"\x08[\x01-\x20](\x12|\x1a|\x22|\x28|\x32|\x3a|\x42)", re.DOTALL)
_TORCH = "a PyTorch file"
_KERAS = "a Keras or HDF5 file"
_ONNX_ROUTES = {
    _TORCH: "torch.onnx.export(model, example, 'model.onnx')",
    _KERAS: "tf2onnx: `python -m tf2onnx.convert --keras model.keras --output model.onnx`",
    "a TensorFlow Lite file": "tf2onnx: `python -m tf2onnx.convert --tflite model.tflite --output model.onnx`",
}


class Sniffed:
    """A kind and whether opening the file unpickles."""

    __slots__ = ("kind", "pickled")

    def __init__(self, kind: Kind, pickled: bool = False) -> None:
        self.kind = kind
        self.pickled = pickled


def sniff(path: Path) -> Sniffed:
    """The kind of a model file.

    UnsupportedModel names what the file is and the way round; SetupError when it is empty or cannot be read.
    """
    head = _head(path)
    if not head:
        raise SetupError(f"{path} is empty (0 bytes); save the model again")
    refusal = _refusal(path, head)
    if refusal is not None:
        raise refusal
    kind = _native_kind(path, head)
    if kind is not None:
        return Sniffed(kind)
    if _is_pickle(path, _decompressed_head(path, head)):
        return Sniffed("sklearn", pickled=True)
    raise UnsupportedModel(_unknown(path))


def is_model_file(path: Path) -> bool:
    """Whether a file found in a folder is meant as a model: README.txt and example.json are not."""
    if path.suffix.lower() not in MODEL_SUFFIXES:
        return False
    if path.suffix.lower() not in {".json", ".txt"}:
        return True
    try:
        return _native_kind(path, _head(path)) is not None
    except SetupError:
        return False


def unsupported(what: str, path: Path) -> UnsupportedModel:
    """The refusal of a format by its name, with the ONNX route."""
    route = _ONNX_ROUTES.get(what, "its ONNX exporter")
    return UnsupportedModel(
        f"{path} is {what}, which Lagar does not serve; convert it with {route} and serve the .onnx file, "
        'or wrap it in a class (lagar.toml: class = "module:Class")'
    )


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror or error}") from None


def _refusal(path: Path, head: bytes) -> SetupError | None:
    suffix = path.suffix.lower()
    if head.startswith(b"PK\x03\x04"):
        return _zip_refusal(path)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return unsupported(_KERAS, path)
    if _TORCH_MAGIC in head[:64]:
        return unsupported(_TORCH, path)
    if head[4:8] == b"TFL3":
        return unsupported("a TensorFlow Lite file", path)
    if len(head) > 9 and head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 1 << 32:
        return unsupported("a safetensors file (weights without a graph)", path)
    if b"<PMML" in head[:4096]:
        return unsupported("a PMML file", path)
    if head.startswith((b"binf", b"bs64")) or (suffix in {".bst", ".model"} and _is_old_xgboost(head)):
        return UnsupportedModel(
            f"{path} is in XGBoost's old binary format, which XGBoost itself no longer reads; "
            "open it with XGBoost 2.x and save it again: booster.save_model('model.ubj')"
        )
    if head.startswith(b"version https://git-lfs"):
        return LoadFailed(f"{path} is a Git LFS pointer, not the model; fetch it with `git lfs pull`")
    if suffix in UNSUPPORTED_SUFFIXES:
        return unsupported(f"a {suffix} file", path)
    return None


def _is_old_xgboost(head: bytes) -> bool:
    """The deprecated format begins with a packed struct and no magic; its objective's name follows in plain text."""
    return (
        not head.startswith((b"{", b"tree"))
        and re.search(rb"(reg|binary|multi|rank|count|survival):", head) is not None
    )


def _zip_refusal(path: Path) -> SetupError | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        return LoadFailed(f"{path} is a damaged zip archive ({error}); copy or save the model again")
    if any(name.endswith("data.pkl") for name in names):
        return unsupported(_TORCH, path)
    if any(name in {"config.json", "model.weights.h5"} for name in names):
        return unsupported(_KERAS, path)
    if "schema.json" in names:
        return None  # a skops file
    if all(name.endswith(".npy") for name in names):
        return UnsupportedModel(f"{path} holds numpy arrays, not a model; save the fitted estimator with joblib.dump")
    return UnsupportedModel(f"{path} is a zip archive that is no model Lagar knows; unpack it and give what is inside")


def _native_kind(path: Path, head: bytes) -> Kind | None:
    if head.startswith(b"PK\x03\x04"):  # of zip archives, only skops files are not refused
        return "sklearn"
    if head.startswith(b"CBM1"):
        return "catboost"
    if re.match(rb"tree\r?\nversion=", head):
        return "lightgbm"
    if head.startswith(b"{"):
        return "xgboost" if _is_xgboost(path, head) else None
    if path.suffix.lower() == ".onnx" or (path.suffix.lower() == ".bin" and _ONNX_HEAD.match(head)):
        return "onnx"
    return None


def _is_xgboost(path: Path, head: bytes) -> bool:
    """UBJSON carries the key `learner` behind its length; JSON text is parsed when it is not near the start."""
    if head[1:2] in b'"' or head[1:].lstrip()[:1] == b'"':
        if b'"learner"' in head and (b'"learner_model_param"' in head or b'"gradient_booster"' in head):
            return True
        if b'"gradient_booster"' not in head and path.stat().st_size > _HEAD_BYTES and b'"learner"' not in head[:4096]:
            return False
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, OSError):
            return False
        return isinstance(content, dict) and "learner" in content
    return any(key in head[:256] for key in _XGBOOST_KEYS)


def _decompressed_head(path: Path, head: bytes) -> bytes:
    """The first bytes inside joblib's zlib, gzip, bz2, lzma or xz; the head itself when it is not compressed."""
    try:
        if head.startswith((b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")):
            return zlib.decompressobj().decompress(head, _HEAD_BYTES)
        if head.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(wbits=31).decompress(head, _HEAD_BYTES)
        if head.startswith(b"BZh"):
            with bz2.open(path) as file:
                return file.read(64)
        if head.startswith((b"\xfd7zXZ\x00", b"\x5d\x00\x00")):
            with lzma.open(path) as file:
                return file.read(64)
    except (zlib.error, OSError, EOFError, lzma.LZMAError) as error:
        raise LoadFailed(f"{path} is damaged: {error}; copy or save the model again") from None
    if head.startswith(b"\x04\x22\x4d\x18"):
        return b"\x80\x04"  # lz4: joblib writes nothing but pickles in it, and lz4 need not be installed yet
    return head


def _is_pickle(path: Path, head: bytes) -> bool:
    if len(head) >= 2 and head[0] == 0x80 and head[1] <= 5:
        return True
    if path.suffix.lower() not in PICKLE_SUFFIXES or head[:1] not in b"(]}cl":
        return False
    try:  # protocols 0 and 1 have no magic: the opcodes must parse to the end
        with path.open("rb") as file:
            return sum(1 for _ in pickletools.genops(file)) > 1
    except (ValueError, OSError, IndexError):
        return False


def _unknown(path: Path) -> str:
    return (
        f"{path} is no model file that Lagar knows: its content is not a pickle (.joblib .pkl .pickle .bin), "
        "XGBoost (.ubj .json), LightGBM (.txt .bst), CatBoost (.cbm) or ONNX (.onnx); "
        'other formats can be converted to ONNX or wrapped in a class (lagar.toml: class = "module:Class")'
    )
