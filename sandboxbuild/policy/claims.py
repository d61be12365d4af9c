"""Words about what runtimes enforce, for those who read no runtime's file; the claims themselves are in runtime.py."""

from __future__ import annotations

from typing import Final

# Without these a runtime isn't what a profile chose it for, whether a policy asks for them or not.
CORE_CLAIMS: Final = frozenset({"network", "ids", "syscalls", "capabilities", "sandbox_filter", "kernel"})
REFUTED: Final = "not:"  # and a claim: the fact that it was tried on this host and isn't so
