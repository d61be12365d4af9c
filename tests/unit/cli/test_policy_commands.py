"""`policy` and `audit`: what they print of files, and with which exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandboxbuild.cli.main import main
from sandboxbuild.gateway.audit import CONNECT, REFUSE, STEP, Record, record_line

GOOD = '[network.run]\nallow = ["a.example.com:443"]\n'
BAD = '[network.run]\nalow = ["a.example.com:443"]\n'


def test_check_names_each_fault_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(GOOD)
    bad.write_text(BAD)
    assert main(["policy", "check", str(good)]) == 0
    assert main(["policy", "check", str(good), str(bad)]) == 4
    assert f"{bad}:2: network.run.alow: unknown key" in capsys.readouterr().out


def test_show_says_what_a_build_may_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.toml").write_text(GOOD)
    assert main(["policy", "show", str(tmp_path / "p.toml")]) == 0
    assert "run may reach a.example.com port 443" in capsys.readouterr().out
    assert main(["policy", "show", "--profile=offline"]) == 0
    assert "network for steps: none" in capsys.readouterr().out


def test_diff_exits_with_one_where_something_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    one.write_text(GOOD)
    other.write_text(GOOD.replace("a.example", "b.example"))
    assert main(["policy", "diff", str(one), str(one)]) == 0
    assert main(["policy", "diff", str(one), str(other)]) == 1
    assert "+run may reach b.example.com port 443" in capsys.readouterr().out


def test_a_log_is_shown_step_by_step_with_sums(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    connect = Record(CONNECT, "3", name="a.example.com", port=443, received=1000, rule="a.example.com:443")
    records = (
        Record(STEP, "3", "web", "RUN get \x1b[31m"),
        connect,
        connect,
        Record(REFUSE, "3", name="b.example.com", reason="no"),
    )
    (tmp_path / "log").write_text("".join(map(record_line, records)))
    assert main(["audit", str(tmp_path / "log")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "web: RUN get" in lines[1]
    assert "\x1b" not in lines[1]
    assert lines[2].split()[:4] == ["3", "connect", "2", "a.example.com:443"]
    assert "2.0kB" in lines[2]
    assert main(["audit", "--refused", str(tmp_path / "log")]) == 0
    assert "connect" not in capsys.readouterr().out


def test_a_file_that_is_no_log_is_an_input_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").write_text("{}\n")
    assert main(["audit", str(tmp_path / "log")]) == 3
    assert "line 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["serve"], 2),
        (["serve", "--listen=nowhere", "--token-file=x"], 2),
        (["serve", "--token-file=/none/such"], 3),
    ],
)
def test_a_gateway_needs_a_token_and_an_address(words: list[str], status: int) -> None:
    assert main(["gateway", *words]) == status
