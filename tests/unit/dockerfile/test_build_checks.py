"""The warnings, each by the smallest file that has it."""

from __future__ import annotations

import pytest

from sandboxbuild.dockerfile import LowerOptions, check, parse
from sandboxbuild.dockerfile.checks import RULES
from sandboxbuild.errors import DockerfileError
from sandboxbuild.oci.config import ImageConfig
from tests.unit.dockerfile.planning import plan

CASES = {
    "StageNameCasing": ("FROM scratch AS Base\n", 1),
    "FromAsCasing": ("FROM scratch as base\n", 1),
    "NoEmptyContinuation": ("FROM scratch\nLABEL a=b \\\n\n c=d\n", 2),
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
    "UnusedBuildArg": ("FROM scratch\n", 1),
    "InvalidBaseImagePlatform": ("FROM i\n", 1),
}


def warnings(text: str) -> list[tuple[int, str]]:
    options = LowerOptions(build_args=(("UNUSED", "1"),) if text == "FROM scratch\n" else (("V", "1"),) if "$V" in text else ())
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
