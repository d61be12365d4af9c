"""What each instruction comes to: operation, config, history."""

from __future__ import annotations

import pytest

from sandboxbuild.errors import DockerfileError
from sandboxbuild.oci.config import Healthcheck, ImageConfig
from sandboxbuild.plan.operations import (
    BindMount,
    CacheMount,
    ContextSource,
    CopyOp,
    GitSource,
    ImageSource,
    InlineSource,
    RunOp,
    SecretMount,
    SshMount,
    StageSource,
    TmpfsMount,
    UrlSource,
    WorkdirOp,
)
from tests.unit.dockerfile.planning import PATH, config, op, plan, steps

BASE = "FROM scratch\n"


def refusal(text: str, **options: object) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        plan(BASE + text, **options)
    assert caught.value.span is not None
    return caught.value


@pytest.mark.parametrize(
    ("line", "history"),
    [
        ("ENV a=b c='d e'", "ENV a=b c=d e"),
        ("ENV a b c", "ENV a=b c"),
        ("LABEL a=b", "LABEL a=b"),
        ("ARG a=b c", "ARG a=b c"),
        ('CMD ["sh", "-c", "echo \\"x\\"\\t"]', 'CMD ["sh" "-c" "echo \\"x\\"\\t"]'),
        ("CMD echo x", 'CMD ["/bin/sh" "-c" "echo x"]'),
        ("ENTRYPOINT []", "ENTRYPOINT []"),
        ("EXPOSE 443/UDP 80-81", "EXPOSE [443/udp 80/tcp 81/tcp]"),
        ("VOLUME /a /b", "VOLUME [/a /b]"),
        ("USER app:app", "USER app:app"),
        ("WORKDIR a/../b", "WORKDIR /b"),
        ("WORKDIR /a//b/", "WORKDIR /a//b/"),
        ('SHELL ["/bin/bash", "-c"]', "SHELL [/bin/bash -c]"),
        ("STOPSIGNAL SIGINT", "STOPSIGNAL SIGINT"),
        ("MAINTAINER A B", "MAINTAINER A B"),
        ("COPY --chown=1:2 --chmod=644 a b c/", "COPY --chown=1:2 --chmod=644 a b c/ # buildkit"),
        ("ADD <<a <<b /d/\na\nb\n", "ADD <<a <<b /d/ # buildkit"),
        ("RUN echo x", "RUN /bin/sh -c echo x # buildkit"),
        ('RUN ["a", "b c"]', "RUN a b c # buildkit"),
        (
            "HEALTHCHECK --interval=1m30s --retries=2 CMD x y",
            "HEALTHCHECK {Test:[CMD-SHELL x y] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:2}",
        ),
    ],
)
def test_history_is_written_as_buildkit_writes_it(line: str, history: str) -> None:
    assert steps(BASE + line + "\n")[-1].created_by == history


def test_arguments_stand_in_the_history_of_run() -> None:
    text = BASE + "ARG A=1\nARG B\nENV A=2\nRUN x\n"
    assert steps(text, build_args=(("B", "b"),))[-1].created_by == "RUN |2 A=2 B=b /bin/sh -c x # buildkit"
    assert steps(text)[-1].created_by == "RUN |2 A=2 B= /bin/sh -c x # buildkit"


def test_proxies_reach_the_step_but_no_history() -> None:
    step = steps(BASE + "RUN x\n", build_args=(("HTTP_PROXY", "http://p:1"),))[-1]
    assert isinstance(step.op, RunOp)
    assert step.op.env_uncached == (("HTTP_PROXY", "http://p:1"), ("http_proxy", "http://p:1"))
    assert step.op.env == (("PATH", PATH),)
    assert "http://p" not in step.created_by


def test_onbuild_has_no_history() -> None:
    assert [step.has_history for step in steps(BASE + "ONBUILD RUN x\nENV a=b\n")] == [False, True]


def test_a_run_gets_the_variables_in_order() -> None:
    run = op(BASE + "ENV A=1\nARG B=$A\nENV A=2 C=$A\nWORKDIR /w\nUSER u\nRUN x\n")
    assert run.env == (("PATH", PATH), ("B", "1"), ("A", "2"), ("C", "1"))
    assert (run.cwd, run.user, run.argv) == ("/w", "u", ("/bin/sh", "-c", "x"))


def test_an_arg_after_env_wins_in_run_and_env_stays_in_the_image() -> None:
    step = steps(BASE + "ENV A=env\nARG A=arg\nRUN x\n", build_args=(("A", "cli"),))[-1]
    assert isinstance(step.op, RunOp)
    assert dict(step.op.env)["A"] == "cli"
    assert dict(step.config_after.env)["A"] == "env"


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("RUN <<E\na\nb\nE\n", ("/bin/sh", "-c", "a\nb\n")),
        ("RUN <<-E\n\ta\n\tE\n", ("/bin/sh", "-c", "a\n")),
        ("RUN cat <<E > /f\n$a\nE\n", ("/bin/sh", "-c", "cat <<E > /f\n$a\nE")),
        ("RUN <<E\n#!/bin/x\nE\n", ("/bin/sh", "-c", "/dev/pipes/E")),
        ("RUN\n", ("/bin/sh", "-c", "")),
    ],
)
def test_heredocs_of_run(text: str, argv: tuple[str, ...]) -> None:
    run = op(BASE + text)
    assert run.argv == argv
    assert bool(run.scripts) is (argv[-1] == "/dev/pipes/E")


def test_mounts_have_their_defaults() -> None:
    text = (
        "FROM scratch AS s\nFROM scratch\nWORKDIR /w\nENV T=/t\nRUN --mount=target=src --mount=type=bind,from=s,target=/s,rw "
        "--mount=type=cache,target=$T/,sharing=locked,uid=5,mode=0700 --mount=type=tmpfs,target=/tmp,size=64m "
        "--mount=type=secret,id=a/b --mount=type=secret,id=k,env=K --mount=type=ssh --mount=type=ssh,id=x,required x\n"
    )
    step = steps(text)[-1]
    assert isinstance(step.op, RunOp)
    assert step.depends_on == (0,)
    assert step.op.mounts == (
        BindMount("/w/src", ContextSource()),
        BindMount("/s", StageSource(0), writable=True),
        CacheMount("/t", "/t", "locked", uid=5, mode=0o700),
        TmpfsMount("/tmp", 64 * 1024 * 1024),
        SecretMount("a/b", "/run/secrets/b"),
        SecretMount("k", "", "K"),
        SshMount("default", "/run/buildkit/ssh_agent.0"),
        SshMount("x", "/run/buildkit/ssh_agent.1", required=True),
    )


@pytest.mark.parametrize(
    "flag",
    [
        "--mount=type=cache",
        "--mount=type=nonsense,target=/x",
        "--mount=type=bind,target=/x,size=1",
        "--mount=type=bind,target=/x,uid=1",
        "--mount=type=tmpfs,from=a,target=/x",
        "--mount=type=cache,target=/x,sharing=none",
        "--mount=type=cache,target=/x,mode=9",
        "--mount=type=cache,target=/x,mode=0o7",
        "--mount=type=secret",
        "--mount=type=secret,id=a,src=b",
        "--mount=type=secret,id=a,env=",
        "--mount=type=secret,id=a,required=maybe",
        "--mount=typ=bind,target=/x",
        "--mount=target",
        "--mount=",
        "--mount=from=$X,target=/x",
        "--network=bridge",
        "--security=none",
        "--device=vendor.com/device",
        "--network=none --network=none",
        "--nonsense",
    ],
)
def test_a_wrong_flag_of_run_is_refused(flag: str) -> None:
    refusal(f"RUN {flag} x\n")


def test_copy_takes_paths_of_one_source_together() -> None:
    assert op(BASE + "WORKDIR /w\nENV d=b\nCOPY a $d* .\n") == CopyOp((ContextSource(),), (("a", "b*"),), "/w/")


@pytest.mark.parametrize(
    ("destination", "absolute"),
    [
        ("x", "/w/x"),
        ("x/", "/w/x/"),
        (".", "/w/"),
        ("/", "/"),
        ("/a/./b/..", "/a"),
        ("..", "/"),
        ("d/.", "/w/d/"),
        ("//a", "/a"),
    ],
)
def test_a_destination_keeps_the_slash_of_a_directory(destination: str, absolute: str) -> None:
    assert op(f"{BASE}WORKDIR /w\nCOPY a {destination}\n").destination == absolute


def test_copy_from_reaches_stages_by_name_and_number_and_images() -> None:
    text = "FROM scratch AS One\nFROM scratch\nCOPY --from=ONE a /\nCOPY --from=0 b /\nCOPY --from=alpine:3 c /\n"
    made = steps(text)
    assert [step.depends_on for step in made] == [(0,), (0,), ()]
    assert [step.op.sources[0] for step in made if isinstance(step.op, CopyOp)] == [
        StageSource(0),
        StageSource(0),
        ImageSource("alpine:3"),
    ]


def test_flags_of_copy_are_carried_over() -> None:
    copy = op(BASE + "ENV m=u+x\nCOPY --parents --exclude=*.md --exclude=d --chmod=$m --chown=a:b x/./y z/\n")
    assert (copy.parents, copy.exclude, copy.mode, copy.owner) == (True, ("*.md", "d"), "u+x", "a:b")


def test_link_gives_way_to_a_mode() -> None:
    assert op(BASE + "COPY --link a b\n").link
    assert not op(BASE + "COPY --link --chmod=600 a b\n").link


def test_heredocs_of_copy_are_expanded_unless_quoted() -> None:
    copy = op(BASE + "ENV a=1\nCOPY file <<x <<'y' /d/\n\"$a\" \\$\nx\n$a\ny\n")
    assert copy.sources == (ContextSource(), InlineSource((("x", b'"1" $\n'), ("y", b"$a\n"))))
    assert copy.paths == (("file",), ())


def test_add_fetches_urls_and_repositories() -> None:
    digest = "sha256:" + "0" * 64
    assert op(f"{BASE}ADD --checksum={digest} https://example.com/a.tar /\n").sources == (
        UrlSource("https://example.com/a.tar", digest),
    )
    assert op(BASE + "ADD --keep-git-dir=true https://example.com/a.git#v1:sub /a\n").sources == (
        GitSource("https://example.com/a.git", "v1", "sub", keep_git_dir=True),
    )
    assert op(BASE + "ADD git@example.com:a/b.git?branch=x&submodules=0 /a\n").sources == (
        GitSource("git@example.com:a/b.git", "refs/heads/x", submodules=False),
    )


@pytest.mark.parametrize(
    "line",
    [
        "COPY a",
        "COPY https://example.com/x /",
        "COPY git@example.com:a/b.git /",
        "COPY --from=$x a b",
        "COPY --from=Not/Valid a b",
        "COPY --from=9 a b",
        "COPY --chmod=9z9 a b",
        "COPY --chmod=10000 a b",
        "COPY --chmod=0o644 a b",
        "COPY --unpack a b",
        "COPY a <<b\nb",
        "COPY <<a/b /x\na/b",
        "ADD --checksum=sha256:00 https://example.com/x /",
        "ADD --checksum=sha256:00 a /",
        "ADD --parents a b",
        "ADD --keep-git-dir a b",
        "ADD https://example.com/a.git?ref=x#y /",
        "ENV $unset=1",
        "ENV a",
        "ENV a=b c",
        "LABEL a",
        "ARG =x",
        "USER",
        "WORKDIR",
        "VOLUME []",
        "VOLUME $unset",
        "SHELL /bin/sh",
        "SHELL []",
        "STOPSIGNAL 0",
        "STOPSIGNAL SIGNOTHING",
        "HEALTHCHECK",
        "HEALTHCHECK CMD",
        "HEALTHCHECK NONE x",
        "HEALTHCHECK --interval=5 CMD x",
        "HEALTHCHECK --interval=1us CMD x",
        "HEALTHCHECK --retries=-1 CMD x",
        "EXPOSE 0x50",
        "EXPOSE 81-80",
        "EXPOSE 80/icmp",
        "EXPOSE 1.2.3.256:80:80",
        "ONBUILD",
        "ONBUILD ONBUILD RUN x",
        "ONBUILD FROM x",
        "ONBUILD ENV x",
        "RUN []",
        'RUN ["a\\u0000"]',
        "MAINTAINER",
        "CMD --flag x",
    ],
)
def test_what_the_reference_refuses_is_refused(line: str) -> None:
    refusal(line + "\n")


def test_workdir_is_made_by_the_user_of_the_line() -> None:
    assert op(BASE + "USER app\nWORKDIR /a\n") == WorkdirOp("/a", "app")
    assert op(BASE + "WORKDIR /\n") is None


def test_config_fields() -> None:
    made = config(
        BASE + 'USER a\nVOLUME ["/v", "/w"]\nSTOPSIGNAL 9\nSHELL ["/s"]\nCMD x\nHEALTHCHECK NONE\nMAINTAINER m\nEXPOSE 80\n'
    )
    assert (made.user, made.volumes, made.stop_signal, made.shell) == ("a", ("/v", "/w"), "9", ("/s",))
    assert (made.cmd, made.healthcheck, made.author) == (("/s", "x"), Healthcheck(("NONE",)), "m")
    assert made.exposed_ports == ("80/tcp",)


def test_a_label_of_the_command_line_wins() -> None:
    assert config(BASE + "LABEL a=file b=file\n", labels=(("a", "flag"), ("c", "flag"))).labels == (
        ("a", "flag"),
        ("b", "file"),
        ("c", "flag"),
    )
    assert config(BASE, labels=(("a", "flag"),)).labels == (("a", "flag"),)


def test_an_image_without_path_gets_one_and_its_workdir_is_kept() -> None:
    made = plan("FROM i\n", images={"i": ImageConfig(env=(("A", "b"),), working_dir="/x/../y/", created="then")})
    base = made.stages[0].base_config
    assert (base.env, base.working_dir, base.created) == ((("A", "b"), ("PATH", PATH)), "/x/../y/", "")


def test_an_absolute_workdir_is_stored_as_written_and_used_clean() -> None:
    text = BASE + "WORKDIR /a/./b//\nCOPY x c/\nRUN y\nWORKDIR d\n"
    made = steps(text)
    assert [step.config_after.working_dir for step in made] == ["/a/./b//", "/a/./b//", "/a/./b//", "/a/b/d"]
    assert isinstance(made[0].op, WorkdirOp) and made[0].op.path == "/a/b"
    assert isinstance(made[1].op, CopyOp) and made[1].op.destination == "/a/b/c/"
    assert isinstance(made[2].op, RunOp) and made[2].op.cwd == "/a/b"


@pytest.mark.parametrize("array", ['["a", 1]', "[null]", '["a", ["b"]]', '["a", {}]', "[true]"])
@pytest.mark.parametrize(
    "keyword", ["CMD", "ENTRYPOINT", "RUN", "SHELL", "VOLUME", "HEALTHCHECK CMD", "COPY", "ADD", "ONBUILD CMD"]
)
def test_an_array_of_other_things_than_strings_is_no_shell_form(keyword: str, array: str) -> None:
    assert "comprised of strings only" in refusal(f"{keyword} {array}\n").message


def test_exclude_is_taken_as_it_is_written() -> None:
    assert op(BASE + "ARG P=*.txt\nCOPY --exclude=$P --exclude=*.md a /b\n").exclude == ("$P", "*.md")


def test_an_onbuild_trigger_keeps_its_blanks() -> None:
    assert config(BASE + 'ONBUILD  CMD  ["a"]  \n').onbuild == ('CMD  ["a"]  ',)


@pytest.mark.parametrize("owner", ["mail", "5:mail", "mail:5", "a:b"])
def test_link_takes_numbers_alone(owner: str) -> None:
    assert "--link" in refusal(f"COPY --link --chown={owner} a /b\n").message
    assert op(BASE + f"COPY --link --chmod=600 --chown={owner} a /b\n").owner == owner


@pytest.mark.parametrize("owner", ["5", "5:6", "root", "root:7", ":7", "5:"])
def test_link_takes_a_number_and_root(owner: str) -> None:
    assert op(BASE + f"COPY --link --chown={owner} a /b\n").owner == owner


@pytest.mark.parametrize("mode", ["u+x,", ",u+x", "u", "8", "10000", "0o7", "u+q", "rwx"])
def test_a_mode_that_is_none_is_refused_before_anything_runs(mode: str) -> None:
    assert "invalid chmod parameter" in refusal(f"COPY --chmod={mode} a /b\n").message


@pytest.mark.parametrize("mode", ["0", "00007", "7777", "u+x-w=r", "a=rX,u=g", "+t", "="])
def test_octal_and_symbolic_modes_are_taken(mode: str) -> None:
    assert op(BASE + f"COPY --chmod={mode} a /b\n").mode == mode


@pytest.mark.parametrize("flag", ["--security=insecure", "--device=vendor.example.com/gpu"])
def test_a_step_is_given_no_way_out_of_its_sandbox(flag: str) -> None:
    assert "is not allowed" in refusal(f"RUN {flag} true\n").message
    assert op(BASE + "RUN --security=sandbox true\n").security == "sandbox"
