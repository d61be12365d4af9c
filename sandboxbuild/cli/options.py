"""The flags of `run`, one row each: from this table come the click options, the variables SANDBOXBUILD_<FLAG> and docs/cli.md.

Pure data; click is not imported here, so that the argv pre-pass and the tests can read it alone.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class Kind(StrEnum):
    """What a flag takes: a switch binds a value only by `=`, a list may be repeated."""

    SWITCH = "switch"
    OPTIONAL = "optional"  # like a switch, but other words than booleans are allowed after `=`
    TEXT = "text"
    LIST = "list"
    INTEGER = "integer"


class Flag(NamedTuple):
    """One flag. `name` has its dashes; `aliases` are other spellings of the same, `negations` spellings of its opposite.

    `commas` says that a list's value is split at commas. `default` is shown in the help and has no other meaning.
    """

    name: str
    kind: Kind
    help: str
    metavar: str = ""
    short: str = ""
    aliases: tuple[str, ...] = ()
    negations: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    group: str = "Build"
    hidden: bool = False
    commas: bool = False
    default: str = ""

    @property
    def variable(self) -> str:
        return "SANDBOXBUILD_" + self.name.lstrip("-").replace("-", "_").upper()

    @property
    def parameter(self) -> str:
        """The keyword under which click hands over the value."""
        return self.name.lstrip("-").replace("-", "_")


SWITCH, OPTIONAL, TEXT, LIST, INTEGER = Kind.SWITCH, Kind.OPTIONAL, Kind.TEXT, Kind.LIST, Kind.INTEGER

PROGRESS: Final = ("auto", "plain", "tty", "rawjson", "quiet", "none")
COMPRESSIONS: Final = ("gzip", "zstd", "uncompressed")

BUILD_FLAGS: Final = (
    Flag("--context", TEXT, "The build context, where no PATH is given", "PATH|URL|tar://FILE|-", default="."),
    Flag("--context-sub-path", TEXT, "Use this folder of the context as the context", "PATH"),
    Flag(
        "--file",
        TEXT,
        "The Dockerfile, looked up as given and then in the context; - reads standard input",
        "PATH",
        short="-f",
        aliases=("--dockerfile",),
        default="PATH/Dockerfile",
    ),
    Flag("--target", TEXT, "Build this stage, by name or number", "STAGE"),
    Flag("--build-arg", LIST, "Value of an ARG; a name alone takes the environment's value", "NAME[=VALUE]"),
    Flag(
        "--build-context",
        LIST,
        "A further context for FROM, COPY --from and mounts",
        "NAME=PATH|URL|docker-image://REF|oci-layout://DIR",
    ),
    Flag("--label", LIST, "Label of the image", "NAME=VALUE"),
    Flag("--annotation", LIST, "Annotation of the manifest", "NAME=VALUE"),
    Flag(
        "--platform",
        LIST,
        "Platform to build for; repeat or separate by commas for several",
        "OS/ARCH[/VARIANT]",
        aliases=("--custom-platform", "--customPlatform"),
        commas=True,
    ),
    Flag("--no-cache", SWITCH, "Run every step again", negations=("--cache",)),
    Flag("--pull", OPTIONAL, "Ask the registry for newer base images", "[=always|missing]"),
    Flag("--secret", LIST, "A secret for RUN --mount=type=secret", "id=ID[,src=FILE|,env=NAME]"),
    Flag("--ssh", LIST, "An agent or keys for RUN --mount=type=ssh", "ID[=SOCKET|KEY,...]"),
    Flag("--add-host", LIST, "A name and address in every step's /etc/hosts", "NAME:ADDRESS", commas=True),
    Flag("--shm-size", TEXT, "Size of a step's /dev/shm", "SIZE", default="64m"),
    Flag("--ulimit", LIST, "A limit of every step's processes", "NAME=SOFT[:HARD]"),
    Flag("--network", TEXT, "Network of RUN: default, none or host", "MODE", aliases=("--net",), default="default"),
    Flag("--jobs", INTEGER, "Steps that may run at the same time", "N"),
    Flag("--timeout", TEXT, "End the build after this time", "DURATION"),
    Flag(
        "--source-date-epoch", TEXT, "Time of everything that the build makes, in seconds", "SECONDS", aliases=("--timestamp",)
    ),
    Flag("--reproducible", SWITCH, "The same as --source-date-epoch=0, unless a time is given"),
)

ISOLATION_FLAGS: Final = (
    Flag("--profile", TEXT, "What isolates the build", "NAME", group="Isolation", default="plain"),
    Flag("--policy-file", TEXT, "What the build may do, in place of the profile's own policy", "FILE", group="Isolation"),
    Flag("--allow-host", LIST, "A host that steps may reach beside the policy's", "NAME[:PORT]", group="Isolation"),
    Flag(
        "--audit-log",
        TEXT,
        "Add each connection, refusal, pull and push to this file, as JSON lines",
        "FILE",
        group="Isolation",
    ),
    Flag(
        "--learn",
        TEXT,
        "Let the build reach what it asks for, and write the policy that allows just that",
        "FILE",
        group="Isolation",
    ),
    Flag("--store", TEXT, "Folder of the image store", "PATH", group="Isolation"),
    Flag("--uplink", TEXT, "unix or tcp", choices=("unix", "tcp"), group="Isolation", hidden=True),
    Flag("--snapshotter", TEXT, "auto, overlay or walk", choices=("auto", "overlay", "walk"), group="Isolation", hidden=True),
)

OUTPUT_FLAGS: Final = (
    Flag("--tag", LIST, "Name of the image", "NAME[:TAG]", short="-t", group="Output"),
    Flag("--destination", LIST, "Name of the image, and push it there", "NAME[:TAG]", short="-d", group="Output"),
    Flag("--push", SWITCH, "Push every name; --no-push pushes none", negations=("--no-push",), group="Output"),
    Flag(
        "--output",
        LIST,
        "Write the image: type=oci|docker|rootfs|local|tar|registry|image,dest=PATH|-,name=...",
        "SPEC",
        short="-o",
        group="Output",
    ),
    Flag("--tar-path", TEXT, "The same as -o type=docker,dest=PATH", "PATH", aliases=("--tarPath",), group="Output"),
    Flag("--oci-layout-path", TEXT, "The same as -o type=oci,tar=false,dest=PATH", "PATH", group="Output"),
    Flag("--compression", TEXT, "Compression of new layers", choices=COMPRESSIONS, group="Output", default="gzip"),
    Flag("--format", TEXT, "Media types of the image", choices=("oci", "docker"), aliases=("--image-format",), group="Output"),
    Flag("--iidfile", TEXT, "Write the image's id here", "FILE", group="Output"),
    Flag("--metadata-file", TEXT, "Write what was built here, as JSON", "FILE", group="Output"),
    Flag("--digest-file", TEXT, "Write the manifest's digest here, without a newline", "FILE", group="Output"),
    Flag("--image-name-with-digest-file", TEXT, "Write NAME@DIGEST of each name here", "FILE", group="Output"),
    Flag("--image-name-tag-with-digest-file", TEXT, "Write NAME:TAG@DIGEST of each name here", "FILE", group="Output"),
    Flag("--progress", TEXT, "How progress is shown", choices=PROGRESS, group="Output", default="auto"),
    Flag("--quiet", SWITCH, "Print the image's id and nothing else", short="-q", group="Output"),
)

REGISTRY_FLAGS: Final = (
    Flag("--registry-mirror", LIST, "Host to ask for images of docker.io first", "HOST", group="Registries"),
    Flag("--registry-map", LIST, "Hosts to ask instead: a=b;c=d", "HOST=HOST[;...]", group="Registries"),
    Flag(
        "--skip-default-registry-fallback",
        SWITCH,
        "Fail where mirrors and maps fail, without asking the named registry",
        group="Registries",
    ),
    Flag("--insecure", SWITCH, "Allow plain http to the registries of pushes", group="Registries"),
    Flag("--insecure-pull", SWITCH, "Allow plain http to the registries of pulls", group="Registries"),
    Flag("--insecure-registry", LIST, "Allow plain http to this registry", "HOST", group="Registries"),
    Flag("--skip-tls-verify", SWITCH, "Don't verify certificates of the registries of pushes", group="Registries"),
    Flag("--skip-tls-verify-pull", SWITCH, "Don't verify certificates of the registries of pulls", group="Registries"),
    Flag("--skip-tls-verify-registry", LIST, "Don't verify the certificate of this registry", "HOST", group="Registries"),
    Flag("--tls-verify", SWITCH, "Verify certificates; --tls-verify=false for no registry", group="Registries", hidden=True),
    Flag("--authfile", TEXT, "Credentials, in the form of Docker's config.json", "FILE", group="Registries"),
    Flag("--registry-certificate", LIST, "Certificate authorities for a registry", "HOST=FILE", group="Registries"),
    Flag("--registry-client-cert", LIST, "Our certificate and key for a registry", "HOST=FILE,FILE", group="Registries"),
    Flag(
        "--registry-auth-realm",
        LIST,
        "Let a registry send to this token server with its credential",
        "HOST=TOKENSERVER",
        group="Registries",
    ),
    Flag(
        "--registry-timeout",
        TEXT,
        "Give up on a registry, or a host that is fetched from, which says nothing for so long",
        "DURATION",
        group="Registries",
        default="60s",
    ),
    Flag(
        "--dns",
        LIST,
        "Look names up here and not as the host does: registries, and what steps reach",
        "ADDRESS[:PORT]",
        group="Registries",
    ),
)

RUN_FLAGS: Final = BUILD_FLAGS + ISOLATION_FLAGS + OUTPUT_FLAGS + REGISTRY_FLAGS


class IgnoredFlag(NamedTuple):
    """A flag of another builder that changes nothing here: accepted, and named in one notice."""

    name: str
    kind: Kind = TEXT
    aliases: tuple[str, ...] = ()
    short: str = ""


class RefusedFlag(NamedTuple):
    """A flag of another builder that would change the result: refused by name, with what to do instead."""

    name: str
    hint: str
    kind: Kind = TEXT
    short: str = ""


IGNORED_FLAGS: Final = (
    IgnoredFlag("--builder"),
    IgnoredFlag("--load", SWITCH),
    IgnoredFlag("--compress", SWITCH),
    IgnoredFlag("--isolation"),
    IgnoredFlag("--security-opt", LIST),
    IgnoredFlag("--rm", SWITCH),
    IgnoredFlag("--force-rm", SWITCH),
    IgnoredFlag("--frontend"),
    IgnoredFlag("--disable-content-trust", SWITCH),
    IgnoredFlag("--http-proxy", SWITCH),
    IgnoredFlag("--layers", SWITCH),
    IgnoredFlag("--cleanup", SWITCH),
    IgnoredFlag("--pre-cleanup", SWITCH),
    IgnoredFlag("--force", SWITCH),
    IgnoredFlag("--snapshot-mode", aliases=("--snapshotMode",)),
    IgnoredFlag("--use-new-run", SWITCH),
    IgnoredFlag("--ignore-var-run", SWITCH, aliases=("--whitelist-var-run",)),
    IgnoredFlag("--kaniko-dir"),
    IgnoredFlag("--skip-unused-stages", SWITCH),
    IgnoredFlag("--force-build-metadata", SWITCH),
    IgnoredFlag("--cache-copy-layers", SWITCH),
    IgnoredFlag("--cache-run-layers", SWITCH),
    IgnoredFlag("--cache-dir"),
    IgnoredFlag("--cache-ttl"),
    IgnoredFlag("--compressed-caching", SWITCH),
    IgnoredFlag("--no-push-cache", SWITCH),
    IgnoredFlag("--skip-push-permission-check", SWITCH),
    IgnoredFlag("--push-retry", INTEGER),
    IgnoredFlag("--image-download-retry", INTEGER),
    IgnoredFlag("--image-fs-extract-retry", INTEGER),
    IgnoredFlag("--retry", INTEGER),
    IgnoredFlag("--retry-delay"),
    IgnoredFlag("--compression-level", INTEGER),
    IgnoredFlag("--force-compression", SWITCH),
    IgnoredFlag("--rewrite-timestamp", SWITCH),
    IgnoredFlag("--verbosity", short="-v"),
    IgnoredFlag("--log-format"),
    IgnoredFlag("--log-timestamp", SWITCH),
)

_NO_MOUNTS: Final = "use --build-context and RUN --mount=type=bind, which can't reach the rest of the host"
_NOT_YET: Final = "leave it out: this version keeps its cache in the local store only"

REFUSED_FLAGS: Final = (
    RefusedFlag("--volume", _NO_MOUNTS, LIST),
    RefusedFlag("--mount", _NO_MOUNTS, LIST),
    RefusedFlag("--hooks-dir", "nothing runs on the host for a build", LIST),
    RefusedFlag("--cpp-flag", "preprocess the Dockerfile before the build", LIST),
    RefusedFlag("--cw", "confidential workloads aren't built here"),
    RefusedFlag("--decryption-key", "encrypted layers aren't read here", LIST),
    RefusedFlag("--env", "write ENV into the Dockerfile, or use --build-arg", LIST),
    RefusedFlag("--unsetenv", "there is no way to take ENV out of a base image", LIST),
    RefusedFlag("--group-add", "write USER into the Dockerfile", LIST),
    RefusedFlag("--compat-volumes", "volumes behave as in docker build", SWITCH),
    RefusedFlag("--save-stages", "use --target, once for each stage", SWITCH),
    RefusedFlag("--print", "use sandboxbuild plan"),
    RefusedFlag("--call", "use sandboxbuild plan"),
    RefusedFlag("--check", "use sandboxbuild plan", SWITCH),
    RefusedFlag("--policy", "a source policy of buildx is not read; sandboxbuild has profiles", LIST),
    RefusedFlag("--device", "a step gets no devices", LIST),
    RefusedFlag("--cap-add", "capabilities of steps come from the profile", LIST),
    RefusedFlag("--cap-drop", "capabilities of steps come from the profile", LIST),
    RefusedFlag("--allow", "entitlements are granted by a profile, not by a flag", LIST),
    RefusedFlag("--squash", "one layer over the base is not made yet; leave it out", SWITCH),
    RefusedFlag("--single-snapshot", "one layer over the base is not made yet; leave it out", SWITCH),
    RefusedFlag("--cache-from", _NOT_YET, LIST),
    RefusedFlag("--cache-to", _NOT_YET, LIST),
    RefusedFlag("--cache-repo", _NOT_YET),
    RefusedFlag("--no-cache-filter", "use --no-cache", LIST),
    RefusedFlag("--attest", "attestations are not made yet", LIST),
    RefusedFlag("--cgroup-parent", "limits of steps come from the profile"),
    RefusedFlag("--resource", "limits of steps come from the profile", LIST),
    RefusedFlag("--memory", "limits of steps come from the profile"),
    RefusedFlag("--ignore-path", "nothing is left out of a snapshot by its path; use RUN --mount=type=tmpfs", LIST),
    RefusedFlag("--bucket", "write the scheme into --context: gs://BUCKET/PATH"),
    RefusedFlag("--creds", "a password in an argument is seen by everybody; use --authfile or DOCKER_CONFIG"),
    RefusedFlag("--cert-dir", "use --registry-certificate HOST=FILE"),
    RefusedFlag("--omit-history", "history is always written", SWITCH),
    RefusedFlag("--git", "write the reference into the context's URL: URL#REF:FOLDER", LIST),
    RefusedFlag("--debug-json-cache-metrics", "there is no such report here"),
)

# Refused only where they ask for something: `--provenance=false` and `--sbom=false` are what happens anyway.
FALSE_ONLY_FLAGS: Final = (
    RefusedFlag("--provenance", "attestations are not made yet; --provenance=false is accepted", OPTIONAL),
    RefusedFlag("--sbom", "attestations are not made yet; --sbom=false is accepted", OPTIONAL),
)
