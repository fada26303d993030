"""Hashes of passwords: Argon2id, scrypt of old databases, and their replacement at sign-in."""

from __future__ import annotations

import hashlib

import pytest
from argon2 import PasswordHasher

from smalltale.server.accounts import passwords
from smalltale.server.accounts.accounts import authenticate
from smalltale.server.accounts.passwords import hash_password, needs_rehash, verify_password
from smalltale.server.database.models import Person
from smalltale.server.errors import RequestProblem

from .conftest import PASSWORD, Hackathon

CHEAP = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


def hash_with_scrypt(password: str) -> str:
    """A hash as older versions stored it."""
    salt = bytes(range(16))
    return f"scrypt${salt.hex()}${hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1, maxmem=64 << 20).hex()}"


def set_hash(hackathon: Hackathon, handle: str, stored_hash: str | None) -> int:
    person_id = hackathon.add_person(handle).id
    with hackathon.database.write() as session:
        session.get_one(Person, person_id).password = stored_hash
    return person_id


def get_hash(hackathon: Hackathon, person_id: int) -> str:
    with hackathon.database.read() as session:
        return session.get_one(Person, person_id).password or ""


def test_a_hash_holds_its_own_cost_and_verifies_only_its_password() -> None:
    stored_hash = hash_password(PASSWORD)
    assert stored_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert stored_hash != hash_password(PASSWORD)
    assert verify_password(PASSWORD, stored_hash)
    assert not verify_password("another password", stored_hash)
    assert not needs_rehash(stored_hash)
    assert verify_password(PASSWORD, CHEAP.hash(PASSWORD))


@pytest.mark.parametrize(
    "old_hash", [hash_with_scrypt(PASSWORD), CHEAP.hash(PASSWORD)], ids=["scrypt", "cheaper"]
)
def test_an_old_hash_verifies_and_is_replaced_at_the_next_sign_in(
    hackathon: Hackathon, old_hash: str
) -> None:
    person_id = set_hash(hackathon, "ada", old_hash)
    with pytest.raises(RequestProblem, match="wrong name or password"):
        authenticate(hackathon.database, "ada", "another password")
    assert get_hash(hackathon, person_id) == old_hash
    assert authenticate(hackathon.database, "ada", PASSWORD).id == person_id
    new_hash = get_hash(hackathon, person_id)
    assert new_hash.startswith("$argon2id$")
    assert not needs_rehash(new_hash)
    assert authenticate(hackathon.database, "ada", PASSWORD).id == person_id
    assert get_hash(hackathon, person_id) == new_hash


def test_a_raised_cost_marks_existing_hashes_for_replacement(monkeypatch: pytest.MonkeyPatch) -> None:
    stored_hash = hash_password(PASSWORD)
    costlier = PasswordHasher(time_cost=3, memory_cost=19 * 1024, parallelism=1)
    monkeypatch.setattr(passwords, "HASHER", costlier)
    assert needs_rehash(stored_hash)
    assert needs_rehash(hash_with_scrypt(PASSWORD))


def test_an_unknown_account_and_one_without_a_password_cost_a_verification_too(
    hackathon: Hackathon, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified: list[str] = []

    class RecordingHasher(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> bool:
            verified.append(str(hash))
            return super().verify(hash, password)

    monkeypatch.setattr(passwords, "HASHER", RecordingHasher())
    set_hash(hackathon, "ada", None)
    for handle in ("ada", "unknown"):
        with pytest.raises(RequestProblem, match="wrong name or password"):
            authenticate(hackathon.database, handle, PASSWORD)
    assert verified == [passwords.UNKNOWN_ACCOUNT_HASH] * 2
