"""Sign-in through GitHub or Hugging Face.

In: client ids and secrets from the environment. Out: routes that sign a person in whom the provider vouches for.
Beware: state and PKCE verifier travel in a signed cookie of ten minutes, so an answer that this browser did not ask for is refused.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import OAuth2Client
from fastapi import APIRouter
from fastapi.responses import RedirectResponse
from httpx import HTTPError
from itsdangerous import BadSignature, URLSafeTimedSerializer

from smalltale.server.accounts import accounts as people
from smalltale.server.errors import Problem, missing
from smalltale.server.web.context import Visit
from smalltale.server.web.pages.public import Visitor

oauth_pages = APIRouter(include_in_schema=False)
ASKED = "smalltale_asked"
ASKED_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class Provider:
    """Where a provider is asked, and which of its words say who somebody is."""

    name: str
    client_id: str
    client_secret: str
    authorize: str
    token: str
    who: str
    scope: str
    id_key: str
    name_key: str


KNOWN = {
    "github": {
        "authorize": "https://github.com/login/oauth/authorize",
        "token": "https://github.com/login/oauth/access_token",
        "who": "https://api.github.com/user",
        "scope": "read:user",
        "id_key": "id",
        "name_key": "login",
    },
    "huggingface": {
        "authorize": "https://huggingface.co/oauth/authorize",
        "token": "https://huggingface.co/oauth/token",
        "who": "https://huggingface.co/oauth/userinfo",
        "scope": "openid profile",
        "id_key": "sub",
        "name_key": "preferred_username",
    },
}


def providers_of(environment: Mapping[str, str] = os.environ) -> dict[str, Provider]:
    """The providers whose id and secret are set: SMALLTALE_GITHUB_ID, SMALLTALE_GITHUB_SECRET, SMALLTALE_HUGGINGFACE_…"""
    found = {}
    for name, places in KNOWN.items():
        client_id = environment.get(f"SMALLTALE_{name.upper()}_ID")
        secret = environment.get(f"SMALLTALE_{name.upper()}_SECRET")
        if client_id and secret:
            found[name] = Provider(name=name, client_id=client_id, client_secret=secret, **places)
    return found


def client_of(v: Visit, name: str, **more: Any) -> tuple[Provider, OAuth2Client]:
    """The provider and a client for it. Raises Problem 404 for one that is not set up."""
    provider: Provider | None = v.site.providers.get(name)
    if provider is None:
        raise missing("way to sign in")
    base = v.site.public_url or str(v.request.base_url).rstrip("/")
    client = OAuth2Client(
        provider.client_id,
        provider.client_secret,
        scope=provider.scope,
        redirect_uri=f"{base}/sign-in/{name}/callback",
        code_challenge_method="S256",
        timeout=20,
        headers={"Accept": "application/json"},
        **more,
    )
    return provider, client


def signer(v: Visit) -> URLSafeTimedSerializer:
    """Signs what travels in the cookie."""
    return URLSafeTimedSerializer(v.site.secret, salt="sign-in through others")


@oauth_pages.get("/sign-in/{name}")
def ask(v: Visitor, name: str) -> RedirectResponse:
    """Send the visitor to the provider."""
    provider, client = client_of(v, name)
    verifier = secrets.token_urlsafe(48)
    with client:
        url, state = client.create_authorization_url(provider.authorize, code_verifier=verifier)
    response = RedirectResponse(url, status_code=303)
    kept = signer(v).dumps({"state": state, "verifier": verifier, "provider": name})
    response.set_cookie(
        ASKED,
        kept,
        max_age=ASKED_SECONDS,
        httponly=True,
        samesite="lax",
        secure=v.site.secure,
        path="/sign-in",
    )
    return response


@oauth_pages.get("/sign-in/{name}/callback")
def answered(v: Visitor, name: str, code: str = "", state: str = "") -> RedirectResponse:
    """The provider sends the visitor back."""
    try:
        asked = signer(v).loads(v.request.cookies.get(ASKED, ""), max_age=ASKED_SECONDS)
    except BadSignature as error:
        raise Problem(
            403, "this sign-in was not begun in this browser, or too long ago; begin it again"
        ) from error
    if (
        not code
        or not secrets.compare_digest(state.encode(), asked["state"].encode())
        or asked["provider"] != name
    ):
        raise Problem(403, "the provider's answer does not belong to this sign-in; begin it again")
    provider, client = client_of(v, name)
    try:
        with client:
            client.fetch_token(provider.token, code=code, code_verifier=asked["verifier"])
            who = client.get(provider.who).raise_for_status().json()
        identity, wished = str(who[provider.id_key]), str(who[provider.name_key])
    except (OAuthError, HTTPError, KeyError, ValueError) as error:
        raise Problem(502, f"{name} did not say who you are; try again, or sign in another way") from error
    person = people.person_from_provider(v.store, name, identity, wished)
    if person.disabled:
        raise Problem(403, "this account is closed; ask the organisers")
    response = v.go("/", cookie=people.sign_in(v.store, person))
    response.delete_cookie(ASKED, path="/sign-in")
    return response
