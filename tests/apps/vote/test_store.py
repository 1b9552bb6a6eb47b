"""Votes on the disk: once each, flushed, from many threads, never another study's."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import refused

from b4m.apps.vote.store import Cast, SecondVote, Store, Voter


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "votes.sqlite", "key")
    yield store
    store.close()


def joined(store: Store, **about: str) -> int:
    return store.voter(store.join(None, **about))


def test_what_is_stored_comes_back_in_order(store, tmp_path):
    first, second = joined(store), joined(store, age="18 to 29", expertise="x")
    store.add(second, "q2", "b", ("b", "a"))
    store.add(first, "q1", "a", ("a", "b"))
    store.close()
    again = Store(tmp_path / "votes.sqlite", "key")
    assert again.votes() == [Cast(1, "q2", "b", ("b", "a")), Cast(0, "q1", "a", ("a", "b"))]
    assert again.voters() == [Voter(0, "", ""), Voter(1, "18 to 29", "x")]
    assert again.answered(1) == {"q2"}
    again.close()


def test_a_second_vote_is_refused_and_the_first_stays(store):
    voter = joined(store)
    store.add(voter, "q", "a", ("a", "b"))
    with pytest.raises(SecondVote):
        store.add(voter, "q", "b", ("a", "b"))
    assert [vote.chosen for vote in store.votes()] == ["a"]
    store.add(voter, "next", "b", ("a", "b"))  # the refused transaction is over
    assert [vote.chosen for vote in store.votes()] == ["a", "b"]


def test_a_vote_of_nobody_is_refused(store):
    with pytest.raises(SecondVote):  # the same kind of refusal: nobody has this number
        store.add(99, "q", "a", ("a",))
    assert store.votes() == []


def test_each_vote_is_flushed_in_its_own_transaction(store):
    assert store._one("PRAGMA journal_mode") == "wal"
    assert store._one("PRAGMA synchronous") == 2  # FULL: a commit waits for the disk
    statements: list[str] = []
    store._db.set_trace_callback(statements.append)
    voter = joined(store)
    del statements[:]
    for number in range(3):
        store.add(voter, str(number), "a", ("a",))
    assert [s for s in statements if s in ("BEGIN IMMEDIATE", "COMMIT")] == ["BEGIN IMMEDIATE", "COMMIT"] * 3


def test_a_full_disk_refuses_a_vote_and_what_was_stored_stays(store):
    voter = joined(store)
    store.add(voter, "q", "a", ("a",))
    store._db.execute(f"PRAGMA max_page_count = {store._one('PRAGMA page_count')}")
    with pytest.raises(sqlite3.OperationalError):
        for number in range(1000):
            store.add(voter, str(number), "a" * 1000, ("a",))
    kept = store.votes()
    store._db.execute("PRAGMA max_page_count = 100000")
    store.add(voter, "after", "a", ("a",))  # the failed transaction is over
    assert store.votes()[:-1] == kept and kept[0].question == "q"


def test_many_threads_lose_nothing_and_never_share_a_number(store):
    def one(_: int) -> int:
        voter = joined(store)
        for number in range(5):
            store.add(voter, str(number), "a", ("a",))
        return voter

    with ThreadPoolExecutor(16) as pool:
        numbers = list(pool.map(one, range(40)))
    assert sorted(numbers) == list(range(40)) and len(store.votes()) == 200


def test_a_link_is_one_voter_however_often_it_is_used(store):
    tokens = store.tokens(2)
    store.invite(tokens)
    store.invite(tokens)
    assert store.voters() == [] and store.voter(tokens[0]) is None and store.invited(tokens[0])
    assert store.join(tokens[1]) == store.join(tokens[1], age="other") == tokens[1]
    assert store.voters() == [Voter(0, "", "")]
    assert not store.invited("guess") and store.voter("guess") is None


def test_the_file_holds_nothing_to_vote_with(store):
    token = store.join(None)
    assert token.encode() not in store.path.read_bytes()
    assert token.encode() not in store.path.with_name("votes.sqlite-wal").read_bytes()


def test_the_file_of_another_study_and_what_is_no_database_are_refused(store, tmp_path):
    store.close()
    refused(lambda: Store(tmp_path / "votes.sqlite", "another key"), "another study")
    (tmp_path / "odd").write_bytes(b"no database at all, but long enough to be looked at" * 20)
    refused(lambda: Store(tmp_path / "odd", "key"), "odd")
    refused(lambda: Store(tmp_path / "none" / "votes.sqlite", "key"), "cannot be used")
