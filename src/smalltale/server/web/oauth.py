"""Sign-in through GitHub or Hugging Face: OAuth 2 authorization code flow with PKCE.

Input: client ids and secrets from the environment. Output: routes that sign in the person whom the provider identifies.
State and PKCE verifier travel in a signed cookie of ten minutes, so a callback that this browser did not start is refused.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import OAuth2Client
from fastapi import APIRouter
from fastapi.responses import RedirectResponse
from httpx import HTTPError
from itsdangerous import BadSignature, URLSafeTimedSerializer

from smalltale.server.accounts.accounts import find_or_create_provider_person, sign_in
from smalltale.server.errors import RequestProblem, not_found
from smalltale.server.web.context import Context, RequestContext

router = APIRouter(include_in_schema=False)
STATE_COOKIE = "smalltale_oauth"
STATE_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class OAuthProvider:
    """A provider's endpoints and the keys of its user info."""

    name: str
    client_id: str
    client_secret: str
    authorize_url: str
    token_url: str
    user_url: str
    scope: str
    id_key: str
    name_key: str


PROVIDERS = {
    "github": {
        "authorize_url": "https://github.com/login/oauth/authorize",
        "token_url": "https://github.com/login/oauth/access_token",
        "user_url": "https://api.github.com/user",
        "scope": "read:user",
        "id_key": "id",
        "name_key": "login",
    },
    "huggingface": {
        "authorize_url": "https://huggingface.co/oauth/authorize",
        "token_url": "https://huggingface.co/oauth/token",
        "user_url": "https://huggingface.co/oauth/userinfo",
        "scope": "openid profile",
        "id_key": "sub",
        "name_key": "preferred_username",
    },
}


def load_providers(environment: Mapping[str, str] = os.environ) -> dict[str, OAuthProvider]:
    """The providers whose id and secret are set: SMALLTALE_GITHUB_ID, SMALLTALE_GITHUB_SECRET, SMALLTALE_HUGGINGFACE_…"""
    providers = {}
    for name, settings in PROVIDERS.items():
        client_id = environment.get(f"SMALLTALE_{name.upper()}_ID")
        secret = environment.get(f"SMALLTALE_{name.upper()}_SECRET")
        if client_id and secret:
            providers[name] = OAuthProvider(name=name, client_id=client_id, client_secret=secret, **settings)
    return providers


def create_client(context: RequestContext, name: str) -> tuple[OAuthProvider, OAuth2Client]:
    """A provider and a client for it. Raises RequestProblem 404 for a provider that is not configured."""
    provider: OAuthProvider | None = context.app_state.providers.get(name)
    if provider is None:
        raise not_found("sign-in provider")
    base_url = context.app_state.public_url or str(context.request.base_url).rstrip("/")
    client = OAuth2Client(
        provider.client_id,
        provider.client_secret,
        scope=provider.scope,
        redirect_uri=f"{base_url}/sign-in/{name}/callback",
        code_challenge_method="S256",
        timeout=20,
        headers={"Accept": "application/json"},
    )
    return provider, client


def state_signer(context: RequestContext) -> URLSafeTimedSerializer:
    """Signs the content of the state cookie."""
    return URLSafeTimedSerializer(context.app_state.secret, salt="oauth state")


@router.get("/sign-in/{name}")
def redirect_to_provider(context: Context, name: str) -> RedirectResponse:
    provider, client = create_client(context, name)
    verifier = secrets.token_urlsafe(48)
    with client:
        url, state = client.create_authorization_url(provider.authorize_url, code_verifier=verifier)
    response = RedirectResponse(url, status_code=303)
    response.set_cookie(
        STATE_COOKIE,
        state_signer(context).dumps({"state": state, "verifier": verifier, "provider": name}),
        max_age=STATE_SECONDS,
        httponly=True,
        samesite="lax",
        secure=context.app_state.secure_cookies,
        path="/sign-in",
    )
    return response


@router.get("/sign-in/{name}/callback")
def handle_callback(context: Context, name: str, code: str = "", state: str = "") -> RedirectResponse:
    """The provider redirects here: exchange the code for a token, read who the person is, and sign them in."""
    try:
        sent = state_signer(context).loads(
            context.request.cookies.get(STATE_COOKIE, ""), max_age=STATE_SECONDS
        )
    except BadSignature as error:
        raise RequestProblem(
            403, "this sign-in was not started in this browser, or over ten minutes ago; start it again"
        ) from error
    is_same_state = secrets.compare_digest(state.encode(), sent["state"].encode())
    if not code or not is_same_state or sent["provider"] != name:
        raise RequestProblem(403, "the provider's answer does not belong to this sign-in; start it again")
    provider, client = create_client(context, name)
    try:
        with client:
            client.fetch_token(provider.token_url, code=code, code_verifier=sent["verifier"])
            user = client.get(provider.user_url).raise_for_status().json()
        provider_id, user_name = str(user[provider.id_key]), str(user[provider.name_key])
    except (OAuthError, HTTPError, KeyError, ValueError) as error:
        raise RequestProblem(
            502, f"{name} did not say who you are; try again, or sign in another way"
        ) from error
    person = find_or_create_provider_person(context.database, name, provider_id, user_name)
    if person.disabled:
        raise RequestProblem(403, "this account is closed; ask the organisers")
    response = context.redirect("/", cookie=sign_in(context.database, person))
    response.delete_cookie(STATE_COOKIE, path="/sign-in")
    return response
