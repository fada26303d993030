"""People: local accounts by invitation, sign-in sessions, API tokens, names that cannot deceive.

In: what a form or header brought. Out: Person rows.
Beware: passwords are scrypt hashes; sessions, tokens and invitations are kept as SHA-256 only and cannot be shown again.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from datetime import timedelta

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from smalltale.server.accounts.passwords import hash_password, password_fits, wrong_length
from smalltale.server.database.models import AccountInvitation, ApiToken, Person, SignIn
from smalltale.server.database.session import Store, audit
from smalltale.server.errors import FieldProblem, Problem, missing, refused

SESSION_DAYS = 14
INVITATION_DAYS = 14
SCOPES = ("read", "hand-in")


def hashed(token: str) -> str:
    """What is kept of a random token. It is long and random, so a plain hash is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


def clean_handle(handle: str) -> str:
    """A handle: 2 to 39 of a-z, 0-9, - and _. Raises Problem."""
    handle = handle.strip().lower()
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{1,38}", handle):
        raise refused(
            "handle",
            f"{visible(handle)!r} is not a name we can use",
            "choose 2 to 39 of: a to z, 0 to 9, - and _",
        )
    return handle


def clean_name(name: str, field: str = "name", most: int = 40) -> str:
    """A display name without invisible, bidirectional or control characters, of one script. Raises Problem."""
    name = " ".join(unicodedata.normalize("NFKC", name).split())
    bad = [
        char
        for char in name
        if unicodedata.category(char)[0] == "C" or char in "\u115f\u1160\u3164\uffa0\u2800"
    ]
    if bad:
        shown = ", ".join(sorted({f"U+{ord(char):04X}" for char in bad}))
        raise refused(field, f"it has invisible or direction-changing characters ({shown})", "remove them")
    if sum(unicodedata.category(char) in {"Mn", "Me"} for char in unicodedata.normalize("NFD", name)) > max(
        3, len(name) // 2
    ):
        raise refused(field, "it has more accents than letters", "remove the stacked ones")
    if not 2 <= len(name) <= most:
        raise refused(field, f"it has {len(name)} characters", f"choose 2 to {most}")
    scripts = {unicodedata.name(char, "?").split()[0] for char in name if char.isalpha()} & {
        "LATIN",
        "CYRILLIC",
        "GREEK",
        "ARMENIAN",
        "CHEROKEE",
    }
    if len(scripts) > 1:
        raise refused(
            field, f"it mixes look-alike scripts ({', '.join(sorted(scripts)).lower()})", "keep to one script"
        )
    if not any(char.isalnum() for char in name):
        raise refused(field, "it has no letter or digit", "add one")
    return name


def name_key(name: str) -> str:
    """Names with the same key are taken to be the same."""
    folded = unicodedata.normalize("NFKD", name).casefold()
    return "".join(char for char in folded if char.isalnum())[:80] or name.casefold()


def visible(text: str) -> str:
    """Foreign text, safe to quote in a message."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text[:80])


def invite_account(store: Store, by: str, *, admin: bool = False) -> str:
    """A code that makes one local account; shown once."""
    code = secrets.token_urlsafe(18)
    with store.write() as session:
        session.add(
            AccountInvitation(
                code_hash=hashed(code), admin=admin, expires=store.now() + timedelta(days=INVITATION_DAYS)
            )
        )
        audit(session, store.now(), by, "account invited", "admin" if admin else "person")
    return code


def join(store: Store, code: str, handle: str, password: str) -> Person:
    """Make a local account from an invitation. Raises Problem with every field's problem."""
    problems: list[FieldProblem] = []
    try:
        handle = clean_handle(handle)
    except Problem as problem:
        problems += problem.fields
    problems += wrong_length(password)
    if problems:
        raise Problem(422, "this was not accepted", problems)
    kept = hash_password(password)
    with store.write() as session:
        invitation = session.scalar(
            select(AccountInvitation).where(AccountInvitation.code_hash == hashed(code)).with_for_update()
        )
        if invitation is None or invitation.used_by is not None or invitation.expires < store.now():
            raise refused(
                "code", "this invitation is unknown, used or over", "ask the organisers for a new one", 404
            )
        person = add_person(session, store, handle, password=kept, admin=invitation.admin)
        invitation.used_by = person.id
        audit(session, store.now(), handle, "account made", handle)
        return person


def add_person(
    session: Session,
    store: Store,
    handle: str,
    *,
    password: str | None = None,
    admin: bool = False,
    provider: tuple[str, str] | None = None,
) -> Person:
    """A new person. Raises Problem where the handle is taken."""
    person = Person(handle=handle, password=password, admin=admin, joined=store.now())
    if provider:
        person.provider, person.provider_id = provider
    try:
        with session.begin_nested():
            session.add(person)
    except IntegrityError as error:
        raise refused("handle", f"{handle} is taken", "choose another", 409) from error
    return person


def person_from_provider(store: Store, provider: str, provider_id: str, wished: str) -> Person:
    """The person a provider vouches for; a new one gets the wished handle, or one near it."""
    with store.write() as session:
        found = session.scalar(
            select(Person).where(Person.provider == provider, Person.provider_id == provider_id)
        )
        if found is not None:
            return found
        base = re.sub(r"[^a-z0-9_-]", "-", wished.lower()).strip("-_")[:30] or "writer"
        for ending in ("", f"-{provider[:2]}", f"-{secrets.token_hex(3)}"):
            try:
                person = add_person(
                    session, store, clean_handle(base + ending), provider=(provider, provider_id)
                )
            except Problem:
                continue
            audit(session, store.now(), person.handle, "account made", person.handle, provider=provider)
            return person
    raise refused("handle", f"no free handle near {base}", "ask the organisers")


def sign_in(store: Store, person: Person) -> str:
    """A new session's cookie."""
    token = secrets.token_urlsafe(32)
    with store.write() as session:
        session.add(
            SignIn(
                token_hash=hashed(token),
                person_id=person.id,
                expires=store.now() + timedelta(days=SESSION_DAYS),
            )
        )
    return token


def check_password(store: Store, handle: str, password: str) -> Person:
    """The person of that handle and password. Raises Problem, the same for a wrong name and a wrong password."""
    with store.read() as session:
        person = session.scalar(select(Person).where(Person.handle == handle.strip().lower()))
    fits = password_fits(password, person.password if person else None)
    if person is None or not fits or person.disabled:
        raise refused("password", "the name and the password do not fit together", "check both", 401)
    return person


def person_of_session(store: Store, session: Session, token: str) -> Person | None:
    """Who a cookie belongs to, None for an unknown or old one."""
    found = session.execute(
        select(Person, SignIn.expires)
        .join(SignIn, SignIn.person_id == Person.id)
        .where(SignIn.token_hash == hashed(token))
    ).first()
    return found[0] if found and found[1] > store.now() and not found[0].disabled else None


def sign_out(store: Store, token: str) -> None:
    """End a session."""
    with store.write() as session:
        if found := session.get(SignIn, hashed(token)):
            session.delete(found)


def make_token(store: Store, person: Person, name: str, scopes: list[str]) -> str:
    """A new API token; shown once."""
    name = clean_name(name, "name", 60)
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        raise refused(
            "scopes", f"{', '.join(map(visible, unknown)) or 'none'}", f"choose of: {', '.join(SCOPES)}"
        )
    token = f"smalltale_{secrets.token_urlsafe(30)}"
    with store.write() as session:
        session.add(
            ApiToken(
                token_hash=hashed(token), person_id=person.id, name=name, scopes=scopes, made=store.now()
            )
        )
        audit(session, store.now(), person.handle, "token made", name, scopes=scopes)
    return token


def revoke_token(store: Store, person: Person, token_id: int) -> None:
    """Revoke one of one's own tokens. Raises Problem 404 for another's."""
    with store.write() as session:
        found = session.get(ApiToken, token_id)
        if found is None or found.person_id != person.id:
            raise missing("token")
        found.revoked = found.revoked or store.now()
        audit(session, store.now(), person.handle, "token revoked", found.name)


def person_of_token(store: Store, token: str, scope: str) -> Person:
    """Who a token speaks for. Raises Problem 401 for a bad one, 403 for one without the scope."""
    with store.read() as session:
        found = session.execute(
            select(Person, ApiToken)
            .join(ApiToken, ApiToken.person_id == Person.id)
            .where(ApiToken.token_hash == hashed(token))
        ).first()
    if found is None or found[1].revoked is not None or found[0].disabled:
        raise Problem(401, "the token is unknown or revoked; make a new one on your account page")
    person, kept = found
    if scope not in kept.scopes:
        raise Problem(403, f"the token {kept.name!r} lacks the scope {scope!r}; make one that has it")
    if kept.last_used is None or store.now() - kept.last_used > timedelta(minutes=5):
        with store.write() as session:
            session.execute(update(ApiToken).where(ApiToken.id == kept.id).values(last_used=store.now()))
    return person
