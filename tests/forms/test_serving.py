"""A version with forms: what a load opens, on which machine a proof holds, and what is kept where."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import joblib
import msgspec
import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import Ridge

from lagar import runtimes
from lagar.cli.screen import screen
from lagar.cli.verdict import serving
from lagar.control.compiling import Compiler
from lagar.intake import compilation, golden, push, sandbox
from lagar.logs import open_log
from lagar.metrics import Registry
from lagar.registry import answers
from lagar.registry import manifest as manifests
from lagar.registry.model import FormSource
from lagar.registry.proof import ORIGINAL, Machine, Proof, Served, this_machine
from lagar.registry.releases import Releases, Version, Who, open_releases
from lagar.runtimes import sized
from lagar.server.serving import Loader, is_at_hand
from lagar.settings import ServerSettings
from lagar.types import Rows
from support.server import LagarServer
from support.wait import eventually

ME = Who("ana", "laptop")


class Pushed(NamedTuple):
    releases: Releases
    version: Version
    path: Path


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushed]:
    """A small forest, compiled."""
    folder = tmp_path_factory.mktemp("pushed")
    path = folder / "forest.joblib"
    joblib.dump(RandomForestClassifier(5, max_depth=4, random_state=0).fit(*load_wine(return_X_y=True)), path)
    with open_releases(folder / "home") as releases:
        version = push.push(releases, "wine", path, who=ME, compiling="wait")
        yield Pushed(releases, version, path)


def with_proof(version: Version, proof: Proof) -> Version:
    """The version as if it had been committed with that proof."""
    manifest = msgspec.structs.replace(version.manifest, proof=proof)
    sha256 = hashlib.sha256(manifests.encode(manifest)).hexdigest()
    return msgspec.structs.replace(version, manifest=manifest, manifest_sha256=sha256)


def forms_only(version: Version) -> Version:
    """The version as if one of its forms had won at every size: a busy machine decides that anew at each race."""
    proof = version.manifest.proof
    assert proof is not None
    name = next(part.name for part in proof.served if part.name != ORIGINAL)
    alone = msgspec.structs.replace(proof, served=(Served(name, 1, None),))
    return with_proof(version, alone)


def elsewhere(version: Version) -> Version:
    """The version as if it had been pushed on another machine."""
    proof = version.manifest.proof
    assert proof is not None
    moved = msgspec.structs.replace(proof, machine=Machine("0.0.1", "other-cpu"))
    return with_proof(version, moved)


def test_a_push_keeps_the_proof_and_the_forms_that_serve(pushed: Pushed) -> None:
    manifest = pushed.version.manifest
    assert manifest.proof is not None
    serving = [part.name for part in manifest.proof.served if part.name != ORIGINAL]
    assert serving
    assert [form.name for form in manifest.forms] == [ORIGINAL, *serving]
    assert all(form.kind == "form" and form.criterion is not None for form in manifest.forms[1:])
    assert manifest.proof.machine == this_machine()


def test_a_load_opens_the_forms_and_neither_a_pickle_nor_scikit_learn(pushed: Pushed, tmp_path: Path) -> None:
    source = pushed.releases.source(forms_only(pushed.version))
    assert sized.covers(source.forms)
    (tmp_path / "source.json").write_bytes(msgspec.json.encode(source))
    code = f"""
import json, sys
from pathlib import Path
import msgspec
from lagar import runtimes
from lagar.intake import golden
from lagar.registry import manifest
from lagar.registry.model import ModelSource
source = msgspec.json.decode(Path({str(tmp_path / "source.json")!r}).read_bytes(), type=ModelSource)
model = runtimes.load(source)
golden.check(manifest.decode(Path(source.manifest).read_bytes()), model.predictor)
print(json.dumps([name for name in ("sklearn", "joblib", "pandas", "pickle5") if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout) == []


def test_forms_and_original_answer_alike(pushed: Pushed) -> None:
    source = pushed.releases.source(forms_only(pushed.version))
    form = runtimes.load(source)
    original = runtimes.load(msgspec.structs.replace(source, forms=()))
    rows = Rows(178, matrix=np.ascontiguousarray(load_wine().data))
    names = ("predict", "predict_proba")
    wanted, got = original.predictor.predict(rows, names), form.predictor.predict(rows, names)
    assert all(np.array_equal(wanted[name], got[name]) and wanted[name].dtype == got[name].dtype for name in names)
    assert form.signature == original.signature


def test_a_form_that_does_not_give_the_golden_rows_again_is_refused_at_load(pushed: Pushed) -> None:
    from lagar.errors import LoadFailed

    model = runtimes.load(pushed.releases.source(pushed.version))
    manifest = pushed.version.manifest
    outputs = {**manifest.golden.outputs, "predict": [7 for _ in manifest.golden.records]}
    wrong = msgspec.structs.replace(manifest, golden=msgspec.structs.replace(manifest.golden, outputs=outputs))
    with pytest.raises(LoadFailed, match="golden row 0, output 'predict': recorded 7"):
        golden.check(wrong, model.predictor)


def test_a_proof_of_another_machine_is_none_here_and_no_error(pushed: Pushed) -> None:
    assert pushed.releases.source(elsewhere(pushed.version)).forms == ()


def test_what_was_pushed_elsewhere_is_proved_again_without_being_built(pushed: Pushed) -> None:
    moved = elsewhere(pushed.version)
    try:
        proof = compilation.prove_again(pushed.releases, moved)
        assert proof is not None
        assert {attempt.name for attempt in proof.attempts} == {form.name for form in moved.manifest.forms[1:]}
        assert all(attempt.outcome in ("serves", "proved") for attempt in proof.attempts)
        assert pushed.releases.source(moved).forms
        kept = next(iter(pushed.releases.compiled.root.glob("*/forms/*/*")))
        kept.write_bytes(kept.read_bytes() + b" ")
        assert pushed.releases.source(moved).forms == (), "a changed file is not used"
    finally:
        pushed.releases.compiled.forget(moved.manifest)


def test_pushing_the_same_model_again_is_the_same_version_whatever_the_race_gives(pushed: Pushed) -> None:
    again = push.push(pushed.releases, "wine", pushed.path, version="1", who=ME, compiling="off")
    assert again.manifest == pushed.version.manifest


def test_a_version_without_forms_serves_as_it_was_saved(pushed: Pushed) -> None:
    plain = push.push(pushed.releases, "plain", pushed.path, who=ME, compiling="off")
    assert plain.manifest.proof is None
    assert pushed.releases.source(plain).forms == ()


def test_what_a_killed_compilation_has_left_in_the_home_goes_with_what_is_unused(pushed: Pushed) -> None:
    with sandbox.private(pushed.releases.compiled.place()) as folder:
        os.utime(folder, (0, 0))
        pushed.releases.gc()
        assert not folder.exists()


def test_a_version_that_was_pushed_for_later_is_compiled_where_it_serves(tmp_path: Path) -> None:
    path = tmp_path / "line.joblib"
    joblib.dump(Ridge().fit(*load_wine(return_X_y=True)), path)
    log = open_log("console", "error", no_colour=True, process="test")
    with open_releases(tmp_path / "home") as releases:
        later = push.push(releases, "line", path, who=ME, compiling="background")
        assert (later.manifest.proof, later.manifest.compile_later) == (None, True)
        source = releases.source(later)
        assert source.forms == ()
        compiler = Compiler(releases, log, build=False)
        compiler.want([source])
        eventually(lambda: releases.compiled.find(later.manifest), 120, "its proof")
        plain = push.push(releases, "line", path, version="1", who=ME, compiling="off")
        assert plain.manifest == later.manifest, "when it is compiled is no part of what it answers"
        never = push.push(releases, "other", path, who=ME, compiling="off")
        releases.compiled.forget(never.manifest)
        assert compiler.now(releases.source(never)).forms == ()


def test_a_form_is_at_hand_without_its_original_s_library(pushed: Pushed) -> None:
    source = pushed.releases.source(pushed.version)
    native = FormSource("trees", "/nowhere", None, None, ())
    assert is_at_hand(msgspec.structs.replace(source, forms=(native,)))


def test_small_calls_go_to_one_form_and_large_ones_to_another() -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name, self.closed = name, False

        def bind(self, signature: object) -> None:
            """Nothing to learn."""

        def predict(self, rows: Rows, outputs: tuple[str, ...]) -> dict[str, np.ndarray]:
            return {"by": np.array([self.name] * rows.n)}

        def close(self) -> None:
            self.closed = True

    small, large = Named("small"), Named("large")
    both = sized.Sized([sized.Part("small", 8, small, None), sized.Part("large", None, large, None)])
    answered = [both.predict(Rows(n, matrix=np.zeros((n, 1))), ())["by"][0] for n in (1, 8, 9, 1000)]
    assert answered == ["small", "small", "large", "large"]
    both.close()
    assert small.closed
    assert large.closed


def test_which_form_answers_which_calls_is_told() -> None:
    from lagar.registry.model import served_of

    forms = (FormSource("trees", "/a", 57), FormSource(ORIGINAL, None))
    assert served_of(forms) == (Served("trees", 1, 57), Served(ORIGINAL, 58, None))
    assert served_of(()) == ()


def test_a_form_that_does_not_load_is_given_up_for_the_original(pushed: Pushed, tmp_path: Path) -> None:
    source = pushed.releases.source(pushed.version)
    lost = msgspec.structs.replace(source, forms=(FormSource("trees", str(tmp_path / "gone"), None, None, ()),))
    loader = Loader(
        ServerSettings(), Registry(tmp_path, 0), threads=1, workers=1, run_folder=tmp_path, on_violation=print
    )
    deployment = asyncio.run(loader.load(lost, in_thread=False))
    assert deployment.model.source.forms == ()
    assert deployment.info(live=True, loaded_at="now").forms == ()


def keep(releases: Releases, version: Version, forms_of: Pushed, folder: Path) -> None:
    """What `lagar compile` leaves for a version, of the forms that another one was pushed with."""
    alone = forms_only(forms_of.version).manifest
    assert alone.proof is not None
    name = alone.proof.served[0].name
    entry = forms_of.releases.lay_out(forms_of.version.manifest, name) / alone.forms[1].entry
    shutil.copytree(entry.with_name(name), folder / name)
    releases.compiled.keep(version.manifest, alone.proof, folder)


def test_what_was_compiled_again_is_told_once(pushed: Pushed, tmp_path: Path) -> None:
    source = pushed.releases.source(pushed.version)
    compiler = Compiler(pushed.releases, open_log("console", "error", no_colour=True, process="test"), build=False)
    assert compiler.done([source]) == {}
    try:
        keep(pushed.releases, pushed.version, pushed, tmp_path / "first")
        (found,) = compiler.done([source]).values()
        assert found.forms == pushed.releases.source(pushed.version).forms != source.forms
        assert compiler.done([found]) == {}
        keep(pushed.releases, pushed.version, pushed, tmp_path / "again")
        assert compiler.done([found]) == {}, "the same forms again change nothing"
    finally:
        pushed.releases.compiled.forget(pushed.version.manifest)


@pytest.mark.slow
def test_a_running_server_takes_up_what_is_compiled_beside_it(pushed: Pushed, tmp_path: Path) -> None:
    with open_releases(tmp_path / "home") as releases:
        version = push.push(releases, "wine", pushed.path, who=ME, compiling="off")
        releases.propose("wine", {version.version: 100}, ME)
        with LagarServer(home=tmp_path / "home", env={"LAGAR_COMPILE": "background"}, workers=1) as server:
            url = f"{server.url}/models/wine"
            row = {"instances": [[float(index) for index in range(13)]]}
            wanted = httpx.post(f"{url}/predict", json=row).json()
            assert httpx.get(url).json()["versions"][0]["forms"] == []
            keep(releases, version, pushed, tmp_path / "forms")
            eventually(lambda: httpx.get(url).json()["versions"][0]["forms"], 120, "the form that was compiled")
            assert httpx.post(f"{url}/predict", json=row).json()["probabilities"] == wanted["probabilities"]


@pytest.mark.slow
def test_a_server_answers_at_once_and_in_the_proved_form_when_there_is_one(pushed: Pushed, tmp_path: Path) -> None:
    with LagarServer(
        pushed.path, home=tmp_path / "home", env={"LAGAR_COMPILE": "background"}, known_models=False
    ) as server:
        url = f"{server.url}/models/forest"
        before = httpx.get(url).json()["versions"][0]
        row = {"instances": [[float(index) for index in range(13)]]}
        wanted = httpx.post(f"{url}/predict", json=row).json()
        after = eventually(
            lambda: [card for card in httpx.get(url).json()["versions"] if card["forms"]], 240, "the compiled form"
        )[0]
        answer = httpx.post(f"{url}/predict", json=row).json()
    assert (before["forms"], before["version"]) == ([], after["version"])
    assert after["forms"][0]["min_rows"] == 1
    assert answer["predictions"] == wanted["predictions"]
    assert answer["probabilities"] == wanted["probabilities"]


def test_what_was_compiled_here_is_what_a_report_tells(pushed: Pushed, tmp_path: Path) -> None:
    with open_releases(tmp_path / "home") as releases:
        plain = push.push(releases, "wine", pushed.path, who=ME, compiling="off")
        before = answers.version_report(releases, "wine", "1")
        assert before.proof is None
        assert any("`lagar compile wine@1`" in line for line in screen(before, ()))
        keep(releases, plain, pushed, tmp_path / "forms")
        report = answers.version_report(releases, "wine", "1")
        assert report.proof is not None
        assert report.manifest.proof is None, "a version never changes"
        (part,) = report.proof.served
        assert any(f"{part.name} serves" in line and "compiled here" in line for line in screen(report, ()))
        assert any(line.strip().startswith(part.name) for line in serving(report.proof))
        other = push.push(releases, "wine", pushed.path, version="second", who=ME, compiling="off", note="again")
        assert other.version == "second"
        changed = {change.name for change in releases.diff("wine", "1", "second").changes}
        assert "served by" not in changed, "the same model has the same forms"


def test_forms_that_were_proved_elsewhere_are_told_of_as_such(pushed: Pushed) -> None:
    moved = elsewhere(pushed.version)
    card = answers.version_report(pushed.releases, "wine", "1").card
    lines = screen(answers.VersionReport(card, moved.manifest, pushed.releases.proof(moved.manifest)), ())
    assert any("until its forms are proved again" in line for line in lines)


def test_a_form_that_was_given_up_stays_so_under_other_releases_until_it_is_compiled_again(
    pushed: Pushed, tmp_path: Path
) -> None:
    releases, manifest = pushed.releases, pushed.version.manifest
    assert manifest.proof is not None
    marked = msgspec.structs.replace(
        manifest.proof, served=(Served(ORIGINAL, 1, None),), words="given up", given_up="given up on a row"
    )
    try:
        releases.compiled.keep(manifest, marked, tmp_path / "none")
        assert releases.given_up(manifest) == "given up on a row"
        releases.compiled.forget(manifest)  # as another release of a library does: its key is another one
        assert releases.compiled.find(manifest) is None
        assert releases.given_up(manifest) == "given up on a row"
        assert releases.source(pushed.version).forms == (), "the forms of the push do not come back"
        compiler = Compiler(releases, open_log("console", "error", no_colour=True, process="test"), build=True)
        assert compiler.now(releases.source(pushed.version)).forms == (), "and none is built behind one's back"
        keep(releases, pushed.version, pushed, tmp_path / "again")
        assert releases.given_up(manifest) == ""
        assert releases.source(pushed.version).forms
    finally:
        releases.compiled.keep(manifest, manifest.proof, tmp_path / "none")
        releases.compiled.forget(manifest)
