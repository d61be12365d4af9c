"""Unit tests are for every save: fuzzing gets few examples here, and all that a test asks for where CI is set."""

from __future__ import annotations

import os

import hypothesis
import pytest

EXAMPLES = 15


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("CI", "") not in ("", "false", "0"):
        return
    for item in items:
        function = getattr(item, "obj", None)
        chosen = getattr(function, "_hypothesis_internal_use_settings", None)
        if chosen is not None and chosen.max_examples > EXAMPLES:
            function._hypothesis_internal_use_settings = hypothesis.settings(chosen, max_examples=EXAMPLES)
