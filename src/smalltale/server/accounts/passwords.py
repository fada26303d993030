"""Passwords of local accounts: hashes them with Argon2id, verifies them at sign-in, changes them.

Input: passwords from forms. Output: hashes for `Person.password`, which contain their algorithm and cost. A hash that begins
with `scrypt$` is from an older version; `accounts.authenticate` replaces it at the next sign-in.
Note: a new password ends every session of its account.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete
from sqlalchemy.orm import Session

from smalltale.server.database.models import BrowserSession, Person
from smalltale.server.database.session import Database, append_audit
from smalltale.server.errors import FieldProblem, RequestProblem

MIN_CHARACTERS, MAX_CHARACTERS = 10, 200
HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
"""19 MiB and two passes, the minimum of OWASP's Password Storage Cheat Sheet: about 25 ms. After a change of the cost, each hash
is replaced at the next sign-in."""
OLD_SCRYPT = {"n": 2**14, "r": 8, "p": 1, "maxmem": 64 * 1024 * 1024}


def hash_password(password: str) -> str:
    """A salted Argon2id hash."""
    return HASHER.hash(password[:MAX_CHARACTERS])


UNKNOWN_ACCOUNT_HASH = hash_password(secrets.token_hex(16))


def verify_password(password: str, stored_hash: str | None) -> bool:
    """Whether the password belongs to the hash. No hash (None) takes as long, so that the time reveals no handles."""
    expected_hash, password = stored_hash or UNKNOWN_ACCOUNT_HASH, password[:MAX_CHARACTERS]
    if expected_hash.startswith("scrypt$"):
        _, salt, digest = expected_hash.split("$")
        actual = hashlib.scrypt(password.encode(), salt=bytes.fromhex(salt), **OLD_SCRYPT).hex()
        return hmac.compare_digest(actual, digest)
    try:
        return HASHER.verify(expected_hash, password) and stored_hash is not None
    except (VerificationError, InvalidHashError):
        return False


def needs_rehash(stored_hash: str) -> bool:
    """Whether a hash was made by scrypt, or at another cost than HASHER's."""
    return stored_hash.startswith("scrypt$") or HASHER.check_needs_rehash(stored_hash)


def check_password_length(password: str, field: str = "password") -> list[FieldProblem]:
    """The problem with the length of a new password, if there is one."""
    if MIN_CHARACTERS <= len(password) <= MAX_CHARACTERS:
        return []
    fix = f"choose {MIN_CHARACTERS} to {MAX_CHARACTERS}"
    return [FieldProblem(field, f"it has {len(password)} characters", fix)]


def set_password(session: Session, person: Person, password: str) -> None:
    """Store a new password and end every session of the account."""
    person.password = hash_password(password)
    session.execute(delete(BrowserSession).where(BrowserSession.person_id == person.id))


def change_password(database: Database, person: Person, old: str, new: str) -> None:
    """Change one's own password. Raises RequestProblem with every field's problem."""
    problems = check_password_length(new, "new_password")
    if not verify_password(old, person.password):
        fix = "type the one you signed in with"
        problems.append(FieldProblem("password", "it is not your password", fix))
    if problems:
        raise RequestProblem(422, "this was not accepted", problems)
    with database.write() as session:
        set_password(session, session.get_one(Person, person.id), new)
        append_audit(session, database.now(), person.handle, "password changed", person.handle)
