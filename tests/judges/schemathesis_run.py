"""Schemathesis over /openapi.json: what it makes up is answered, with nothing that the document does not say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from verdicts import Case, Judge

judge = Judge("OpenAPI")
CHECKS = {
    "no 5xx": "not_a_server_error",
    "no status that is not documented": "status_code_conformance",
    "no media type that is not documented": "content_type_conformance",
    "bodies as their schema says": "response_schema_conformance",
    "`Allow` names every method of a path": "allow_header_conformance",
}
SETTINGS = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 504]
"""
"""A made-up header `timeout: 5e-324` is a deadline that has passed: 504, as documented."""
HOOKS = """
import json
import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    if isinstance(value, str):
        return value.encode()
    rows = value if isinstance(value, list) else [value]
    return "\\n".join(json.dumps(row) for row in rows).encode()
"""
EXAMPLES = "8"
"""Cases per operation that are made up at random; some 70 more are derived from each operation's schema."""


@cache
def report(url: str) -> dict[str, Any]:
    """What one run has found."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "schemathesis.toml").write_text(SETTINGS)
        (place / "hooks.py").write_text(HOOKS)
        command = [
            *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json"),
            *("--checks", ",".join(CHECKS.values()), "--phases", "examples,coverage,fuzzing"),
            *("--max-examples", EXAMPLES, "--seed", "1", "--continue-on-failure", "--no-shrink", "--warnings", "off"),
            *("--request-timeout", "60", "--report", "json", "--report-json-path", "report.json"),
        ]
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": folder}
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
        assert (place / "report.json").exists(), done.stdout + done.stderr
        return json.loads((place / "report.json").read_text()) | {"words": done.stdout}


def kind_of(check: str) -> str:
    """The type of failure that a check reports, by the words in its name."""
    return {
        "not_a_server_error": "ServerError",
        "status_code_conformance": "UndefinedStatusCode",
        "content_type_conformance": "UndefinedContentType",
        "response_schema_conformance": "JsonSchemaError",
        "allow_header_conformance": "AllowHeaderMismatch",
    }[check]


def _add(feature: str, check: str) -> None:
    @judge.feature(feature)
    def conforms(case: Case) -> None:
        found = report(case.url)
        wrong = [each for each in found["failures"] if each["type"] == kind_of(check)]
        assert not wrong, (wrong, found["words"][-3000:])


for _feature, _check in CHECKS.items():
    _add(_feature, _check)


@judge.feature("every operation is tried, and nothing else is wrong")
def whole(case: Case) -> None:
    found = report(case.url)
    assert found["operations"]["tested"] == found["operations"]["total"] > 40, found["operations"]
    assert found["exit_code"] == 0, found["words"][-3000:]
    assert found["test_cases"]["generated"] > 1000


if __name__ == "__main__":
    judge.main()
