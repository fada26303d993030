"""Failed sign-ins are counted over all processes that serve one database."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text

from smalltale.server.accounts.sign_in_limit import DatabaseStorage, SignInLimit
from smalltale.server.errors import RequestProblem

from .conftest import PASSWORD, Hackathon, read_form_token


def test_two_processes_on_one_database_share_the_bound_on_failed_sign_ins(hackathon: Hackathon) -> None:
    hackathon.add_person("ada")
    clients = [hackathon.client(), hackathon.client()]

    def sign_in(number: int, password: str) -> int:
        client = clients[number % 2]
        fields = {"form_token": read_form_token(client, "/sign-in"), "handle": "ada", "password": password}
        return client.post("/sign-in", data=fields, follow_redirects=False).status_code

    assert [sign_in(number, "a wrong password") for number in range(11)] == [401] * 10 + [429]
    assert [sign_in(number, PASSWORD) for number in range(2)] == [429, 429]
    hackathon.clock.advance(minutes=10, seconds=1)
    assert sign_in(0, PASSWORD) == 303


def test_the_refusal_names_the_seconds_to_wait_and_another_name_or_address_is_not_refused(
    hackathon: Hackathon,
) -> None:
    limit = SignInLimit(hackathon.database)
    for _ in range(10):
        limit.record_failure("192.0.2.1", "Ada ")
        hackathon.clock.advance(seconds=10)
    with pytest.raises(RequestProblem, match="too many failed sign-ins; wait 500 seconds"):
        limit.check("192.0.2.1", "ada")
    limit.check("192.0.2.1", "bob")
    limit.check("192.0.2.2", "ada")


def test_one_address_is_refused_after_fifty_failures_for_any_names(hackathon: Hackathon) -> None:
    limit = SignInLimit(hackathon.database)
    for number in range(50):
        limit.check("192.0.2.1", f"writer-{number}")
        limit.record_failure("192.0.2.1", f"writer-{number}")
    with pytest.raises(RequestProblem, match="too many failed sign-ins"):
        limit.check("192.0.2.1", "ada")


def test_simultaneous_failures_are_all_counted_and_expired_counters_are_deleted(hackathon: Hackathon) -> None:
    storage = DatabaseStorage(hackathon.database)
    storage.incr("an old key", expiry=5)
    hackathon.clock.advance(seconds=6)
    assert storage.get("an old key") == 0

    def count() -> None:
        for _ in range(5):
            storage.incr("key", expiry=60)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.get("key") == 20
    assert storage.reset() == 1


def test_a_database_from_before_the_counters_gets_their_table(hackathon: Hackathon) -> None:
    with hackathon.database.write() as session:
        session.execute(text("DROP TABLE rate_limit"))
        session.execute(text("UPDATE alembic_version SET version_num = '0004'"))
    hackathon.database.migrate()
    assert DatabaseStorage(hackathon.database).incr("key", expiry=60) == 1
