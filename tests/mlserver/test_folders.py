"""MLServer's folders: what its settings files say becomes the facts of versions, or is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lagar import runtimes
from lagar.errors import LoadFailed, SettingsError, SetupError
from lagar.intake import mlserver, mlserver_server, paths
from lagar.intake.archive import Bounds
from lagar.intake.content import Content
from lagar.registry.model import Asked, ModelSource
from lagar.settings import load, require_auth
from lagar.types import Rows
from support.examples import DATA
from support.mlserver import SKLEARN, SUM, custom, logistic, sklearn_model, write


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.upper().startswith("MLSERVER_"):
            monkeypatch.delenv(name)


def found(*given: Path) -> dict[str, ModelSource]:
    """Label → source."""
    finding = paths.find(Asked(paths=tuple(map(str, given))))
    return {f"{one.source.name}@{one.source.version}": one.source for one in finding.found}


def test_models_are_found_at_any_depth_with_their_names_and_versions(tmp_path: Path) -> None:
    sklearn_model(tmp_path / "models/iris-v1.0.0", name="iris", version="v1.0.0")
    sklearn_model(tmp_path / "models/iris-v1.0.1", name="iris", version="v1.0.1")
    sklearn_model(tmp_path / "a/b/c/d/wine/1.0", name="wine", version="1.0")
    sklearn_model(tmp_path / "plain")
    assert set(found(tmp_path)) == {"iris@v1.0.0", "iris@v1.0.1", "wine@1.0", "plain@"}


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    sklearn_model(tmp_path / "elsewhere/m", name="m")
    served = tmp_path / "served"
    served.mkdir()
    (served / "current").symlink_to(tmp_path / "elsewhere/m", target_is_directory=True)
    (served / "again").symlink_to(served, target_is_directory=True)
    (served / "lost").symlink_to(tmp_path / "nowhere")
    assert list(found(served)) == ["m@"]


def test_versions_are_ordered_as_numbers_and_a_model_without_one_comes_first(tmp_path: Path) -> None:
    sources = {}
    for version in ("1.9", "1.10", "v1.0.9", "v1.0.10"):
        sklearn_model(tmp_path / version, name="m" if version[0] == "1" else "v", version=version)
    sklearn_model(tmp_path / "bare", name="w")
    sklearn_model(tmp_path / "w2", name="w", version="2")
    finding = paths.find(Asked(paths=(str(tmp_path),)))
    sources = [paths.Admitted(one, one.source) for one in finding.found]
    assert paths.live_of(sources) == {"m": "1.10", "v": "v1.0.10", "w": ""}


def test_the_settings_become_facts_of_the_version(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    logistic(folder)
    write(
        folder,
        name="flowers",
        implementation="mlserver_sklearn.sklearn.SKLearnModel",
        platform="sklearn",
        versions=["sklearn/1.5"],
        inputs=[{"name": "x", "datatype": "FP32", "shape": [-1, 2], "parameters": {"content_type": "np"}}],
        max_batch_size="10",
        max_batch_time="0.4",
        warm_workers="true",
        cache_enabled=True,
        parameters={"uri": "./model.joblib", "version": "v2", "content_type": "pd", "extra": {"predict_fn": "predict"}},
    )
    source = found(tmp_path)["flowers@v2"]
    facts = mlserver.facts_of(source.options)
    assert facts is not None
    assert (source.kind, source.path, source.pickled) == ("sklearn", str(folder / "model.joblib"), True)
    assert (facts.platform, facts.versions, facts.content_type) == ("sklearn", ("sklearn/1.5",), "pd")
    assert (facts.max_batch_size, facts.max_batch_time, facts.predict_fn) == (10, 0.4, "predict")
    assert facts.inputs == (mlserver.Tensor("x", "FP32", (-1, 2), "np"),)


@pytest.mark.parametrize(
    ("implementation", "file"),
    [("mlserver_sklearn.SKLearnModel", name) for name in ("model.joblib", "model.pickle", "model.pkl")],
)
def test_well_known_files_are_found(tmp_path: Path, implementation: str, file: str) -> None:
    logistic(tmp_path / "m", file=file)
    write(tmp_path / "m", implementation=implementation)
    assert found(tmp_path)["m@"].path == str(tmp_path / "m" / file)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"parameters": {"environment_tarball": "env.tar.gz"}}, "environment_tarball"),
        ({"parameters": {"environment_path": "/opt/env"}}, "environment_path"),
        ({"parameters": {"uri": "./none.joblib"}}, "does not exist"),
        ({"parameters": {"uri": "s3://bucket/model"}}, "no path on this machine"),
        ({"parameters": {"uri": "models:/churn/3"}}, "lagar import mlflow"),
        ({"parameters": []}, "parameters must be an object"),
        ({"parameters": {"version": "$VERSAO"}}, r"\$VERSAO"),
        ({"implementation": ""}, "implementation is missing"),
        ({"implementation": "mlserver_huggingface.HuggingFaceRuntime"}, "Hugging Face pipeline"),
        ({"implementation": "mlserver_alibi_detect.AlibiDetectRuntime"}, "alibi-detect"),
        ({"implementation": "mlserver_alibi_explain.AlibiExplainRuntime"}, "alibi explainer"),
        ({"implementation": "mlserver_lightgbm.LightGBMModel"}, "model.bst"),
        ({"implementation": "mlserver_new.NewModel"}, "none that Lagar serves"),
        ({"implementation": "nowhere.Model"}, "needs nowhere.py"),
        ({"implementation": "noclass"}, '"module.Class"'),
        ({"max_batch_size": "many"}, "max_batch_size must be a number"),
        ({"inputs": [{"name": "x"}]}, "inputs.0. must have a name, a datatype and a shape"),
        ({"name": "two words"}, "two words"),
    ],
)
def test_what_cannot_be_honoured_is_named_and_the_others_serve(
    tmp_path: Path, said: dict[str, Any], words: str
) -> None:
    import re

    sklearn_model(tmp_path / "good", version="1")
    logistic(tmp_path / "bad")
    write(tmp_path / "bad", **({"implementation": SKLEARN} | said))
    finding = paths.find(Asked(paths=(str(tmp_path),)))
    assert [one.source.name for one in finding.found] == ["good"]
    ((place, error),) = finding.wrong
    assert place.path == tmp_path / "bad"
    assert re.search(words, error.message)


def test_files_that_are_not_json_or_say_the_same_twice_are_named(tmp_path: Path) -> None:
    sklearn_model(tmp_path / "a", name="same", version="1")
    sklearn_model(tmp_path / "b", name="same", version="1")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/model-settings.json").write_text("{name: 1}")
    finding = paths.find(Asked(paths=(str(tmp_path),)))
    assert [one.place.path.name for one in finding.found] == ["a"]
    assert ["both same@1" in error.message for _, error in finding.wrong] == [True, False]
    assert "not valid JSON" in finding.wrong[1][1].message


def test_a_key_that_mlserver_does_not_know_is_told_of_and_says_nothing(tmp_path: Path) -> None:
    logistic(tmp_path / "m")
    write(tmp_path / "m", implementation=SKLEARN, version="v1.0.0", paramters={"version": "1"})
    (tmp_path / "settings.json").write_text('{"debug": "true", "htp_port": 9000}')
    finding = paths.find(Asked(paths=(str(tmp_path),)))
    assert [one.source.version for one in finding.found] == [""]
    text = "\n".join(finding.skipped)
    assert "'version' is no field of MLServer's" in text
    assert "did you mean 'parameters'" in text
    assert "did you mean 'http_port'" in text


def test_what_says_nothing_here_is_told_of(tmp_path: Path) -> None:
    logistic(tmp_path / "m")
    write(tmp_path / "m", implementation=SKLEARN, cache_enabled="true", parallel_workers=0, parameters={
        "inference_pool_gid": "g", "autogenerate_inference_pool_gid": False,
    })  # fmt: skip
    (tmp_path / "settings.json").write_text('{"server_name": "shop", "cache_enabled": false, "cache_size": 5}')
    told = paths.find(Asked(paths=(str(tmp_path),))).skipped
    assert [line.partition(": ")[2].split(" says nothing")[0] for line in told] == [
        'server_name = "shop"', 'cache_enabled = "true"', 'inference_pool_gid = "g"',
    ]  # fmt: skip


def test_a_model_may_be_named_by_variables_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logistic(tmp_path)
    monkeypatch.setenv("MLSERVER_MODEL_NAME", "iris")
    monkeypatch.setenv("mlserver_model_implementation", SKLEARN)
    monkeypatch.setenv("MLSERVER_MODEL_VERSION", "v3")
    assert set(found(tmp_path)) == {"iris@v3"}
    monkeypatch.setenv("MLSERVER_MODEL_URI", "nothing.joblib")
    with pytest.raises(SetupError, match=r"nothing\.joblib"):
        found(tmp_path)


def test_variables_fill_in_what_a_file_leaves_out_and_a_dotenv_what_they_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sklearn_model(tmp_path / "m", name="iris")
    (tmp_path / ".env").write_text('MLSERVER_MODEL_VERSION="v9"\nMLSERVER_MODEL_NAME=other\nMLSERVER_HTTP_PORT=9999\n')
    assert set(found(tmp_path)) == {"iris@v9"}
    assert mlserver_server.said(tmp_path)["port"] == (9999, "MLSERVER_HTTP_PORT")
    monkeypatch.setenv("MLSERVER_MODEL_VERSION", "v10")
    assert set(found(tmp_path)) == {"iris@v10"}


def test_a_custom_runtime_brings_its_folder_and_what_it_imports_of_the_served_one(tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text("import deeper\nVALUE = 1\n")
    (tmp_path / "deeper.py").write_text("")
    (tmp_path / "unrelated.py").write_text("")
    custom(tmp_path / "models/sum", f"import shared\n{SUM}", name="sum")
    source = found(tmp_path)["sum@"]
    assert (source.kind, source.class_name) == ("mlserver", "runtime:SumModel")
    assert source.folder == source.path == str(tmp_path / "models/sum")
    assert {Path(code).name for code in source.code} == {"shared.py", "deeper.py", "sum"}


def test_a_class_may_lie_in_the_served_folder(tmp_path: Path) -> None:
    (tmp_path / "runtimes").mkdir()
    (tmp_path / "runtimes/__init__.py").write_text("")
    (tmp_path / "runtimes/sums.py").write_text(SUM)
    write(tmp_path / "models/sum", implementation="runtimes.sums.SumModel")
    source = found(tmp_path)["sum@"]
    assert source.class_name == "runtimes.sums:SumModel"
    assert str(tmp_path / "runtimes") in source.code


def test_a_gathered_model_says_the_same_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared.py").write_text("VALUE = 1\n")
    custom(tmp_path / "models/sum", f"import shared\n{SUM}", parameters={"extra": {"output_name": "s"}, "mine": 1})
    sklearn_model(tmp_path / "models/iris", version="v1")
    monkeypatch.setenv("MLSERVER_MODEL_CONTENT_TYPE", "pd")
    known = found(tmp_path)
    for place in ("sum", "iris"):
        settled = mlserver.read(tmp_path / "models" / place, tmp_path)
        folder = mlserver.gather(settled, tmp_path, tmp_path / "out")
        monkeypatch.delenv("MLSERVER_MODEL_CONTENT_TYPE")
        (alone,) = found(folder).values()
        monkeypatch.setenv("MLSERVER_MODEL_CONTENT_TYPE", "pd")
        (before,) = (source for source in known.values() if source.name == place)
        facts, wanted = mlserver.facts_of(alone.options), mlserver.facts_of(before.options)
        assert facts is not None
        assert wanted is not None
        assert (facts.content_type, facts.extra, facts.others) == ("pd", wanted.extra, wanted.others)
        assert (alone.name, alone.version, alone.kind) == (before.name, before.version, before.kind)


# The server's own settings.


def settings_of(folder: Path, said: dict[str, Any], **flags: Any) -> Any:
    sklearn_model(folder / "m")
    (folder / "settings.json").write_text(json.dumps(said))
    return load(flags, {"LAGAR_HOME": str(folder / "home")}, beneath=mlserver_server.said(folder))


def test_settings_json_says_what_the_server_runs_with(tmp_path: Path) -> None:
    loaded = settings_of(
        tmp_path,
        {
            "debug": "true",
            "host": "0.0.0.0",
            "http_port": "8087",
            "root_path": "/mlapi/",
            "parallel_workers": 0,
            "parallel_workers_timeout": 7,
            "use_structured_logging": True,
            "kafka_enabled": "false",
            "kafka_topic_input": "in",
            "cache_enabled": True,
            "environments_dir": "/tmp/envs",
        },
    )
    server = loaded.server
    assert (server.host, server.port, server.root_path) == ("0.0.0.0", 8087, "/mlapi")
    assert (server.workers, server.drain_timeout_s, server.log_level, server.log_format) == (1, 7, "debug", "json")
    assert loaded.origins["port"] == str(tmp_path / "settings.json")
    with pytest.raises(SettingsError, match=r"lagar keys create.*--no-auth"):
        require_auth(server, has_keys=False)


def test_a_flag_and_a_variable_of_lagar_come_before_the_file_and_the_file_before_mlservers_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLSERVER_HTTP_PORT", "1111")
    monkeypatch.setenv("MLSERVER_ROOT_PATH", "/mlapi")
    server = settings_of(tmp_path, {"http_port": 3333}).server
    assert (server.port, server.root_path) == (3333, "/mlapi")
    assert settings_of(tmp_path, {"http_port": 3333}, port=4444).server.port == 4444


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"kafka_enabled": True}, "kafka_enabled = true is not honoured"),
        ({"tracing_server": "http://otel:4317"}, "tracing_server"),
        ({"model_repository_implementation": "a.B"}, "model_repository_implementation"),
        ({"logging_settings": "logging.ini"}, "logging_settings"),
        ({"_custom_rest_server_settings": {"a": 1}}, "_custom_rest_server_settings"),
        ({"http_port": "eighty"}, "http_port must be a number"),
        ({"debug": "perhaps"}, "debug must be true or false"),
        ({"http_port": 99999}, "port .*settings.json.* must be between"),
    ],
)
def test_a_setting_that_cannot_be_honoured_is_refused_by_its_name(
    tmp_path: Path, said: dict[str, Any], words: str
) -> None:
    with pytest.raises(SetupError, match=words):
        settings_of(tmp_path, said)


def test_another_folder_says_nothing_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"http_port": 9000}')
    logistic(tmp_path / "m")
    assert mlserver_server.said(tmp_path) == {}


@pytest.mark.skipif(not DATA.is_dir(), reason="the collected payloads are not here")
@pytest.mark.parametrize("name", ["settings", "settings-cache", "settings-stream", "settings-custom-md-repo"])
def test_mlservers_own_settings_files_are_read(tmp_path: Path, name: str) -> None:
    said = json.loads((DATA / "inference-protocol/mlserver/testdata" / f"{name}.json").read_text())
    if name == "settings-custom-md-repo":
        with pytest.raises(SetupError, match="model_repository_implementation"):
            settings_of(tmp_path, said)
    else:
        assert settings_of(tmp_path, said).server.host == "127.0.0.1"


def test_cross_origin_settings_are_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSERVER_MAX_AGE", "999")
    said = {"allow_origins": ["https://shop.example"], "allow_methods": ["GET", "POST"], "allow_credentials": "true"}
    server = settings_of(tmp_path, {"cors_settings": said, "gzip_enabled": True}).server
    assert (server.cors_origins, server.cors_methods) == (("https://shop.example",), ("GET", "POST"))
    assert (server.cors_credentials, server.cors_max_age_s, server.compress_answers_bytes) == (True, 999, 500)
    assert settings_of(tmp_path, {"grpc_max_message_length": 2**30}).server.max_body_bytes == 2**30


def test_pages_may_do_what_mlserver_lets_them_where_nothing_is_said(tmp_path: Path) -> None:
    safe = ("accept", "accept-language", "content-language", "content-type")
    server = settings_of(tmp_path, {"cors_settings": {"allow_origins": ["*"]}}).server
    assert (server.cors_methods, server.cors_headers) == (("GET",), safe)
    said = {"allow_origins": ["*"], "allow_methods": ["POST"], "allow_headers": ["x-token"]}
    server = settings_of(tmp_path, {"cors_settings": said}).server
    assert (server.cors_methods, server.cors_headers) == (("POST",), ("x-token", *safe))
    said = {"allow_origins": ["*"], "allow_headers": ["*"]}
    assert settings_of(tmp_path, {"cors_settings": said}).server.cors_headers == ("*",)
    assert settings_of(tmp_path, {}).server.cors_methods == ()


def test_models_may_lie_where_only_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = tmp_path / "served"
    served.mkdir()
    sklearn_model(tmp_path / "models/m", name="m")
    assert mlserver_server.said(served) == {}
    (served / "settings.json").write_text('{"model_repository_root": "../models", "http_port": 9000}')
    assert list(found(served)) == ["m@"]
    assert mlserver_server.said(served)["port"][0] == 9000
    (served / "settings.json").write_text('{"model_repository_root": "../nowhere"}')
    with pytest.raises(SetupError, match="model_repository_root is no folder"):
        found(served)
    (served / "settings.json").unlink()
    monkeypatch.setenv("MLSERVER_MODEL_REPOSITORY_ROOT", str(tmp_path / "models"))
    assert list(found(served)) == ["m@"]


def test_content_types_of_the_settings_are_those_of_the_version(tmp_path: Path) -> None:
    logistic(tmp_path / "m")
    outputs = [{"name": "predict", "datatype": "INT64", "shape": [-1, 1], "parameters": {"content_type": "np"}}]
    write(tmp_path / "m", implementation=SKLEARN, outputs=outputs, parameters={"content_type": "pd"})
    signature = runtimes.load(found(tmp_path)["m@"]).signature
    assert signature.content_type == "pd"
    assert [output.content_type for output in signature.outputs] == ["np", ""]


def test_predict_fn_names_the_output_that_answers_when_none_is_asked_for(tmp_path: Path) -> None:
    sklearn_model(tmp_path / "m", extra={"predict_fn": "predict_proba"})
    (source,) = found(tmp_path).values()
    assert [output.name for output in runtimes.load(source).signature.outputs] == ["predict_proba", "predict"]
    sklearn_model(tmp_path / "m", extra={"predict_fn": "score_samples"})
    (source,) = found(tmp_path).values()
    with pytest.raises(LoadFailed, match="predict_fn is 'score_samples', and this model answers predict"):
        runtimes.load(source)


def test_raw_boosters_answer_as_their_own_predict(tmp_path: Path) -> None:
    import lightgbm
    import xgboost

    rows = np.random.default_rng(0).normal(size=(60, 3))
    labels = (rows[:, 0] > 0).astype(int)
    for name in ("x", "l", "w"):
        (tmp_path / name).mkdir()
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(rows, labels), 3)
    booster.save_model(tmp_path / "x/model.json")
    write(tmp_path / "x", implementation="mlserver_xgboost.XGBoostModel")
    wrapped = xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(rows, labels)
    wrapped.save_model(tmp_path / "w/model.ubj")
    write(tmp_path / "w", implementation="mlserver_xgboost.XGBoostModel")
    three = (rows[:, 0] > 0).astype(int) + (rows[:, 1] > 0).astype(int)
    parameters = {"objective": "multiclass", "num_class": 3, "verbose": -1, "num_threads": 1}
    light = lightgbm.train(parameters, lightgbm.Dataset(rows, three), 3)
    light.save_model(tmp_path / "l/model.bst")
    write(tmp_path / "l", implementation="mlserver_lightgbm.LightGBMModel")
    wanted = {"x": booster.predict(xgboost.DMatrix(rows)), "l": light.predict(rows), "w": wrapped.predict(rows)}
    sources = {source.name: source for source in found(tmp_path).values()}
    for name, values in wanted.items():
        loaded = runtimes.load(sources[name])
        outputs = loaded.predictor.predict(Rows(60, matrix=rows), ("predict",))
        np.testing.assert_allclose(outputs["predict"], values, rtol=1e-6)
        names = [output.name for output in loaded.signature.outputs]
        assert names == (["predict", "predict_proba"] if name == "w" else ["predict"])


def test_a_model_that_is_gathered_is_the_same_version(tmp_path: Path) -> None:
    custom(tmp_path / "in/sum", parameters={"version": "1"})
    sklearn_model(tmp_path / "in/iris", uri="./model.joblib", version="1")
    for source in found(tmp_path / "in").values():
        settled = mlserver.read(tmp_path / "in" / source.name, tmp_path / "in")
        (alone,) = found(mlserver.gather(settled, tmp_path / "in", tmp_path / "out")).values()
        assert Content(alone, Bounds()).made() == Content(source, Bounds()).made()


def test_a_dotenv_that_is_no_text_makes_no_folder_mlservers(tmp_path: Path) -> None:
    logistic(tmp_path / "m")
    (tmp_path / "m/.env").write_bytes(b"\xff\xfe")
    assert not mlserver.is_folder(tmp_path / "m")
    assert set(found(tmp_path / "m")) == {"m@"}
