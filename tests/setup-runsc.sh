#!/bin/sh
# Installs gVisor's runsc from Debian's backports (as root): Debian 12's own package is of 2022-12 and too old for
# `--profile gvisor`. The mirror is the one that apt already uses here; the suite gets a file of its own.
set -eu

codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
target=/etc/apt/sources.list.d/sandboxbuild-backports.sources

if ! apt-get indextargets --format '$(RELEASE)' | grep -qx "$codename-backports"; then
    # The archive that serves the release itself also serves its backports.
    uri=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' | sed -n "s/ $codename\$//p" | head -n 1)
    if [ -z "$uri" ]; then
        echo "setup-runsc: apt has no source for $codename to take the mirror from" >&2
        exit 1
    fi
    cat >"$target" <<SOURCE
Types: deb
URIs: $uri
Suites: $codename-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCE
    apt-get update -qq
fi
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -t "$codename-backports" runsc >/dev/null
runsc --version
