"""Platform: which operating system and processor an image is for; the names and the matching order are containerd's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from sandboxbuild.errors import UsageError

_WORD: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_OS: Final = re.compile(r"([A-Za-z0-9_.-]{1,64})(?:\(([A-Za-z0-9_.+-]{1,64})\))?", re.ASCII)
_SYSTEMS: Final = frozenset(
    {"aix", "android", "darwin", "dragonfly", "freebsd", "illumos", "ios", "js", "linux", "netbsd", "openbsd", "plan9"}
    | {"solaris", "wasip1", "windows"}
)
_ARCHITECTURES: Final = frozenset(
    {"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64"}
    | {"s390x", "sparc64", "wasm"}
)
# Other names of an architecture: (architecture, variant where none is said).
_ALIASES: Final = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "loongarch64": ("loong64", ""),
    "mips64el": ("mips64le", ""),
    "mipsel": ("mipsle", ""),
    "powerpc64le": ("ppc64le", ""),
}


class Platform(NamedTuple):
    """os[(os_version)]/architecture[/variant]; "" means absent."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    def __str__(self) -> str:
        system = f"{self.os}({self.os_version})" if self.os_version else self.os
        return f"{system}/{self.architecture}" + (f"/{self.variant}" if self.variant else "")


def parse_platform(text: str, *, default_os: str = "linux", default_architecture: str = "amd64") -> Platform:
    """ "linux/arm64/v8", "arm64", "windows(10.0.17763)/amd64" normalised. Raises UsageError.

    One word alone must be a known system or architecture; the default fills in the other.
    """
    parts = text.split("/")
    match = _OS.fullmatch(parts[0])
    if match is None or len(parts) > 3 or not all(_WORD.fullmatch(part) for part in parts[1:]):
        raise UsageError(f"{text[:200]!r} is not a platform", hint="write os/architecture[/variant], such as linux/arm64")
    first, version = match.group(1), match.group(2) or ""
    if len(parts) == 1:
        return _from_one_word(text, first, version, default_os, default_architecture)
    return normalise(Platform(first, parts[1], parts[2] if len(parts) == 3 else "", version))


def normalise(platform: Platform) -> Platform:
    """Lower case, the names that Go uses, and no variant where it is the default one (arm alone is arm/v7)."""
    system = platform.os.lower()
    architecture, variant = platform.architecture.lower(), platform.variant.lower()
    if architecture in _ALIASES:
        architecture, default = _ALIASES[architecture]
        variant = default or ("" if architecture == "386" else variant)
    return Platform(
        "darwin" if system == "macos" else system, architecture, _variant(architecture, variant), platform.os_version
    )


def host_platform(system: str, machine: str) -> Platform:
    """The platform of a machine; the arguments are those of os.uname()."""
    return normalise(Platform(system, machine))


def choose(candidates: Sequence[str], wanted: Platform | str) -> int | None:
    """The position of the candidate that serves `wanted` best, or None.

    A candidate is a descriptor's platform text. Better is who comes first in `compatible(wanted)`, then who is listed first;
    one without a platform ("") serves if no other does.
    """
    target = parse_platform(wanted) if isinstance(wanted, str) else normalise(wanted)
    order = compatible(target)
    best: tuple[int, int] | None = None
    for position, text in enumerate(candidates):
        rank = len(order) if text == "" else _rank(text, order)
        if rank is not None and (best is None or (rank, position) < best):
            best = (rank, position)
    return None if best is None else best[1]


def matches(candidate: Platform | str, wanted: Platform | str) -> bool:
    """Whether an image for `candidate` runs on `wanted`."""
    return choose((str(candidate),), wanted) is not None


def compatible(platform: Platform) -> tuple[Platform, ...]:
    """The platforms whose images run on `platform` (normalised), best first (containerd platforms, compare.go, Only)."""
    result = [platform]
    if platform.architecture == "amd64":
        result += [platform._replace(variant=_variant("amd64", f"v{level}")) for level in _below(platform.variant, 1)]
        result.append(platform._replace(architecture="386", variant=""))
    elif platform.architecture == "arm":
        result += [platform._replace(variant=f"v{level}") for level in _below(platform.variant, 5)]
    elif platform.architecture == "arm64":
        if platform.variant:
            result.append(platform._replace(variant=""))
        result += [platform._replace(architecture="arm", variant=f"v{level}") for level in (8, 7, 6, 5)]
    return tuple(result)


def _below(variant: str, lowest: int) -> range:
    """The levels below "v3" down to `lowest`."""
    level = variant.removeprefix("v")
    return range(int(level) - 1, lowest - 1, -1) if level.isdecimal() and len(level) < 3 else range(0)


def _rank(text: str, order: tuple[Platform, ...]) -> int | None:
    try:
        candidate = parse_platform(text)
    except UsageError:
        return None
    for rank, platform in enumerate(order):
        same = candidate[:3] == platform[:3]
        if same and (not platform.os_version or not candidate.os_version or candidate.os_version == platform.os_version):
            return rank
    return None


def _variant(architecture: str, variant: str) -> str:
    if architecture == "arm":
        return "v7" if variant in ("", "7") else f"v{variant}" if variant in ("5", "6", "8") else variant
    if architecture == "arm64":
        return "" if variant in ("8", "v8", "v8.0") else variant
    if architecture == "amd64":
        return "" if variant == "v1" else variant
    return variant


def _from_one_word(text: str, word: str, version: str, default_os: str, default_architecture: str) -> Platform:
    lower = word.lower()
    if lower in _SYSTEMS or lower == "macos":
        return normalise(Platform(lower, default_architecture, "", version))
    if not version and (lower in _ARCHITECTURES or lower in _ALIASES):
        return normalise(Platform(default_os, lower))
    raise UsageError(f"{text[:200]!r} is neither a known operating system nor a known architecture")
