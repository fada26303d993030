"""The API: tokens, scopes, problem+json, and the same rules as the pages."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from smalltale.server.accounts import accounts as people

from .conftest import Hackathon, submission_csv

DECLARED = {
    "weight_class": "small",
    "counted_parameters": "1000",
    "model_hash": "ef" * 32,
    "data": "TinyStories",
    "from_scratch": "true",
}
SUBMISSIONS = "/api/v1/editions/first/submissions"


def with_token(hackathon: Hackathon, handle: str, *scopes: str) -> TestClient:
    with hackathon.database.read() as session:
        person = session.query(people.Person).filter_by(handle=handle).one()
    client = hackathon.client()
    client.headers["Authorization"] = (
        f"Bearer {people.create_token(hackathon.database, person, 'test', list(scopes))}"
    )
    return client


def post_submission(client: TestClient, content: bytes | None = None, **fields: str) -> Any:
    return client.post(
        f"{SUBMISSIONS}/daily",
        data={**DECLARED, **fields},
        files={"file": ("a.csv", content or submission_csv())},
    )


def test_a_submission_by_the_api_is_queued_judged_and_read_back(hackathon: Hackathon) -> None:
    hackathon.add_team("ada")
    client = with_token(hackathon, "ada", "read", "hand-in")
    response = post_submission(client)
    assert (response.status_code, response.json()["state"], response.json()["place_in_queue"]) == (
        201,
        "queued",
        1,
    )
    hackathon.run_worker()
    read = client.get(response.headers["location"]).json()
    assert (read["state"], read["score"]["judged"], read["score"]["side"]) == ("judged", 24, "public")
    assert client.get(f"{response.headers['location']}/stories?order=best").json()["total"] == 12
    standings = client.get("/api/v1/editions/first/leaderboard?class=small").json()["standings"]
    assert [(row["rank"], row["team"]) for row in standings] == [(1, "Team ada")]
    assert [submission["id"] for submission in client.get(SUBMISSIONS).json()] == [read["id"]]


def test_all_problems_are_reported_at_once_as_problem_json(hackathon: Hackathon) -> None:
    hackathon.add_team("ada")
    response = post_submission(
        with_token(hackathon, "ada", "hand-in"),
        b"prompt,completion\na,b\n",
        counted_parameters="",
        from_scratch="false",
    )
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    errors = response.json()["errors"]
    fields = [error["field"] for error in errors]
    assert fields.count("file") == 7
    assert {"counted_parameters", "from_scratch"} <= set(fields)
    assert all(error["found"] and error["fix"] == error["mend"] for error in errors)


def test_a_missing_or_wrong_token_or_scope_is_refused(hackathon: Hackathon) -> None:
    hackathon.add_team("ada")
    reader = with_token(hackathon, "ada", "read")
    assert post_submission(reader).status_code == 403
    assert reader.get(SUBMISSIONS).status_code == 200
    anonymous = hackathon.client()
    response = anonymous.get(SUBMISSIONS)
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    anonymous.headers["Authorization"] = "Bearer smalltale_wrong"
    assert anonymous.get(SUBMISSIONS).status_code == 401


def test_the_api_ignores_session_cookies(hackathon: Hackathon) -> None:
    hackathon.add_team("ada")
    assert post_submission(hackathon.sign_in("ada")).status_code == 401


def test_another_teams_waiting_submission_is_not_found(hackathon: Hackathon) -> None:
    submission = hackathon.submit(hackathon.add_team("ada"))
    hackathon.add_team("eve")
    eve = with_token(hackathon, "eve", "read")
    assert eve.get(f"/api/v1/submissions/{submission.id}").status_code == 404
    assert eve.get(f"/api/v1/submissions/{submission.id}/stories").status_code == 404


def test_the_addresses_of_earlier_versions_still_work(hackathon: Hackathon) -> None:
    hackathon.add_team("ada")
    client = with_token(hackathon, "ada", "read", "hand-in")
    old_address = "/api/v1/editions/first/hand-ins"
    response = client.post(f"{old_address}/daily", data=DECLARED, files={"file": ("a.csv", submission_csv())})
    submission = client.get(old_address).json()[0]
    assert (response.status_code, submission) == (201, response.json())
    assert client.get(f"/api/v1/hand-ins/{submission['id']}").json()["state"] == "queued"
    assert client.get(f"/api/v1/hand-ins/{submission['id']}/stories").json()["total"] == 24


def test_a_check_saves_nothing(hackathon: Hackathon) -> None:
    hackathon.add_team("ada")
    client = with_token(hackathon, "ada", "read", "hand-in")
    response = client.post("/api/v1/editions/first/check/daily", files={"file": ("a.csv", submission_csv())})
    assert response.json() == {"accepted": True, "errors": [], "warnings": []}
    assert client.get(SUBMISSIONS).json() == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/editions/none", 404),
        ("/api/v1/editions/first/prompts/final", 404),
        ("/api/v1/editions/first/prompts/secret", 422),
        ("/api/v1/editions/first/leaderboard?side=private", 403),
        ("/api/v1/editions/first/leaderboard?class=nano", 404),
        ("/api/v1/submissions/x", 401),
        ("/api/v1/nothing", 404),
        ("/api/v1/editions/a%00b", 400),
    ],
)
def test_an_invalid_request_is_a_problem_with_its_status(
    hackathon: Hackathon, path: str, status: int
) -> None:
    response = hackathon.client().get(path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == status


@pytest.mark.all
@pytest.mark.parametrize("signed", [False, True])
def test_responses_match_the_openapi_document_under_fuzzing(hackathon: Hackathon, signed: bool) -> None:
    import schemathesis

    if hackathon.database.is_sqlite is False and not signed:
        pytest.skip("without a token both databases give the same answers")
    hackathon.add_team("ada")
    client = with_token(hackathon, "ada", "read", "hand-in") if signed else hackathon.client()
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", client.app)
    headers = {"Authorization": client.headers["Authorization"]} if signed else {}

    for operation in schema.get_all_operations():
        run_operation(operation.ok(), headers)


def run_operation(operation: Any, headers: dict[str, str]) -> None:
    """25 generated calls of one operation: no server error, and only documented responses."""
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
        response = case.call(headers=headers)
        case.validate_response(
            response,
            checks=[
                schemathesis.checks.not_a_server_error,
                schemathesis.checks.content_type_conformance,
                schemathesis.checks.response_schema_conformance,
            ],
        )

    calls()
