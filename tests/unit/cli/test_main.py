"""The command line as a process sees it: exit codes, one error, quick help, no sandbox for what needs none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sandboxbuild.cli.main import COMMANDS, main
from sandboxbuild.cli.options import FALSE_ONLY_FLAGS, IGNORED_FLAGS, REFUSED_FLAGS, RUN_FLAGS

DOCKERFILE = """ARG V=1
FROM alpine:3.$V AS build
WORKDIR /src
COPY . .
RUN make
FROM scratch
COPY --from=build /src/app /app
CMD ["/app"]
"""


def test_every_command_of_the_table_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    for name in (*COMMANDS, "build"):
        assert main([name, "--help"]) == 0
        assert "Usage: sandboxbuild" in capsys.readouterr().out


def test_help_lists_every_flag_that_is_not_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "--help"])
    text = capsys.readouterr().out
    assert [flag.name for flag in RUN_FLAGS if not flag.hidden and flag.name not in text] == []


def test_an_unknown_flag_is_usage_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--tga", "x", "."]) == 2
    assert "--tag" in capsys.readouterr().err


@pytest.mark.parametrize("flag", [flag.name for flag in REFUSED_FLAGS])
def test_a_refused_flag_is_named_with_a_hint(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", f"{flag}=true", "."]) == 2
    error = capsys.readouterr().err
    assert f"ERROR: {flag} is not supported\nhint: " in error


@pytest.mark.parametrize("flag", [flag.name for flag in FALSE_ONLY_FLAGS])
def test_attestations_are_refused_only_where_they_are_asked_for(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", f"{flag}=mode=max", "."]) == 2
    assert main(["run", f"{flag}=false", "--profile=none-such", "."]) == 4
    assert "notice" in capsys.readouterr().err


def test_flags_without_effect_are_accepted_with_one_notice(capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{flag.name}=1" for flag in IGNORED_FLAGS]
    assert main(["run", *words, "--profile=none-such", "."]) == 4  # it got as far as the profile
    error = capsys.readouterr().err
    assert error.count("notice:") == 1
    assert "--snapshot-mode" in error


def test_a_profile_that_is_not_there_is_a_policy_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--profile", "none-such", "."]) == 4
    assert "ERROR: " in capsys.readouterr().err


def test_a_flag_can_be_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOXBUILD_PROFILE", "none-such")
    assert main(["run", "."]) == 4


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    return tmp_path


def test_a_plan_is_printed_without_root_or_sandbox(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--store", str(context / "none"), str(context)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "stage 0 build: from alpine:3.1",
        "    folder  WORKDIR /src",
        "      copy  COPY . .",
        "       run  RUN make",
        "stage 1: from scratch  (result)",
        "      copy  COPY --from=build /src/app /app  (needs stage 0)",
        '       set  CMD ["/app"]',
    ]
    assert "alpine:3.1 is not in the store" in err


def test_a_plan_is_json_for_programs(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--store", str(context / "none"), "--format=json", "--build-arg", "V=9", str(context)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["stages"][0]["base"] == {"type": "BaseImage", "reference": "alpine:3.9", "platform": ""}
    assert document["stages"][1]["steps"][0]["depends_on"] == [0]
    assert document["stages"][0]["steps"][2]["operation"]["type"] == "RunOp"


def test_a_bad_dockerfile_is_shown_with_a_caret(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPPY a b\n")
    assert main(["plan", str(context)]) == 3
    error = capsys.readouterr().err
    assert "Dockerfile:2" in error
    assert "   2 | >>> COPPY a b\n           ^^^^^\n" in error


def test_a_missing_context_is_an_input_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "/nonexistent"]) == 3
    assert "ERROR: the context" in capsys.readouterr().err


def test_commands_on_an_empty_store_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = f"--store={tmp_path / 'store'}"
    assert main(["images", store, "--format=json"]) == 0
    assert main(["du", store]) == 0
    assert main(["prune", store]) == 0
    assert main(["inspect", store, "app"]) == 3
    assert "there is no image 'app'" in capsys.readouterr().err


HEAVY = ("pydantic", "requests", "dataclasses", "subprocess", "logging.handlers", "sandboxbuild.launcher.build")


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["version"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = f"import sys; from sandboxbuild.cli.main import main; main({words!r}); print({set(HEAVY)!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_bug_is_said_politely_and_is_exit_code_100(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(COMMANDS, "version", ("no_such_module", "version", ""))
    assert main(["version"]) == 100
    assert "this is a bug of sandboxbuild" in capsys.readouterr().err


def test_the_reference_is_what_the_tables_say() -> None:
    from sandboxbuild.cli.reference import reference

    written = (Path(__file__).resolve().parents[3] / "docs" / "cli.md").read_text()
    assert written == reference(), "run: python -m sandboxbuild.cli.reference > docs/cli.md"
