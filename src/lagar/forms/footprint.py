"""What a form costs a worker, measured in a process of its own: memory, time to load, and what it imports.

`python -m lagar.forms.footprint FOLDER SIGNATURE` opens the form of the folder as a worker does and prints the
`Footprint` as JSON; SIGNATURE is a file. The form is opened twice, so that the libraries which it shares with all other
forms are not counted as its own.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from lagar import memory as process_memory
from lagar.registry.signature import Signature
from lagar.runtimes.form import FormPredictor, open_folder

FOREIGN: Final = ("sklearn", "pandas", "joblib", "cloudpickle", "skops")
"""What a worker that serves a form does without."""


class Footprint(msgspec.Struct, frozen=True):
    """What loading a form took."""

    memory_bytes: int
    load_s: float
    libraries: dict[str, str]
    foreign: tuple[str, ...]
    """Modules that a form must not bring into a worker."""


def measured(folder: Path, signature: Signature, scratch: Path, timeout_s: float = 60.0) -> Footprint:
    """Open the form in a fresh process; raises OSError, ValueError or a timeout of `subprocess`."""
    file = scratch / f"{folder.name}.signature.json"
    file.write_bytes(msgspec.json.encode(signature))
    done = subprocess.run(
        [sys.executable, "-m", "lagar.forms.footprint", str(folder), str(file)],
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode != 0:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise ValueError(f"it does not open in a process of its own: {last[0][:300]}")
    return msgspec.json.decode(done.stdout, type=Footprint)


def main() -> None:
    """Print the footprint of a folder's form."""
    folder = Path(sys.argv[1])
    signature = msgspec.json.decode(Path(sys.argv[2]).read_bytes(), type=Signature)
    first = _opened(folder, signature)
    before = process_memory.held()
    started = time.perf_counter()
    second = _opened(folder, signature)
    load_s = time.perf_counter() - started
    memory = max(process_memory.held() - before, 0)
    foreign = tuple(name for name in FOREIGN if name in sys.modules)
    found = Footprint(memory, round(load_s, 4), dict(first.libraries), foreign)
    second.close()
    sys.stdout.buffer.write(msgspec.json.encode(found))
    sys.stdout.flush()


def _opened(folder: Path, signature: Signature) -> FormPredictor:
    from lagar.runtimes import examples

    predictor = open_folder(folder, 1)
    predictor.bind(signature)
    if signature.fields is not None and signature.example:
        rows = examples.rows_of(signature.fields, signature.layout == "matrix", list(signature.example[:1]))
        predictor.predict(rows, tuple(output.name for output in signature.outputs))
    return predictor


if __name__ == "__main__":
    main()
