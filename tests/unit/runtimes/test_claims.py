"""Every claim that a runtime's file can make is tried, inside or from outside, or it is not believed."""

from __future__ import annotations

from typing import get_args

import pytest

from sandboxbuild.executor.claims import FOLDER, MEMORY_BYTES, OWNED, PROCESSES, TRIALS
from sandboxbuild.policy.claims import CORE_CLAIMS, REFUTED
from sandboxbuild.policy.library import RUNTIMES, Library, packaged_folder
from sandboxbuild.policy.runtime import Claim, load_runtime
from sandboxbuild.runtimes import claims
from sandboxbuild.runtimes.probe import is_older, version_in

PACKAGED = Library((packaged_folder(),))


def test_every_claim_has_a_trial() -> None:
    assert set(get_args(Claim)) == set(TRIALS) | claims.LOOKED_AT
    assert set(get_args(Claim)) >= CORE_CLAIMS


def test_both_sides_of_a_trial_mean_the_same() -> None:
    assert (claims.FOLDER, claims.OWNED, claims.MEMORY_BYTES, claims.PROCESSES) == (FOLDER, OWNED, MEMORY_BYTES, PROCESSES)


@pytest.mark.parametrize("name", PACKAGED.names(RUNTIMES))
def test_a_refuted_claim_is_no_longer_enforced(name: str) -> None:
    runtime = load_runtime(PACKAGED, name)
    assert "network" in runtime.enforced(())
    assert runtime.enforced((f"{REFUTED}network",)) == runtime.enforced(()) - {"network"}


@pytest.mark.parametrize(
    ("version", "minimum", "older"),
    [
        ("20221219", "20230101", True),
        ("20240729", "20230101", False),
        ("1.10.1", "1.9", False),
        ("", "1", True),
        ("", "", False),
    ],
)
def test_versions_are_compared_by_number(version: str, minimum: str, older: bool) -> None:
    assert is_older(version, minimum) is older


def test_a_version_is_found_in_what_a_program_says() -> None:
    assert version_in("runsc version release-20221219.0-46-g2\nspec: 1.0.2", "20230101") == "20221219"
    assert version_in("crun version 1.8.1\ncommit: f8a096be", "1.8") == "1.8.1"
