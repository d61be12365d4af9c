"""What the command line itself lets the gateway fetch, whatever the policy's rules of names say. Pure."""

from __future__ import annotations

from sandboxbuild.gateway.config import FetchGrant
from sandboxbuild.launcher.settings import RegistrySettings
from sandboxbuild.registry.addresses import is_loopback_host


def local_grants(registries: RegistrySettings) -> tuple[FetchGrant, ...]:
    """Registries on loopback that the command line names may be fetched from, too: ADD http://127.0.0.1:5000/file."""
    named = (*registries.insecure_hosts, *registries.mirrors, *(substitute for _, substitute in registries.maps))
    hosts = dict.fromkeys(host.partition("/")[0] for host in named)
    local = [host for host in hosts if is_loopback_host(_without_port(host))]
    return tuple(FetchGrant(f"{scheme}://{host}/") for host in local for scheme in ("http", "https"))


def _without_port(host: str) -> str:
    return host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
