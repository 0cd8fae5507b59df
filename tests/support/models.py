"""Custom models for tests of processes: they load in no time and do as their rows say."""

from __future__ import annotations

from pathlib import Path

SCRIPTED = '''
import os
import time


class Scripted:
    """Waits `seconds`, then answers each row's `tag` plus an offset."""

    offset = 0

    def load(self, path):
        pass

    def predict(self, rows):
        seconds = max(row["seconds"] for row in rows)
        if seconds >= 1:
            open(os.path.join(os.environ["LAGAR_HOME"], "running"), "w").close()
        time.sleep(seconds)
        return [row["tag"] + self.offset for row in rows]
'''

SETTINGS = """
name = "scripted"
class = "scripted:Scripted"
code = ["scripted.py"]
example = "example.json"

[fields.seconds]
type = "float"

[fields.tag]
type = "int"
"""


def is_running(home: Path) -> bool:
    """Whether a scripted model on this home has begun a prediction of a second or more."""
    return (home / "running").exists()


def scripted_model(folder: Path, source: str = SCRIPTED) -> Path:
    """A folder with a class that sleeps and echoes; `source` may be another text with a class `Scripted`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scripted.py").write_text(source)
    (folder / "lagar.toml").write_text(SETTINGS)
    (folder / "example.json").write_text('[{"seconds": 0.0, "tag": 1}]')
    return folder
