#!/bin/sh
# Sets up all that sandboxbuild needs on a fresh Debian 12 and builds the example image, with no registry: `examples/quickstart.sh`.
# The image is written to hello.oci.tar (or the file named by the first argument) as an OCI layout.
set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
output=${1:-hello.oci.tar}

if [ "$(id -u)" = 0 ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends python3 python3-venv ca-certificates uidmap libseccomp2 busybox-static >/dev/null
fi

venv=${SANDBOXBUILD_VENV:-$top/.venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet "$top"

context=$top/examples/hello
cp "$(command -v busybox)" "$context/busybox"

"$venv/bin/sandboxbuild" run -t hello:latest -o "type=oci,dest=$output" "$context"
echo "The image is in $output. In the store: $venv/bin/sandboxbuild images"
