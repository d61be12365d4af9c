"""`sandboxbuild check`: build checks with their places, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sandboxbuild.cli.main import main

DOCKERFILE = "FROM alpine AS Base\nFROM base\nENV API_TOKEN=x\nCMD echo $\\\n  hello\n"


@pytest.fixture
def context(tmp_path: Path) -> str:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    return str(tmp_path)


def test_warnings_have_lines_and_carets(context: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", context]) == 0
    out, err = capsys.readouterr()
    assert "WARNING: StageNameCasing: " in out
    assert "Dockerfile:3\n" in out
    assert "   3 | >>> ENV API_TOKEN=x\n               ^^^^^^^^^\n" in out
    assert "   5 | >>>   hello\n" in out
    assert (out.splitlines()[-1], err) == ("3 warnings", "")


def test_warnings_are_json_for_programs(context: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--format=json", context]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(each["rule"], each["source"]["line"]) for each in document["warnings"]] == [
        ("StageNameCasing", 1),
        ("SecretsUsedInArgOrEnv", 3),
        ("JSONArgsRecommended", 4),
    ]
    assert document["error"] is None


def test_warnings_fail_where_that_is_asked_for(context: str) -> None:
    assert main(["check", "--fail-on=warning", context]) == 3
    assert main(["check", "--fail-on", "error", context]) == 0
    assert main(["check", "--fail-on=nothing", context]) == 2


def test_a_file_can_ask_for_failure_itself(context: str) -> None:
    Path(context, "Dockerfile").write_text("# check=error=true\n" + DOCKERFILE)
    assert main(["check", context]) == 3
    Path(context, "Dockerfile").write_text("# check=skip=all;error=true\n" + DOCKERFILE)
    assert main(["check", context]) == 0


def test_a_clean_file_has_no_warnings(context: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(context, "Dockerfile").write_text("FROM alpine\n")
    assert main(["check", "--fail-on=warning", context]) == 0
    assert capsys.readouterr().out == "no warnings\n"


def test_platforms_share_a_warning(context: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--platform", "linux/amd64,linux/arm64", context]) == 0
    assert capsys.readouterr().out.endswith("\n3 warnings\n")


def test_an_error_is_shown_as_in_a_build(context: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(context, "Dockerfile").write_text("FROM alpine\nCOPPY a b\n")
    assert main(["check", context]) == 3
    assert "ERROR: unknown instruction: COPPY" in capsys.readouterr().err
    assert main(["check", "--format=json", context]) == 3
    document = json.loads(capsys.readouterr().out)
    assert (document["error"]["source"]["line"], document["warnings"]) == (2, [])
