"""The API: tokens, scopes, problem+json, and the same rules as the pages."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from smalltale.server.accounts import accounts as people

from .conftest import Fair, stories

DECLARED = {
    "weight_class": "small",
    "counted_parameters": "1000",
    "model_hash": "ef" * 32,
    "data": "TinyStories",
    "from_scratch": "true",
}
HAND_IN = "/api/v1/editions/first/hand-ins/daily"


def with_token(fair: Fair, handle: str, *scopes: str) -> TestClient:
    with fair.store.read() as session:
        person = session.query(people.Person).filter_by(handle=handle).one()
    client = fair.client()
    client.headers["Authorization"] = f"Bearer {people.make_token(fair.store, person, 'test', list(scopes))}"
    return client


def post(client: TestClient, content: bytes | None = None, **more: str) -> Any:
    return client.post(HAND_IN, data={**DECLARED, **more}, files={"file": ("a.csv", content or stories())})


def test_a_hand_in_by_the_api_is_queued_judged_and_read_back(fair: Fair) -> None:
    fair.team("ada")
    client = with_token(fair, "ada", "read", "hand-in")
    answer = post(client)
    assert (answer.status_code, answer.json()["state"], answer.json()["place_in_queue"]) == (201, "queued", 1)
    fair.judge()
    read = client.get(answer.headers["location"]).json()
    assert (read["state"], read["score"]["judged"], read["score"]["side"]) == ("judged", 24, "public")
    assert client.get(f"{answer.headers['location']}/stories?order=best").json()["total"] == 12
    standings = client.get("/api/v1/editions/first/leaderboard?class=small").json()["standings"]
    assert [(each["rank"], each["team"]) for each in standings] == [(1, "Team ada")]
    assert [each["id"] for each in client.get("/api/v1/editions/first/hand-ins").json()] == [read["id"]]


def test_everything_wrong_is_answered_at_once_as_problem_json(fair: Fair) -> None:
    fair.team("ada")
    answer = post(
        with_token(fair, "ada", "hand-in"),
        b"prompt,completion\na,b\n",
        counted_parameters="",
        from_scratch="false",
    )
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    fields = [each["field"] for each in answer.json()["errors"]]
    assert fields.count("file") == 7
    assert {"counted_parameters", "from_scratch"} <= set(fields)
    assert all(each["found"] for each in answer.json()["errors"])


def test_a_token_of_another_scope_or_none_is_refused(fair: Fair) -> None:
    fair.team("ada")
    reader = with_token(fair, "ada", "read")
    assert post(reader).status_code == 403
    assert reader.get("/api/v1/editions/first/hand-ins").status_code == 200
    anonymous = fair.client()
    answer = anonymous.get("/api/v1/editions/first/hand-ins")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    anonymous.headers["Authorization"] = "Bearer smalltale_wrong"
    assert anonymous.get("/api/v1/editions/first/hand-ins").status_code == 401


def test_a_session_cookie_is_not_taken_by_the_api(fair: Fair) -> None:
    fair.team("ada")
    assert post(fair.signed_in("ada")).status_code == 401


def test_another_teams_waiting_hand_in_is_not_even_known_of(fair: Fair) -> None:
    row = fair.hand_in(fair.team("ada"))
    fair.team("eve")
    eve = with_token(fair, "eve", "read")
    assert eve.get(f"/api/v1/hand-ins/{row.id}").status_code == 404
    assert eve.get(f"/api/v1/hand-ins/{row.id}/stories").status_code == 404


def test_a_check_keeps_nothing(fair: Fair) -> None:
    fair.team("ada")
    client = with_token(fair, "ada", "read", "hand-in")
    answer = client.post("/api/v1/editions/first/check/daily", files={"file": ("a.csv", stories())})
    assert answer.json() == {"accepted": True, "errors": [], "warnings": []}
    assert client.get("/api/v1/editions/first/hand-ins").json() == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/editions/none", 404),
        ("/api/v1/editions/first/prompts/final", 404),
        ("/api/v1/editions/first/prompts/secret", 422),
        ("/api/v1/editions/first/leaderboard?side=private", 403),
        ("/api/v1/editions/first/leaderboard?class=nano", 404),
        ("/api/v1/hand-ins/x", 401),
        ("/api/v1/nothing", 404),
        ("/api/v1/editions/a%00b", 400),
    ],
)
def test_what_cannot_be_is_a_problem_with_its_status(fair: Fair, path: str, status: int) -> None:
    answer = fair.client().get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status


@pytest.mark.all
@pytest.mark.parametrize("signed", [False, True])
def test_the_openapi_document_keeps_its_word_under_fuzzing(fair: Fair, signed: bool) -> None:
    import schemathesis

    if fair.store.is_sqlite is False and not signed:
        pytest.skip("without a token both databases answer from the same code")
    fair.team("ada")
    client = with_token(fair, "ada", "read", "hand-in") if signed else fair.client()
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", client.app)
    headers = {"Authorization": client.headers["Authorization"]} if signed else {}

    for operation in schema.get_all_operations():
        run_operation(operation.ok(), headers)


def run_operation(operation: Any, headers: dict[str, str]) -> None:
    """Twenty-five generated calls of one operation: no server error, and only documented forms of answers."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings

    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
        derandomize=True,
        database=None,
    )
    @given(case=operation.as_strategy())
    def calls(case: Any) -> None:
        answer = case.call(headers=headers)
        case.validate_response(
            answer,
            checks=[
                schemathesis.checks.not_a_server_error,
                schemathesis.checks.content_type_conformance,
                schemathesis.checks.response_schema_conformance,
            ],
        )

    calls()
