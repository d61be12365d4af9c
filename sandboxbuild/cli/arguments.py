"""The text of arguments to the values of BuildSettings. Pure: the environment is handed in.

Grammars follow docker buildx (`--output`, `--secret`, `--ssh`, `--ulimit`, `--add-host`) and kaniko (`--registry-map`).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from sandboxbuild.errors import UsageError
from sandboxbuild.launcher.settings import OutputSpec, SecretSource
from sandboxbuild.registry.routes import is_host

Number = TypeVar("Number", int, float)

OUTPUT_KINDS: Final = ("oci", "docker", "rootfs", "local", "tar", "registry", "image", "cacheonly")
ULIMITS: Final = frozenset(
    {
        *("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc"),
        *("rss", "rtprio", "rttime", "sigpending", "stack"),
    }
)
# buildx's attributes that name what happens here anyway, or that only its own stores know.
_QUIET_ATTRIBUTES: Final = frozenset(
    {
        "unpack",
        "store",
        "dangling-name-prefix",
        "name-canonical",
        "oci-mediatypes",
        "oci-artifact",
        "rewrite-timestamp",
        "force-compression",
    }
)


class ParsedOutput(NamedTuple):
    """An `--output` and what else it asks for: names for the image, and whether they are pushed."""

    spec: OutputSpec
    names: tuple[str, ...] = ()
    push: bool = False


def parse_output(text: str, *, is_directory: bool = False) -> ParsedOutput:
    """`type=oci,dest=x.tar`, or a path alone: a folder that gets the root filesystem, `-` for a tar of it.

    `is_directory` says whether the destination is a folder that exists, which an OCI layout then is written to.
    """
    if "=" not in text:
        return ParsedOutput(OutputSpec("rootfs", text, as_tar=text == "-"))
    fields = _fields(text, "--output")
    kind = fields.pop("type", "")
    if kind not in OUTPUT_KINDS:
        raise UsageError(f"--output type={kind or '(none)'} is not known", hint=f"one of {', '.join(OUTPUT_KINDS)}")
    destination = fields.pop("dest", "")
    names = tuple(name for name in fields.pop("name", "").split(",") if name)
    push = _boolean(fields.pop("push", "false"), "--output push=") or kind == "registry"
    tar_text = fields.pop("tar", "")
    _check_attributes(text, fields)
    if kind in ("registry", "image", "cacheonly"):
        if destination:
            raise UsageError(f"--output type={kind} takes no dest=", hint="type=oci or type=docker write a file")
        return ParsedOutput(OutputSpec("none" if kind == "cacheonly" else "image"), names, push)
    if not destination:
        raise UsageError(f"--output type={kind} needs dest=PATH, or dest=- for standard output")
    as_tar = _boolean(tar_text, "--output tar=") if tar_text else _is_tar_by_default(kind, destination, is_directory)
    if kind == "docker" and not as_tar:
        raise UsageError("--output type=docker is always an archive", hint="type=oci,tar=false writes a folder")
    if destination == "-" and not as_tar:
        raise UsageError("a folder can't be written to standard output")
    return ParsedOutput(OutputSpec({"local": "rootfs", "tar": "rootfs"}.get(kind, kind), destination, as_tar), names, push)


def output_destination(text: str) -> str:
    """The `dest` of an `--output`, for the caller to look at; "" where there is none."""
    return _fields(text, "--output").get("dest", "") if "=" in text else text


def _is_tar_by_default(kind: str, destination: str, is_directory: bool) -> bool:
    if kind == "local":
        return False
    if kind in ("docker", "tar") or destination == "-":
        return True
    if is_directory or destination.endswith("/"):
        return False
    return kind == "oci" or destination.endswith(".tar")


def _check_attributes(text: str, fields: Mapping[str, str]) -> None:
    unknown = fields.keys() - _QUIET_ATTRIBUTES
    if unknown:
        raise UsageError(f"--output {text}: {min(unknown)}= is not supported")


def parse_secret(text: str, environ: Mapping[str, str]) -> SecretSource:
    """`id=ID[,src=FILE][,env=NAME][,type=file|env]`; an id alone is a variable of that name if there is one, else a file.

    The value is not read here. Raises UsageError, which never repeats more than the id.
    """
    fields = _fields(text, "--secret")
    secret_id = fields.pop("id", "")
    path = fields.pop("src", "") or fields.pop("source", "")
    variable = fields.pop("env", "")
    kind = fields.pop("type", "")
    if not secret_id or fields or kind not in ("", "file", "env") or (path and variable):
        raise UsageError("--secret is not understood", hint="id=ID,src=FILE or id=ID,env=NAME")
    if kind == "env" and path:
        path, variable = "", path
    if not path and not variable:
        is_variable = kind == "env" or (not kind and secret_id in environ)
        path, variable = ("", secret_id) if is_variable else (secret_id, "")
    if variable and variable not in environ:
        raise UsageError(f"--secret id={secret_id}: its variable is not set")
    return SecretSource(secret_id, path, variable)


def parse_ssh(text: str) -> tuple[str, tuple[str, ...]]:
    """`default`, `ID=SOCKET` or `ID=KEY,KEY`; no path means the agent of SSH_AUTH_SOCK."""
    ssh_id, _, paths = text.partition("=")
    if not ssh_id:
        raise UsageError(f"--ssh {text!r} has no id", hint="default, or ID=PATH")
    return ssh_id, tuple(path for path in paths.split(",") if path)


def parse_pairs(texts: Iterable[str], flag: str) -> tuple[tuple[str, str], ...]:
    """NAME=VALUE each; the last of a name wins, in the place of the first."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"{flag} {text!r} is no NAME=VALUE")
        pairs[name] = value
    return tuple(pairs.items())


def parse_annotations(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """NAME=VALUE for the manifest; buildx's prefix `manifest:` says the same, its others are refused."""
    pairs = parse_pairs(texts, "--annotation")
    for name, _ in pairs:
        kind, colon, _ = name.partition(":")
        if colon and (kind in ("index", "manifest-descriptor", "index-descriptor") or kind.startswith(("manifest[", "index["))):
            raise UsageError(f"--annotation {name!r}: only a manifest is annotated", hint="leave the prefix out")
    return tuple((name.removeprefix("manifest:"), value) for name, value in pairs)


def parse_build_args(texts: Iterable[str], environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """NAME=VALUE, or NAME alone for the environment's value; one that the environment lacks is left out."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name:
            raise UsageError(f"--build-arg {text!r} has no name")
        if equals:
            pairs[name] = value
        elif name in environ:
            pairs[name] = environ[name]
    return tuple(pairs.items())


def parse_hosts(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """NAME:ADDRESS or NAME=ADDRESS; an IPv6 address may stand in brackets."""
    import ipaddress

    hosts: list[tuple[str, str]] = []
    for text in texts:
        separator = "=" if "=" in text else ":"
        name, _, address = text.partition(separator)
        address = address.removeprefix("[").removesuffix("]")
        try:
            hosts.append((name, str(ipaddress.ip_address(address))))
        except ValueError:
            raise UsageError(f"--add-host {text!r} has no address", hint="NAME:ADDRESS") from None
        if not name or not all(character.isalnum() or character in "-._" for character in name):
            raise UsageError(f"--add-host {text!r} has no host name")
    return tuple(hosts)


def parse_ulimits(texts: Iterable[str]) -> tuple[tuple[str, int, int], ...]:
    """NAME=SOFT[:HARD]; -1 is unlimited."""
    limits: list[tuple[str, int, int]] = []
    for text in texts:
        name, _, values = text.partition("=")
        soft, _, hard = values.partition(":")
        try:
            limit = (name, int(soft), int(hard or soft))
        except ValueError:
            raise UsageError(f"--ulimit {text!r} is not understood", hint="NAME=SOFT[:HARD]") from None
        if name not in ULIMITS or min(limit[1:]) < -1 or max(limit[1:]) >= 2**63:
            raise UsageError(f"--ulimit {text!r} names no limit", hint=f"one of {', '.join(sorted(ULIMITS))}")
        limits.append(limit)
    return tuple(limits)


def parse_realms(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """HOST=TOKENSERVER, both host or host:port; a registry may have several."""
    pairs: list[tuple[str, str]] = []
    for text in texts:
        registry, _, realm = text.partition("=")
        if not is_host(registry) or not is_host(realm):
            raise UsageError(f"--registry-auth-realm {text!r} is no HOST=HOST", hint="registry.example.com=auth.example.com")
        pairs.append((registry.lower(), realm.lower()))
    return tuple(dict.fromkeys(pairs))


def parse_client_certificates(texts: Iterable[str]) -> tuple[tuple[str, str, str], ...]:
    """HOST=CERTIFICATE,KEY: two files, as kaniko has it."""
    found: list[tuple[str, str, str]] = []
    for text in texts:
        host, _, paths = text.partition("=")
        certificate, _, key = paths.partition(",")
        if not is_host(host) or not certificate or not key:
            raise UsageError("--registry-client-cert is not understood", hint="registry.example.com=client.pem,key.pem")
        found.append((host.lower(), certificate, key))
    return tuple(found)


def parse_name_servers(texts: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """ADDRESS or ADDRESS:PORT; an IPv6 address with a port stands in brackets."""
    import ipaddress

    servers: list[tuple[str, int]] = []
    for text in texts:
        host, colon, port = text.rpartition(":")
        if not colon or (":" in host and not host.endswith("]")):
            host, port = text, "53"
        try:
            address = str(ipaddress.ip_address(host.removeprefix("[").removesuffix("]")))
        except ValueError:
            raise UsageError(f"--dns {text!r} is no address of a name server", hint="192.0.2.53 or [2001:db8::53]:53") from None
        if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise UsageError(f"--dns {text!r} has a port that doesn't exist")
        servers.append((address, int(port)))
    return tuple(dict.fromkeys(servers))


def parse_registry_maps(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """`a=b;c=d`, repeatable; a host may have several substitutes, asked in order."""
    pairs: list[tuple[str, str]] = []
    for text in texts:
        for part in filter(None, text.split(";")):
            host, equals, substitute = part.partition("=")
            if not host or not substitute or not equals:
                raise UsageError(f"--registry-map {part!r} is no HOST=HOST")
            pairs.append((host, substitute))
    return tuple(pairs)


def split_commas(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())


def _fields(text: str, flag: str) -> dict[str, str]:
    """CSV of key=value with unique keys, as buildx reads it; quotes may hold commas."""
    try:
        [row] = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as error:
        raise UsageError(f"{flag} is no comma-separated list of key=value") from error
    fields: dict[str, str] = {}
    for field in row:
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if not equals or key in fields:
            raise UsageError(f"{flag}: {key[:64]!r} is given twice" if equals else f"{flag}: {key[:64]!r} has no value")
        fields[key] = value.strip()
    return fields


def _boolean(text: str, place: str) -> bool:
    from sandboxbuild.cli.argv import FALSE_WORDS, TRUE_WORDS

    if text not in TRUE_WORDS | FALSE_WORDS:
        raise UsageError(f"{place} takes true or false, not {text!r}")
    return text in TRUE_WORDS


def measure(flag: str, text: str, parse: Callable[[str], Number]) -> Number:
    """A size or a duration of `units`. Raises UsageError that names the flag."""
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from error
