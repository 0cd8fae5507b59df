"""What answers for a model, and the way back, on SQLite and on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from lagar.errors import InvalidVersion, NotFound, PromoteRefused
from lagar.registry.releases import Releases, Split
from support.registry import ANA, RUI, Place, push, together


@pytest.fixture
def four(releases: Releases, tmp_path: Path) -> Releases:
    """A model with versions 1 to 4, none of them live."""
    for number in range(4):
        push(releases, tmp_path, bytes([number]))
    return releases


def live(releases: Releases) -> Split | None:
    now = releases.traffic("wine")
    return None if now is None else now.split


def test_nothing_answers_before_the_first_promote(four: Releases) -> None:
    assert four.traffic("wine") is None
    assert four.all_traffic() == {}
    assert four.current().n == 0
    assert four.current().traffic == {}


def test_a_promote_with_no_server_around_is_committed_at_once(four: Releases) -> None:
    n = four.propose("wine", {"2": 100}, ANA, note="better")
    assert four.generation(n).state == "committed"
    assert four.current().n == n
    assert four.current().traffic == {"wine": Split({"2": 100})}
    assert four.pending() is None


def test_the_history_says_who_put_what_into_production_when_and_from_where(four: Releases, place: Place) -> None:
    four.propose("wine", {"1": 100}, ANA)
    place.clock.now += 60
    four.propose("wine", {"1": 90, "2": 10}, RUI, action="traffic", shadow="3", note="try 2")
    place.clock.now += 60
    four.rollback("wine", ANA)
    told = [(line.by, line.host, line.at - 1_000_000, line.action, line.note) for line in four.history("wine")]
    assert told == [
        ("ana", "laptop", 0.0, "promote", ""),
        ("rui", "ci-7", 60.0, "traffic", "try 2"),
        ("ana", "laptop", 120.0, "rollback", ""),
    ]
    assert [line.split for line in four.history("wine")] == [
        Split({"1": 100}), Split({"1": 90, "2": 10}, "3"), Split({"1": 100}),
    ]  # fmt: skip
    assert [entry.what for entry in four.audit("wine")][:3] == ["rollback", "traffic", "promote"]
    with pytest.raises(NotFound):
        four.history("unknown")


def test_a_rollback_restores_weights_and_shadow_and_each_further_one_a_step_more(four: Releases) -> None:
    steps = [({"1": 100}, None), ({"1": 70, "2": 30}, "4"), ({"2": 100}, "3"), ({"3": 100}, None)]
    for weights, shadow in steps:
        four.propose("wine", weights, ANA, shadow=shadow)
    for weights, shadow in reversed(steps[:-1]):
        four.rollback("wine", RUI)
        assert live(four) == Split(weights, shadow)
    with pytest.raises(InvalidVersion, match="back at what was live first, version 1: there is nothing"):
        four.rollback("wine", RUI)
    assert len(four.history("wine")) == 7  # nothing of it is forgotten


def test_a_promote_after_a_rollback_goes_back_to_where_it_was(four: Releases) -> None:
    four.propose("wine", {"1": 100}, ANA)
    four.propose("wine", {"2": 100}, ANA)
    four.rollback("wine", ANA)
    four.propose("wine", {"3": 100}, ANA)
    four.rollback("wine", ANA)
    assert live(four) == Split({"1": 100})


def test_a_model_that_was_never_live_cannot_be_rolled_back(four: Releases) -> None:
    with pytest.raises(InvalidVersion, match="wine was never live: there is nothing to roll back to"):
        four.rollback("wine", ANA)
    with pytest.raises(NotFound, match="no model 'other'"):
        four.rollback("other", ANA)


def test_promoting_what_is_live_changes_nothing(four: Releases) -> None:
    n = four.propose("wine", {"1": 100}, ANA)
    assert four.propose("wine", {"1": 100}, RUI) == n
    assert len(four.history("wine")) == 1


@pytest.mark.parametrize(
    ("weights", "shadow", "message"),
    [
        ({"1": 90}, None, "must add up to 100, got 90"),
        ({"1": 0, "2": 100}, None, "wine@1 must be a whole percentage of 1 to 100, got 0"),
        ({"1": 101, "2": -1}, None, "got 101"),
        ({"1": 99.5, "2": 0.5}, None, "whole percentage"),
        ({"1": True, "2": 99}, None, "whole percentage"),
        ({"1": 50, "champion": 50}, None, "names version 1 twice"),
        ({"1": 100}, "1", "the shadow of wine must be another version"),
        ({}, "1", "the shadow of wine must be another version"),
    ],
)
def test_weights_that_cannot_be_are_refused(
    four: Releases, weights: dict[str, int], shadow: str | None, message: str
) -> None:
    four.set_alias("wine", "champion", "1", ANA)
    with pytest.raises(InvalidVersion, match=message):
        four.propose("wine", weights, ANA, shadow=shadow)
    assert four.current().n == 0


def test_a_retired_version_is_promoted_no_more_and_one_in_use_is_not_retired(four: Releases) -> None:
    four.propose("wine", {"1": 100}, ANA)
    four.propose("wine", {"2": 100}, ANA, shadow="3")
    for label in ("2", "3"):
        with pytest.raises(InvalidVersion, match=rf"wine@{label} is in use \(version 2, shadow 3\)"):
            four.retire("wine", label, RUI)
    assert four.retire("wine", "1", RUI).state == "retired"
    with pytest.raises(InvalidVersion, match="wine@1 is retired"):
        four.propose("wine", {"1": 100}, ANA)
    with pytest.raises(InvalidVersion, match="wine@1 is retired: `lagar retire wine 1 --undo`"):
        four.rollback("wine", ANA)
    assert four.retire("wine", "1", RUI, undo=True).state == "ready"
    four.rollback("wine", ANA)
    assert live(four) == Split({"1": 100})


def test_a_model_taken_out_of_traffic_answers_no_more_and_comes_back_by_a_rollback(four: Releases) -> None:
    four.propose("wine", {"1": 100}, ANA)
    n = four.propose("wine", {}, ANA, action="retire")
    assert four.traffic("wine") is None
    assert four.generation(n).traffic == {}
    four.rollback("wine", RUI)
    assert live(four) == Split({"1": 100})


def test_a_generation_keeps_the_traffic_of_all_models(four: Releases, tmp_path: Path) -> None:
    push(four, tmp_path, model="churn")
    first = four.propose("wine", {"1": 100}, ANA)
    second = four.propose("churn", {"1": 100}, ANA)
    four.propose("wine", {"2": 100}, ANA)
    assert four.generation(first).traffic == {"wine": Split({"1": 100})}
    assert four.generation(second).traffic == {"churn": Split({"1": 100}), "wine": Split({"1": 100})}
    assert four.current().traffic == {"churn": Split({"1": 100}), "wine": Split({"2": 100})}


def test_of_two_promotes_at_once_one_is_told_whose_the_other_is(four: Releases, place: Place) -> None:
    four.lease("s1", "http://a:8080", 0, True)
    n = four.propose("wine", {"1": 100}, RUI)
    place.clock.now += 5
    with pytest.raises(PromoteRefused) as caught:
        four.propose("wine", {"2": 100}, ANA)
    message = str(caught.value)
    for words in ("rui on ci-7", "traffic of wine to version 1", f"generation {n}", "since 5 s", "at the latest in 55"):
        assert words in message
    four.report(n, "s1", True)
    assert four.try_commit(n)
    assert live(four) == Split({"1": 100})


def test_many_promotes_from_many_processes_are_one_history(place: Place, tmp_path: Path) -> None:
    with place.open() as releases:
        for number in range(4):
            push(releases, tmp_path, bytes([number]))
        script = (
            "name = str(number + 1); sys.stdin.read()\n"
            "for _ in range(5): releases.propose('wine', {name: 100}, Who(name, 'h'))\n"
        )
        together(place.start(script, count=4))
        lines = releases.history("wine")
        assert [line.generation for line in lines] == list(range(1, len(lines) + 1))
        assert [line.before for line in lines] == [None, *(line.id for line in lines[:-1])]
        assert all(line.weights == {line.by: 100} for line in lines)
        assert releases.current().n == len(lines)
