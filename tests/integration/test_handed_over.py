"""Secrets in whole builds: who gets them is said in the log, and nobody gets one whom the Dockerfile doesn't name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.builder import Builder
from tests.support.images import busybox_layout

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

BASE = "--build-context=base=oci-layout://{}"
VALUE = "canary-4b7e21"
NAMES = """FROM base AS first
ARG WHICH=b
RUN --mount=type=secret,id=a --mount=type=secret,id=a,env=A test "$A" = "$(cat /run/secrets/a)"
RUN --network=none --mount=type=secret,id=$WHICH test -s /run/secrets/b
ONBUILD RUN --mount=type=secret,id=a test -s /run/secrets/a
FROM first
RUN echo no secret
"""


@pytest.fixture
def flags(builder: Builder) -> list[str | Path]:
    """Three secrets, of which Dockerfiles name two, and a log."""
    source = builder.folder / "operators"
    source.write_text(VALUE)
    secrets = [text for name in ("a", "b", "unnamed") for text in ("--secret", f"id={name},src={source}")]
    return [*secrets, BASE.format(busybox_layout()), "--audit-log", builder.folder / "audit", "--no-cache"]


def handed_over(builder: Builder) -> list[tuple[str, str]]:
    """(kind, name) of each handover and refusal in the log, in order."""
    text = (builder.folder / "audit").read_text()
    assert VALUE not in text
    records = [json.loads(line) for line in text.splitlines()]
    assert all(record["step"] for record in records if record["kind"] == "secret")
    return [(record["kind"], record["name"]) for record in records if record["kind"] in ("secret", "refuse")]


def test_each_step_gets_what_it_names_once_and_the_log_says_so(builder: Builder, flags: list[str | Path]) -> None:
    builder.run(*flags, builder.context({"Dockerfile": NAMES}))
    assert sorted(handed_over(builder)) == [("secret", "secret a"), ("secret", "secret a"), ("secret", "secret b")]


def test_a_base_images_trigger_gets_no_secret(builder: Builder, flags: list[str | Path], registry: str) -> None:
    trigger = "FROM base\nONBUILD RUN --mount=type=secret,id=unnamed cat /run/secrets/unnamed > /taken\n"
    name = f"{registry}/greedy:1"
    builder.run("-t", name, "--push", flags[6], builder.context({"Dockerfile": trigger}))
    context = builder.context({"Dockerfile": f"FROM {name}\n"})
    done = builder.fail(4, *flags, context)
    assert "secret unnamed: no RUN of the Dockerfile names it" in done.last_error
    assert handed_over(builder) == [("refuse", "step")]
