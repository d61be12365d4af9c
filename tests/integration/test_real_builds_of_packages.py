"""npm, cargo and go with packages of their registries, strictly filtered, under a learned policy; one digest in all profiles.

The hosts are those of this machine's own configuration, or what the tools have built in.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.registry_fixtures import running_registry
from tests.support.builder import Builder
from tests.support.profiles import runtime_or_skip
from tests.support.realbuilds import PROFILES, RealBuilds, Recipe, cargo_settings, certificates, go_settings, npm_settings
from tests.support.toolchains import GO, NODE, RUST, Toolchain, toolchain_layout

pytestmark = [pytest.mark.root, pytest.mark.timeout(1800)]

# esbuild's package is made of lifecycle scripts, and of a program for this platform that an optional dependency brings.
NPM = """
FROM node AS bundle
COPY certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY settings /root/.npmrc
ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
WORKDIR /app
COPY package.json app.js ./
RUN npm install --no-audit --no-fund
RUN npm run bundle

FROM node
COPY --from=bundle /app/out.js /app.js
CMD ["node", "/app.js"]
"""
PACKAGE = """{
  "name": "app", "version": "1.0.0", "private": true,
  "scripts": {"bundle": "esbuild app.js --bundle --platform=node --outfile=out.js"},
  "dependencies": {"ms": "2.1.3", "semver": "7.6.3"},
  "devDependencies": {"esbuild": "0.21.5"}
}
"""
SCRIPT = """const semver = require("semver"), ms = require("ms");
console.log("semver", semver.inc("1.2.3", "minor"), ms("2 days"));
"""

CARGO = """
FROM rust AS build
COPY certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY settings /root/.cargo/config.toml
ENV RUSTFLAGS="-C target-feature=+crt-static"
WORKDIR /app
COPY Cargo.toml ./
COPY main.rs src/main.rs
RUN cargo build --release

FROM scratch
COPY --from=build /app/target/release/app /app
ENTRYPOINT ["/app"]
"""
CRATE = """[package]
name = "app"
version = "1.0.0"
edition = "2021"
[dependencies]
itoa = "=1.0.11"
libc = "=0.2.155"
"""
MAIN_RS = """fn main() {
    let mut buffer = itoa::Buffer::new();
    println!("itoa {} {}", buffer.format(42u32), unsafe { libc::getpid() > 0 });
}
"""

GO_MODULE = """
FROM go AS build
COPY certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY settings /root/.config/go/env
WORKDIR /app
COPY go.mod main.go ./
ENV CGO_ENABLED=0 GOFLAGS=-mod=mod
RUN go build -trimpath -o /out/app .

FROM scratch
COPY --from=build /out/app /app
ENTRYPOINT ["/app"]
"""
MODULE = """module example.com/app

go 1.19

require rsc.io/quote v1.5.2
"""
MAIN_GO = """package main

import (
	"fmt"

	"rsc.io/quote"
)

func main() { fmt.Println("quote:", quote.Go()) }
"""

PRINTED = {
    "npm": "semver 1.3.0 172800000",
    "cargo": "itoa 42 true",
    "go": "quote: Don't communicate by sharing memory, share memory by communicating.",
}


def recipe(name: str) -> Recipe:
    match name:
        case "npm":
            files = {"settings": npm_settings(), "package.json": PACKAGE, "app.js": SCRIPT}
            return made("npm", NPM, files, NODE)
        case "cargo":
            files = {"settings": cargo_settings(), "Cargo.toml": CRATE, "main.rs": MAIN_RS}
            return made("cargo", CARGO, files, RUST)
        case _:
            return made("go", GO_MODULE, {"settings": go_settings(), "go.mod": MODULE, "main.go": MAIN_GO}, GO)


def made(name: str, dockerfile: str, files: dict[str, str], toolchain: Toolchain) -> Recipe:
    layouts = ((toolchain.name, toolchain_layout(toolchain)),)
    return Recipe(name, dockerfile, {**files, "certificates.crt": certificates()}, layouts)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealBuilds]:
    """An empty registry, and one store for all recipes."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "registry").mkdir()
    builder = Builder(folder)
    with running_registry(folder / "registry") as registry:
        yield RealBuilds(builder, registry.host)
    builder.remove_store()


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", PRINTED)
def test_program_of_others_packages_runs_and_is_the_same_in_all_profiles(real: RealBuilds, name: str, profile: str) -> None:
    runtime_or_skip({"plain": "namespaces", "gvisor": "runsc"}[profile])
    assert real.printed(recipe(name), profile).strip() == PRINTED[name]
    assert real.digest(recipe(name), profile) == real.digest(recipe(name), "plain")
