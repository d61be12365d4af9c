"""Builds as users have them: learned under the strict filter, then built, pushed, pulled and run in each profile."""

from __future__ import annotations

import json
import os
import re
import shutil
import tomllib
from pathlib import Path
from typing import NamedTuple

from sandboxbuild.policy.library import packaged_folder
from tests.support.builder import Builder, run_tool

PROFILES = ("plain", "gvisor")
EPOCH = "1700000000"
TIMEOUT_S = 600


class Recipe(NamedTuple):
    """A Dockerfile ({base} stands for Debian), its context, and the named images of OCI layouts that it builds on."""

    name: str
    dockerfile: str
    files: dict[str, str | bytes]
    layouts: tuple[tuple[str, Path], ...] = ()


class RealBuilds:
    """One store and one registry for all recipes of a module; what a recipe came to is remembered."""

    def __init__(self, builder: Builder, registry: str) -> None:
        self.builder = builder
        self.registry = registry
        self._learned: dict[str, Path] = {}
        self._digests: dict[tuple[str, str], str] = {}
        self._printed: dict[str, str] = {}

    def learned(self, recipe: Recipe) -> Path:
        """A policy learned under the profile hardened's: strict filter, limits, and no name that isn't learned."""
        if recipe.name not in self._learned:
            target = self.builder.folder / f"{recipe.name}.toml"
            policy = self.builder.folder / "hardened.toml"
            policy.write_text(_hardened_policy())
            self._run(recipe, "--policy-file", policy, "--learn", target, "-t", self._reference(recipe, "learned"))
            learned = tomllib.loads(target.read_text())
            assert (learned["syscalls"], learned["limits"]["memory"]) == ({"profile": "strict"}, "8GiB")
            self._learned[recipe.name] = target
        return self._learned[recipe.name]

    def digest(self, recipe: Recipe, profile: str) -> str:
        """Of the image that `profile` builds under the learned policy, and pushes."""
        if (recipe.name, profile) not in self._digests:
            metadata = self.builder.folder / f"{recipe.name}-{profile}.json"
            reference = self._reference(recipe, profile)
            policy = ("--profile", profile, "--policy-file", self.learned(recipe))
            self._run(recipe, *policy, "--no-cache", "--metadata-file", metadata, "-t", reference, "--push")
            self.builder.check_nothing_is_left()
            self._digests[recipe.name, profile] = json.loads(metadata.read_text())["containerimage.digest"]
        return self._digests[recipe.name, profile]

    def printed(self, recipe: Recipe, profile: str) -> str:
        """What the image prints that `profile` built; the same image is run once."""
        digest = self.digest(recipe, profile)
        if digest not in self._printed:
            self._printed[digest] = self._run_image(self._reference(recipe, profile), digest)
        return self._printed[digest]

    def _run_image(self, reference: str, digest: str) -> str:
        """skopeo pulls it, umoci unpacks it, and runc runs its command."""
        described = json.loads(run_tool("skopeo", "inspect", "--tls-verify=false", f"docker://{reference}"))
        assert (described["Architecture"], described["Digest"]) == ("amd64", digest)
        layout = self.builder.folder / f"{digest[7:19]}-pulled"
        copy = ("skopeo", "copy", "--src-tls-verify=false", f"docker://{reference}", f"oci:{layout}:latest")
        run_tool(*copy, timeout_s=TIMEOUT_S)
        return _run_in_runc(layout, self.builder.folder / f"{digest[7:19]}-bundle")

    def refused(self, recipe: Recipe, step: str) -> str:
        """The log of a build under the learned policy with one more `step`, which fails."""
        context = self._context(recipe, f"{recipe.dockerfile}{step}\n")
        options = ("--source-date-epoch", EPOCH, *_contexts(recipe))
        return self.builder.fail(1, "--policy-file", self.learned(recipe), *options, context, timeout_s=TIMEOUT_S).log

    def _run(self, recipe: Recipe, *arguments: str | Path) -> None:
        context = self._context(recipe, recipe.dockerfile)
        self.builder.run("--source-date-epoch", EPOCH, *_contexts(recipe), *arguments, context, timeout_s=TIMEOUT_S)

    def _context(self, recipe: Recipe, dockerfile: str) -> Path:
        text = dockerfile.replace("{base}", f"{self.registry}/debian:12")
        return self.builder.context({"Dockerfile": text, **recipe.files}, recipe.name)

    def _reference(self, recipe: Recipe, profile: str) -> str:
        return f"{self.registry}/team/{recipe.name}:{profile}"


def _hardened_policy() -> str:
    """The profile hardened's policy with the ranges of the profile plain, in which a test machine's mirrors may be."""
    folder = Path(packaged_folder()) / "profiles"
    ranges = tomllib.loads((folder / "plain.toml").read_text())["network"]["ranges"]
    _, network, rest = (folder / "hardened.toml").read_text().partition("[network.limits.step]")
    assert network
    return f"[network]\nranges = {json.dumps(ranges)}\n{network}{rest}"


def _contexts(recipe: Recipe) -> list[str]:
    return [word for name, folder in recipe.layouts for word in ("--build-context", f"{name}=oci-layout://{folder}")]


def _run_in_runc(layout: Path, bundle: Path) -> str:
    """Unpack with umoci and run the image's own command with runc."""
    run_tool("umoci", "unpack", "--image", f"{layout}:latest", bundle, timeout_s=TIMEOUT_S)
    spec_file = bundle / "config.json"
    spec = json.loads(spec_file.read_text())
    spec["process"]["terminal"] = False
    spec["linux"].pop("resources", None)
    spec["linux"]["namespaces"] = [item for item in spec["linux"]["namespaces"] if item["type"] != "cgroup"]
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["type"] != "cgroup"]
    spec_file.write_text(json.dumps(spec))
    name = f"sandboxbuild-test-{os.getpid()}-{bundle.name}"
    try:
        return run_tool("runc", "run", "--bundle", bundle, name)
    finally:
        shutil.rmtree(bundle, ignore_errors=True)
        shutil.rmtree(layout, ignore_errors=True)


def certificates() -> bytes:
    """The authorities that this machine trusts: what lies between it and its mirrors may have one of its own."""
    return Path("/etc/ssl/certs/ca-certificates.crt").read_bytes()


def npm_settings() -> str:
    """An .npmrc with the registry that this machine's npm is told to use; empty where it is told none."""
    files = (Path.home() / ".npmrc", Path("/etc/npmrc"), Path("/usr/etc/npmrc"))
    named = next((os.environ[name] for name in os.environ if name.lower() == "npm_config_registry"), "")
    return f"registry={named}\n" if named else _first_lines(files, r"registry\s*=")


def cargo_settings() -> str:
    """A config.toml with this machine's sources of crates, less any token."""
    folder = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    return "\n".join(line for line in _text(folder / "config.toml").splitlines() if "token" not in line) + "\n"


def go_settings() -> str:
    """Go's env file with this machine's proxy of modules and database of checksums."""
    names = ("GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE")
    told = "".join(f"{name}={os.environ[name]}\n" for name in names if name in os.environ)
    return told or _first_lines((Path.home() / ".config/go/env",), f"(?:{'|'.join(names)})=")


def _first_lines(files: tuple[Path, ...], start: str) -> str:
    """The lines of the first file that has some which begin so."""
    found = ([line for line in _text(file).splitlines() if re.match(start, line)] for file in files)
    return "".join(f"{line}\n" for line in next(filter(None, found), []))


def _text(file: Path) -> str:
    return file.read_text() if file.is_file() else ""
