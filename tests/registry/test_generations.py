"""A promote over several servers, on SQLite and on PostgreSQL, by a clock that the tests move."""

from __future__ import annotations

from pathlib import Path

import pytest

from lagar.errors import NotFound
from lagar.registry.releases import Releases, Split
from support.registry import ANA, RUI, Place, push, together

A, B = "http://a:8080", "http://b:8080"


@pytest.fixture
def two(releases: Releases, tmp_path: Path) -> Releases:
    """A model with two versions, the first of them live, and two servers that serve it."""
    push(releases, tmp_path, b"1")
    push(releases, tmp_path, b"2")
    releases.propose("wine", {"1": 100}, ANA)
    releases.lease("a", A, 1, True)
    releases.lease("b", B, 1, True)
    return releases


def renew(releases: Releases, place: Place, seconds: int, *servers: str) -> None:
    """Let time go by while these servers renew their leases each second."""
    for _ in range(seconds):
        place.clock.now += 1
        for server in servers:
            releases.lease(server, A if server == "a" else B, 1, True)


def test_a_promote_is_committed_when_every_server_has_prepared_it(two: Releases) -> None:
    n = two.propose("wine", {"2": 100}, RUI, note="better")
    pending = two.pending()
    assert pending is not None
    assert (pending.n, pending.state, pending.traffic) == (n, "prepare", {"wine": Split({"2": 100})})
    assert (pending.by, pending.host, pending.note, pending.waiting) == ("rui", "ci-7", "better", (A, B))
    assert two.current().n == 1
    two.report(n, "a", True)
    assert not two.try_commit(n)
    assert two.generation(n).waiting == (B,)
    two.report(n, "b", True)
    assert two.try_commit(n)
    assert two.try_commit(n)  # whoever comes later hears the same
    assert two.current().n == n
    assert two.pending() is None
    live = two.traffic("wine")
    assert live is not None
    assert (live.weights, live.by, live.generation) == ({"2": 100}, "rui", n)


def test_one_server_that_cannot_prepare_makes_it_fail_with_the_reason(two: Releases) -> None:
    n = two.propose("wine", {"2": 100}, ANA)
    two.report(n, "a", True)
    two.report(n, "b", False, "xgboost is not installed")
    assert two.generation(n).state == "failed"
    assert two.generation(n).reason == f"{B}: xgboost is not installed"
    two.report(n, "b", True)  # too late
    assert not two.try_commit(n)
    assert two.current().n == 1
    assert two.traffic("wine").weights == {"1": 100}  # type: ignore[union-attr]
    entry = two.audit("wine")[0]
    assert (entry.what, entry.details["reason"]) == ("promote.failed", f"{B}: xgboost is not installed")
    again = two.propose("wine", {"2": 100}, ANA)
    assert again == n + 1  # the way is free


def test_a_server_that_stops_answering_is_waited_for_no_longer_than_its_lease(two: Releases, place: Place) -> None:
    n = two.propose("wine", {"2": 100}, ANA)
    two.report(n, "a", True)
    renew(two, place, 9, "a")
    assert not two.try_commit(n)
    renew(two, place, 1, "a")
    assert two.try_commit(n)
    assert two.current().n == n
    assert not two.lease("b", B, 1, False, "behind")  # told that it had lapsed
    assert two.lease("b", B, n, True)
    assert [(server.url, server.alive, server.generation) for server in two.servers()] == [(A, True, 1), (B, True, n)]


def test_a_lapsed_server_is_listed_as_such_for_an_hour(two: Releases, place: Place) -> None:
    renew(two, place, 10, "a")
    assert [(server.server_id, server.alive) for server in two.servers()] == [("a", True), ("b", False)]
    place.clock.now += 3601
    assert [server.server_id for server in two.servers()] == ["a"]
    place.clock.now += 3601
    two.lease("c", "http://c", None, False)
    assert [server.server_id for server in two.servers()] == ["c"]


def test_a_lease_says_when_it_had_lapsed(releases: Releases, place: Place) -> None:
    assert not releases.lease("a", A, None, False, "starting")
    place.clock.now += 9.9
    assert releases.lease("a", A, 0, True)
    place.clock.now += 10
    assert not releases.lease("a", A, 0, True)
    assert releases.servers()[0].since == place.clock.now


def test_a_server_that_starts_or_has_ended_is_not_waited_for(two: Releases) -> None:
    two.lease("c", "http://c:8080", None, False, "loading models")
    two.release("b")
    n = two.propose("wine", {"2": 100}, ANA)
    assert two.generation(n).waiting == (A,)
    two.report(n, "a", True)
    assert two.try_commit(n)


def test_a_server_that_comes_while_it_is_prepared_is_waited_for(two: Releases) -> None:
    n = two.propose("wine", {"2": 100}, ANA)
    two.report(n, "a", True)
    two.report(n, "b", True)
    two.lease("c", "http://c:8080", 1, True)
    assert not two.try_commit(n)
    assert two.generation(n).waiting == ("http://c:8080",)


def test_the_word_of_a_server_without_a_lease_stops_nobody(two: Releases, place: Place) -> None:
    renew(two, place, 10, "a")
    n = two.propose("wine", {"2": 100}, ANA)
    two.report(n, "b", False, "I was asleep")
    two.report(n, "a", True)
    assert two.try_commit(n)


def test_a_preparation_ends_after_a_minute_whoever_has_died(two: Releases, place: Place) -> None:
    n = two.propose("wine", {"2": 100}, RUI)
    two.report(n, "a", True)
    renew(two, place, 59, "a", "b")
    assert two.generation(n).state == "prepare"
    renew(two, place, 1, "a", "b")
    reason = f"not committed within 60 s; not answered: {B}"
    assert two.generation(n).state == "expired"  # though nobody has written it yet
    assert two.generation(n).reason == reason
    assert two.pending() is None
    assert not two.try_commit(n)
    assert two.generation(n).reason == reason
    two.report(n, "b", True)
    assert not two.try_commit(n)
    assert two.traffic("wine").weights == {"1": 100}  # type: ignore[union-attr]


def test_the_next_promote_does_not_wait_for_one_that_nobody_ended(two: Releases, place: Place) -> None:
    n = two.propose("wine", {"2": 100}, RUI)
    renew(two, place, 60, "a", "b")
    again = two.propose("wine", {"2": 100}, ANA)
    assert again == n + 1
    assert two.generation(n).state == "expired"
    assert two.audit("wine")[0].what == "promote.expired"


def test_all_prepared_and_then_gone_is_committed_by_nobody_and_expires(two: Releases, place: Place) -> None:
    n = two.propose("wine", {"2": 100}, ANA)
    place.clock.now += 60
    assert not two.try_commit(n)
    assert two.generation(n).reason == "not committed within 60 s; the servers that prepared it have ended"


def test_a_generation_that_never_was_is_not_found(two: Releases) -> None:
    with pytest.raises(NotFound, match="no generation 77"):
        two.generation(77)


def test_a_rollback_is_prepared_like_a_promote(two: Releases) -> None:
    n = two.propose("wine", {"2": 100}, ANA)
    for server in ("a", "b"):
        two.report(n, server, True)
    assert two.try_commit(n)
    back = two.rollback("wine", RUI)
    assert two.generation(back).action == "rollback"
    assert two.traffic("wine").weights == {"2": 100}  # type: ignore[union-attr]
    for server in ("a", "b"):
        two.report(back, server, True)
    assert two.try_commit(back)
    assert two.traffic("wine").weights == {"1": 100}  # type: ignore[union-attr]


def test_only_what_others_must_look_at_counts_as_a_change(two: Releases, place: Place) -> None:
    with place.open(stopped=True) as other:
        assert not other.changed()
        two.lease("a", A, 1, True)
        assert not other.wait_changed(0.2)
        two.lease("a", A, 1, False, "a worker has died")
        assert other.wait_changed(5)
        n = two.propose("wine", {"2": 100}, ANA)
        assert other.wait_changed(5)
        assert not two.try_commit(n)
        assert not other.wait_changed(0.2)
        two.report(n, "a", True)
        assert other.wait_changed(5)
        two.report(n, "b", True)
        assert other.wait_changed(5)
        assert two.try_commit(n)
        assert other.wait_changed(5)
        assert other.current().n == n
        assert not other.changed()


def test_many_servers_decide_once(two: Releases, place: Place) -> None:
    """Each reports and tries to commit, all at the same time: there is one line of traffic."""
    script = (
        "releases.lease('abcdef'[number], f'http://{number}', 1, True); print('leased', flush=True); sys.stdin.read()\n"
        "releases.report(2, 'abcdef'[number], True); print(releases.try_commit(2))\n"
    )
    servers = place.start(script, count=6)
    assert servers.stdout is not None
    assert [servers.stdout.readline() for _ in range(6)] == ["leased\n"] * 6
    with place.open() as real:  # the processes go by the real time
        n = real.propose("wine", {"2": 100}, ANA)
        assert n == 2
        said = together(servers)
        assert "True" in said
        assert real.generation(n).state == "committed"
        assert len(real.history("wine")) == 2
