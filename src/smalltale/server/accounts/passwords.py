"""Passwords of local accounts: kept as scrypt hashes, changed by their owner.

In: what a form brought. Out: a hash, or a changed Person row.
Beware: a changed password ends every other session of its account.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from sqlalchemy import delete
from sqlalchemy.orm import Session

from smalltale.server.database.models import Person, SignIn
from smalltale.server.database.session import Store, audit
from smalltale.server.errors import FieldProblem, Problem

CHARACTERS = (10, 200)
SCRYPT = {"n": 2**14, "r": 8, "p": 1, "maxmem": 64 * 1024 * 1024}


def hash_password(password: str) -> str:
    """A salted scrypt hash."""
    salt = secrets.token_bytes(16)
    return f"scrypt${salt.hex()}${hashlib.scrypt(password.encode(), salt=salt, **SCRYPT).hex()}"


NOBODYS_PASSWORD = hash_password(secrets.token_hex(16))


def password_fits(password: str, kept: str | None) -> bool:
    """Whether the password is the one kept; as slow for an unknown person as for a known one."""
    _, salt, digest = (kept or NOBODYS_PASSWORD).split("$")
    asked = password[: CHARACTERS[1]].encode()
    found = hashlib.scrypt(asked, salt=bytes.fromhex(salt), **SCRYPT).hex()
    return hmac.compare_digest(found, digest) and kept is not None


def wrong_length(password: str, field: str = "password") -> list[FieldProblem]:
    """What is wrong with a new password."""
    low, high = CHARACTERS
    if low <= len(password) <= high:
        return []
    return [FieldProblem(field, f"it has {len(password)} characters", f"choose {low} to {high}")]


def set_password(session: Session, person: Person, password: str) -> None:
    """Keep a new password and end every session of the account."""
    person.password = hash_password(password)
    session.execute(delete(SignIn).where(SignIn.person_id == person.id))


def change_password(store: Store, person: Person, old: str, new: str) -> None:
    """Change one's own password. Raises Problem with every field's problem."""
    problems = wrong_length(new, "new_password")
    if not password_fits(old, person.password):
        problems.append(
            FieldProblem("password", "it is not your password", "type the one you signed in with")
        )
    if problems:
        raise Problem(422, "this was not accepted", problems)
    with store.write() as session:
        set_password(session, session.get_one(Person, person.id), new)
        audit(session, store.now(), person.handle, "password changed", person.handle)
