"""The warnings, each by the smallest file that has it."""

from __future__ import annotations

import pytest

from sandboxbuild.dockerfile import LowerOptions, check, parse
from sandboxbuild.dockerfile.checks import RULES
from sandboxbuild.dockerfile.ignore import parse_ignore
from sandboxbuild.errors import DockerfileError
from sandboxbuild.oci.config import ImageConfig
from tests.unit.dockerfile.planning import plan

CASES = {
    "StageNameCasing": ("FROM scratch AS Base\n", 1),
    "FromAsCasing": ("FROM scratch as base\n", 1),
    "NoEmptyContinuation": ("FROM scratch\nLABEL a=b \\\n\n c=d\n", 4),
    "ConsistentInstructionCasing": ("FROM scratch\nLABEL a=b\nlabel c=d\n", 3),
    "DuplicateStageName": ("FROM scratch AS a\nFROM scratch AS a\n", 2),
    "ReservedStageName": ("FROM scratch AS context\n", 1),
    "JSONArgsRecommended": ("FROM scratch\nCMD x\n", 2),
    "MaintainerDeprecated": ("FROM scratch\nMAINTAINER x\n", 2),
    "UndefinedArgInFrom": ("FROM scratch$NOPE\n", 1),
    "WorkdirRelativePath": ("FROM scratch\nWORKDIR a\n", 2),
    "UndefinedVar": ("FROM scratch\nLABEL a=$PAHT\n", 2),
    "MultipleInstructionsDisallowed": ('FROM scratch\nCMD ["a"]\nCMD ["b"]\n', 2),
    "LegacyKeyValueFormat": ("FROM scratch\nENV a b\n", 2),
    "RedundantTargetPlatform": ("FROM --platform=$TARGETPLATFORM scratch\n", 1),
    "SecretsUsedInArgOrEnv": ("FROM scratch\nARG API_TOKEN\n", 2),
    "InvalidDefaultArgInFrom": ("ARG V\nFROM busybox:$V\n", 2),
    "FromPlatformFlagConstDisallowed": ("FROM --platform=linux/amd64 scratch\n", 1),
    "ExposeProtoCasing": ("FROM scratch\nEXPOSE 80/TCP\n", 2),
    "ExposeInvalidFormat": ("FROM scratch\nEXPOSE 80:80\n", 2),
    "InvalidDefinitionDescription": ("# check=experimental=all\n\n# something\nFROM scratch AS a\n", 4),
    "CopyIgnoredFile": ("FROM scratch\nCOPY left-out/x /x\n", 2),
    "UnusedBuildArg": ("FROM scratch\n", 1),
    "InvalidBaseImagePlatform": ("FROM i\n", 1),
}


def warnings(text: str) -> list[tuple[int, str]]:
    options = LowerOptions(build_args=(("UNUSED", "1"),) if text == "FROM scratch\n" else (("V", "1"),) if "$V" in text else ())
    options = options._replace(ignore=parse_ignore(b"left-out\n"))
    found = check(parse(text.encode()), options, lambda image: ImageConfig(architecture="s390x"))
    return [(span.line, message.partition(":")[0]) for span, message in found]


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_finds_its_case_and_no_other_does(rule: str) -> None:
    text, line = CASES[rule]
    assert (line, rule) in warnings(text)
    if rule not in ("InvalidBaseImagePlatform", "InvalidDefaultArgInFrom", "UndefinedArgInFrom"):
        assert {found for _, found in warnings(text)} == {rule}


def test_good_style_has_no_warnings() -> None:
    text = 'ARG V=1\nFROM scratch AS a\nWORKDIR /x\nENV A=b PUBLIC_KEY=x\nCMD ["a"]\n'
    assert check(parse(text.encode()), LowerOptions()) == ()


def test_a_check_points_at_the_word() -> None:
    found = check(parse(b"FROM scratch\nLABEL a=$PAHT\n"), LowerOptions())
    assert found[0][0][1:] == (2, 2, 10, 14)
    assert "did you mean $PATH?" in found[0][1]


def test_rules_are_skipped_by_file_by_instruction_and_by_option() -> None:
    assert warnings("# check=skip=LegacyKeyValueFormat,UndefinedVar\nFROM scratch\nENV a b\n") == []
    assert warnings("FROM scratch\n# check=skip=all\nENV a b\nENV c d\n") == [(4, "LegacyKeyValueFormat")]
    assert check(parse(b"FROM scratch\nENV a b\n"), LowerOptions(checks="skip=all")) == ()


def test_a_file_can_make_warnings_errors() -> None:
    with pytest.raises(DockerfileError, match="LegacyKeyValueFormat") as caught:
        plan("# check=error=true\nFROM scratch\nENV a b\n")
    assert caught.value.span is not None
    assert caught.value.span.line == 3


@pytest.mark.parametrize("options", ["nonsense", "skip", "error=maybe", "skip=a;what=b"])
def test_options_that_mean_nothing_are_refused(options: str) -> None:
    with pytest.raises(DockerfileError, match="invalid check option"):
        plan(f"# check={options}\nFROM scratch\n")


def test_without_images_nothing_is_said_of_their_variables() -> None:
    assert check(parse(b"FROM i\nLABEL a=$FROM_BASE\n"), LowerOptions()) == ()


@pytest.mark.parametrize(
    ("ignored", "line", "warned"),
    [
        ("a\n", "COPY a /x", "Copy file 'a'"),
        ("a\n", "ADD b ./a/c /x/", "Add file './a/c'"),
        ("*.md\n", "COPY r.md /x", "Copy file 'r.md'"),
        ("*\n", "COPY . /x", "Copy file '.'"),
        ("**\n", "COPY / /x", "Copy file '/'"),
        ("a*\n", "COPY . /x", ""),
        ("*\n!b\n", "COPY a /x", ""),
        ("a\n", "COPY --from=s a /x", ""),
        ("a\n", "ADD https://example.com/a /x", ""),
        ("a\n", "# check=skip=CopyIgnoredFile\nCOPY a /x", ""),
        ("", "COPY a /x", ""),
    ],
)
def test_a_copy_of_what_the_ignore_file_leaves_out_is_told(ignored: str, line: str, warned: str) -> None:
    text = f"FROM scratch AS s\nFROM scratch\n{line}\n"
    found = check(parse(text.encode()), LowerOptions(ignore=parse_ignore(ignored.encode())))
    expected = f"CopyIgnoredFile: Attempting to {warned} that is excluded by .dockerignore"
    assert [message for _, message in found] == ([expected] if warned else [])


def test_a_variable_with_a_default_is_told_when_it_is_not_set() -> None:
    assert warnings("FROM scratch\nLABEL a=${NOPE:-d} b=${NOPE+d}\n") == [(2, "UndefinedVar")]


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        ("skip=all // for old times", []),
        ("skip=LegacyKeyValueFormat remark", []),
        ("skip=all,Other", [(3, "LegacyKeyValueFormat")]),
        ("nonsense", [(3, "LegacyKeyValueFormat")]),
    ],
)
def test_a_comment_above_an_instruction_is_read_up_to_a_blank(directive: str, expected: list[tuple[int, str]]) -> None:
    assert warnings(f"FROM scratch\n# check={directive}\nENV a b\n") == expected
