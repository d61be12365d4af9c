"""The push of an image that is in the store already: through a gateway of its own, where the credentials are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from sandboxbuild.exporters.registry import push as push_image
from sandboxbuild.gateway.process import Gateway
from sandboxbuild.launcher.gatewayconfig import gateway_config
from sandboxbuild.launcher.settings import BuildSettings, RegistrySettings
from sandboxbuild.launcher.uplinkfolder import uplink_folder
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.oci.reference import parse_reference
from sandboxbuild.registry.push import Destination, Pushed
from sandboxbuild.registry.repository import Repository
from sandboxbuild.registry.uplink import Uplink, UplinkAddress, UplinkTransport
from sandboxbuild.store import Store

Progress = Callable[[str, int, int], object]


def push_stored(
    store: Store,
    image: Descriptor,
    names: Sequence[str],
    registries: RegistrySettings,
    environ: Mapping[str, str],
    on_progress: Progress,
) -> tuple[Pushed, ...]:
    """Push `image` under the full references `names`. `on_progress` is called from several threads. Raises RegistryError."""
    with uplink_folder(os.geteuid(), os.getegid()) as folder:
        settings = BuildSettings(registries=registries)
        config = gateway_config(settings, build_id=f"push-{os.getpid()}", pulls=(), pushes=names, environ=environ)
        with Gateway.start(config._replace(socket_path=f"{folder}/socket", peer_uids=(os.geteuid(),))):
            uplink = Uplink(UplinkAddress(f"{folder}/socket"))
            try:
                return push_image(store, image, destinations(UplinkTransport(uplink), names), on_progress)
            finally:
                uplink.close()


def destinations(transport: UplinkTransport, names: Sequence[str]) -> tuple[Destination, ...]:
    """One for each repository, with all its tags."""
    tags: dict[tuple[str, str], list[str]] = {}
    for reference in map(parse_reference, names):
        tags.setdefault((reference.registry, reference.repository), []).append(reference.tag)
    return tuple(Destination(Repository(transport, *key), tuple(filter(None, found))) for key, found in tags.items())
