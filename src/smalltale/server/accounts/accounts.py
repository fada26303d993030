"""Local accounts by invitation, browser sessions, API tokens, and names without look-alike characters.

Input: values of forms and headers. Output: Person rows.
Note: sessions, API tokens and invitations are stored as SHA-256 hashes and cannot be shown again.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from datetime import timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from smalltale.server.accounts.passwords import (
    check_password_length,
    hash_password,
    needs_rehash,
    verify_password,
)
from smalltale.server.database.models import AccountInvitation, ApiToken, BrowserSession, Person
from smalltale.server.database.session import Database, append_audit
from smalltale.server.errors import RequestProblem, invalid_field, not_found

SESSION_DAYS = 14
INVITATION_DAYS = 14
SCOPES = ("read", "hand-in")
LOOK_ALIKE_SCRIPTS = {"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE"}


def hash_token(token: str) -> str:
    """The stored form of a token. A token is long and random, so a hash without salt is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


def clean_handle(handle: str) -> str:
    """The handle in lower case: 2 to 39 characters of a-z, 0-9, - and _. Raises RequestProblem."""
    handle = handle.strip().lower()
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{1,38}", handle):
        message = f"{escape_unprintable(handle)} is not a valid handle"
        raise invalid_field("handle", message, "choose 2 to 39 of: a to z, 0 to 9, - and _")
    return handle


def clean_name(name: str, field: str = "name", max_characters: int = 40) -> str:
    """A display name of one script without invisible, bidirectional or control characters. Raises RequestProblem."""
    name = " ".join(unicodedata.normalize("NFKC", name).split())
    code_points = {
        f"U+{ord(char):04X}"
        for char in name
        if unicodedata.category(char)[0] == "C" or char in "\u115f\u1160\u3164\uffa0\u2800"
    }
    if code_points:
        message = f"it has invisible or direction-changing characters ({', '.join(sorted(code_points))})"
        raise invalid_field(field, message, "remove them")
    accents = sum(unicodedata.category(char) in {"Mn", "Me"} for char in unicodedata.normalize("NFD", name))
    if accents > max(3, len(name) // 2):
        raise invalid_field(field, "it has more accents than letters", "remove the stacked accents")
    if not 2 <= len(name) <= max_characters:
        raise invalid_field(field, f"it has {len(name)} characters", f"choose 2 to {max_characters}")
    scripts = LOOK_ALIKE_SCRIPTS & {unicodedata.name(char, "?").split()[0] for char in name if char.isalpha()}
    if len(scripts) > 1:
        message = f"it mixes look-alike scripts ({', '.join(sorted(scripts)).lower()})"
        raise invalid_field(field, message, "use one script")
    if not any(char.isalnum() for char in name):
        raise invalid_field(field, "it has no letter or digit", "add one")
    return name


def name_key(name: str) -> str:
    """The key by which similar names collide: letters and digits without accents and case."""
    folded = unicodedata.normalize("NFKD", name).casefold()
    return "".join(char for char in folded if char.isalnum())[:80] or name.casefold()


def escape_unprintable(text: str) -> str:
    """The first 80 characters of untrusted text, safe to quote in a message; "nothing" if it is empty."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text[:80]) or "nothing"


def invite_account(database: Database, actor: str, *, admin: bool = False) -> str:
    """A new code that creates one local account. Only its hash is stored, so it can be shown only now."""
    code = secrets.token_urlsafe(18)
    expires = database.now() + timedelta(days=INVITATION_DAYS)
    with database.write() as session:
        session.add(AccountInvitation(code_hash=hash_token(code), admin=admin, expires=expires))
        append_audit(session, database.now(), actor, "account invited", "admin" if admin else "person")
    return code


def create_account(database: Database, code: str, handle: str, password: str) -> Person:
    """Create a local account from an invitation. Raises RequestProblem with every field's problem."""
    problems = check_password_length(password)
    try:
        handle = clean_handle(handle)
    except RequestProblem as problem:
        problems = [*problem.fields, *problems]
    if problems:
        raise RequestProblem(422, "this was not accepted", problems)
    password_hash = hash_password(password)
    with database.write() as session:
        invitation = session.scalar(
            select(AccountInvitation).where(AccountInvitation.code_hash == hash_token(code)).with_for_update()
        )
        if invitation is None or invitation.used_by is not None or invitation.expires < database.now():
            raise invalid_field(
                "code", "this invitation is unknown, used or expired", "ask the organisers for a new one", 404
            )
        person = create_person(session, database, handle, password=password_hash, admin=invitation.admin)
        invitation.used_by = person.id
        append_audit(session, database.now(), handle, "account made", handle)
        return person


def create_person(
    session: Session,
    database: Database,
    handle: str,
    *,
    password: str | None = None,
    admin: bool = False,
    provider: tuple[str, str] | None = None,
) -> Person:
    """Add a person; `password` is a hash. Raises RequestProblem if the handle is taken."""
    person = Person(handle=handle, password=password, admin=admin, joined=database.now())
    if provider:
        person.provider, person.provider_id = provider
    try:
        with session.begin_nested():
            session.add(person)
    except IntegrityError as error:
        raise invalid_field("handle", f"{handle} is taken", "choose another", 409) from error
    return person


def find_or_create_provider_person(
    database: Database, provider: str, provider_id: str, wished_handle: str
) -> Person:
    """The person with this account at a sign-in provider. A new person gets the wished handle or a similar one."""
    with database.write() as session:
        person = session.scalar(
            select(Person).where(Person.provider == provider, Person.provider_id == provider_id)
        )
        if person is not None:
            return person
        base = re.sub(r"[^a-z0-9_-]", "-", wished_handle.lower()).strip("-_")[:30] or "writer"
        for suffix in ("", f"-{provider[:2]}", f"-{secrets.token_hex(3)}"):
            try:
                handle = clean_handle(base + suffix)
                person = create_person(session, database, handle, provider=(provider, provider_id))
            except RequestProblem:
                continue
            append_audit(session, database.now(), handle, "account made", handle, provider=provider)
            return person
    raise invalid_field("handle", f"no free handle similar to {base}", "ask the organisers")


def sign_in(database: Database, person: Person) -> str:
    """Start a browser session. Returns the value of its cookie."""
    token = secrets.token_urlsafe(32)
    expires = database.now() + timedelta(days=SESSION_DAYS)
    with database.write() as session:
        session.add(BrowserSession(token_hash=hash_token(token), person_id=person.id, expires=expires))
    return token


def authenticate(database: Database, handle: str, password: str) -> Person:
    """The person with this handle and password. A hash with an outdated algorithm or cost is replaced.

    Raises RequestProblem 401, the same for an unknown handle, a wrong password and a closed account.
    """
    with database.read() as session:
        person = session.scalar(select(Person).where(Person.handle == handle.strip().lower()))
    stored_hash = person.password if person else None
    matches = verify_password(password, stored_hash)
    if person is None or not matches or person.disabled:
        raise invalid_field("password", "wrong name or password", "check both", 401)
    if stored_hash and needs_rehash(stored_hash):
        new_hash = hash_password(password)
        with database.write() as session:
            # The second condition keeps a password that was changed in the meantime.
            unchanged = (Person.id == person.id) & (Person.password == stored_hash)
            session.execute(update(Person).where(unchanged).values(password=new_hash))
    return person


def find_person_by_session(database: Database, session: Session, token: str) -> Person | None:
    """The person of a session cookie; None if the cookie is unknown or expired, or the account is closed."""
    row = session.execute(
        select(Person, BrowserSession.expires)
        .join(BrowserSession, BrowserSession.person_id == Person.id)
        .where(BrowserSession.token_hash == hash_token(token))
    ).first()
    return row[0] if row and row[1] > database.now() and not row[0].disabled else None


def sign_out(database: Database, token: str) -> None:
    """End a browser session."""
    with database.write() as session:
        session.execute(delete(BrowserSession).where(BrowserSession.token_hash == hash_token(token)))


def create_token(database: Database, person: Person, name: str, scopes: list[str]) -> str:
    """A new API token. Only its hash is stored, so it can be shown only now. Raises RequestProblem."""
    name = clean_name(name, max_characters=60)
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        message = f"{escape_unprintable(', '.join(unknown))} is not a scope"
        raise invalid_field("scopes", message, f"choose from: {', '.join(SCOPES)}")
    token = f"smalltale_{secrets.token_urlsafe(30)}"
    token_hash, now = hash_token(token), database.now()
    row = ApiToken(token_hash=token_hash, person_id=person.id, name=name, scopes=scopes, created=now)
    with database.write() as session:
        session.add(row)
        append_audit(session, now, person.handle, "token made", name, scopes=scopes)
    return token


def revoke_token(database: Database, person: Person, token_id: int) -> None:
    """Revoke one's own API token. Raises RequestProblem 404 for another person's."""
    with database.write() as session:
        token = session.get(ApiToken, token_id)
        if token is None or token.person_id != person.id:
            raise not_found("token")
        token.revoked = token.revoked or database.now()
        append_audit(session, database.now(), person.handle, "token revoked", token.name)


def authenticate_token(database: Database, token: str, scope: str) -> Person:
    """The person of an API token. Raises RequestProblem 401 for an invalid token, 403 for one without the scope."""
    with database.read() as session:
        row = session.execute(
            select(Person, ApiToken)
            .join(ApiToken, ApiToken.person_id == Person.id)
            .where(ApiToken.token_hash == hash_token(token))
        ).first()
    if row is None or row[1].revoked is not None or row[0].disabled:
        raise RequestProblem(401, "the token is unknown or revoked; create a new one on your account page")
    person, api_token = row
    if scope not in api_token.scopes:
        raise RequestProblem(
            403, f"the token {api_token.name!r} lacks the scope {scope!r}; create one that has it"
        )
    now = database.now()
    if api_token.last_used is None or now - api_token.last_used > timedelta(minutes=5):
        with database.write() as session:
            session.execute(update(ApiToken).where(ApiToken.id == api_token.id).values(last_used=now))
    return person
