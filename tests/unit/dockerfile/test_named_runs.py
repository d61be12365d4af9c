from __future__ import annotations

import pytest

from sandboxbuild.dockerfile import LowerOptions, lower, parse
from sandboxbuild.dockerfile.handovers import named_runs
from sandboxbuild.oci.config import ImageConfig
from sandboxbuild.plan.handovers import ANY_ID, NamedRun
from sandboxbuild.plan.operations import RunOp, SecretMount, SshMount

TEXT = """FROM example.com/base AS one
ARG WHICH=first
RUN --mount=type=secret,id=a --mount=type=secret,src=b --mount=target=/etc/c,type=secret cat \\
    /run/secrets/a
RUN --mount=type=secret,id=$WHICH --mount=type=ssh true
RUN --mount=type=ssh,id=forge --mount=type=cache,target=/cache,id=cache <<END
echo $WHICH
END
RUN plain
ONBUILD RUN --mount=type=secret,id=later true
FROM one
RUN --mount=type=secret,id=a again
FROM example.com/base AS unneeded
RUN --mount=type=secret,id=never true
FROM one AS last
COPY --from=1 /x /x
"""


def found(text: str = TEXT, target: str = "") -> tuple[NamedRun, ...]:
    return named_runs(parse(text.encode()), LowerOptions(target=target))


def test_each_run_is_there_with_its_ids_and_those_of_variables_are_any() -> None:
    assert [(run.stage, run.secrets, run.agents) for run in found()] == [
        ("one", ("a", "b", "c"), ()),
        ("one", (ANY_ID,), ("default",)),
        ("one", (), ("forge",)),
        ("1", ("later",), ()),
        ("1", ("a",), ()),
        ("last", ("later",), ()),
    ]


def test_only_stages_that_are_needed_count() -> None:
    assert {run.stage for run in found(target="unneeded")} == {"unneeded"}


def test_a_type_that_is_a_variable_may_be_either() -> None:
    assert found("FROM scratch\nRUN --mount=type=$T,id=x true\n")[0][2:] == (("*",), ("*",))


@pytest.mark.parametrize("written", ["a$B", "${A}", "${A:-x}"])
def test_an_id_that_expansion_changes_is_any(written: str) -> None:
    assert found(f"FROM scratch\nRUN --mount=type=secret,id={written} true\n")[0].secrets == (ANY_ID,)


def test_texts_and_ids_are_those_of_the_plan() -> None:
    """What the executor will declare is found in what the launcher reads, though it knows no base image."""
    plan = lower(parse(TEXT.encode()), LowerOptions(), lambda _image: ImageConfig(env=(("PATH", "/bin"),)))
    read = {(run.stage, run.run): run for run in found()}
    steps = [(stage, step, step.op) for stage in plan.stages for step in stage.steps if isinstance(step.op, RunOp)]
    named = [each for each in steps if any(isinstance(mount, SecretMount | SshMount) for mount in each[2].mounts)]
    assert len(named) == len(read)
    for stage, step, op in named:
        run = read[stage.name or str(stage.number), step.text]
        secrets = {mount.secret_id for mount in op.mounts if isinstance(mount, SecretMount)}
        agents = {mount.ssh_id for mount in op.mounts if isinstance(mount, SshMount)}
        assert agents == set(run.agents)
        assert secrets == set(run.secrets) or run.secrets == (ANY_ID,)
