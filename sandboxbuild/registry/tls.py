"""Which authorities vouch for which registry: the system's, the operator's, and those of Docker's certs.d folders."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import Final, NamedTuple

from sandboxbuild.errors import RegistryError

# Docker engine and containers/image: HOST[:PORT]/*.crt are authorities, *.cert with *.key a client certificate.
CERTIFICATE_FOLDERS: Final = ("/etc/docker/certs.d", "/etc/containers/certs.d")


class TlsSettings(NamedTuple):
    """`bundle`, a file or a folder, replaces the system's authorities; `authorities` are added for all hosts,
    `host_authorities` for one each.

    `client_certificates` are (certificate file, key file) for one host each. `unverified` hosts are not verified at all.
    """

    bundle: str = ""
    authorities: tuple[str, ...] = ()
    host_authorities: Mapping[str, tuple[str, ...]] = {}
    client_certificates: Mapping[str, tuple[str, str]] = {}
    folders: tuple[str, ...] = CERTIFICATE_FOLDERS
    unverified: frozenset[str] = frozenset()


class HostTrust(NamedTuple):
    """What is special about one host; two hosts with the same may share connections' settings."""

    authorities: tuple[str, ...] = ()
    certificates: tuple[tuple[str, str], ...] = ()
    unverified: bool = False


def trust_of(settings: TlsSettings, host: str) -> HostTrust:
    """What `host` ("registry.example.com:5000") has of its own."""
    authorities = list(settings.host_authorities.get(host, ()))
    certificates = [settings.client_certificates[host]] if host in settings.client_certificates else []
    for folder in settings.folders:
        for name in _names(os.path.join(folder, host)):
            path = os.path.join(folder, host, name)
            if name.endswith(".crt"):
                authorities.append(path)
            elif name.endswith(".cert"):
                certificates.append((path, path.removesuffix(".cert") + ".key"))
    return HostTrust(tuple(authorities), tuple(certificates), host in settings.unverified)


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def context_for(settings: TlsSettings, trust: HostTrust) -> ssl.SSLContext:
    """A client's context, TLS 1.2 at least. Raises RegistryError that names the file which can't be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not settings.bundle:
        _check_variable()
        context.load_default_certs()
    for path in (*([settings.bundle] if settings.bundle else ()), *settings.authorities, *trust.authorities):
        try:
            context.load_verify_locations(**{"capath" if os.path.isdir(path) else "cafile": path})
        except (OSError, ssl.SSLError) as error:
            raise RegistryError(f"the certificate file {path} can't be used: {error}") from error
    for certificate, key in trust.certificates:
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise RegistryError(f"the client certificate {certificate} can't be used: {error}") from error
    if trust.unverified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _check_variable() -> None:
    """OpenSSL passes over a file of SSL_CERT_FILE that it can't read, and then trusts nobody without saying why."""
    path = os.environ.get("SSL_CERT_FILE", "")
    if path and not os.access(path, os.R_OK):
        raise RegistryError(f"SSL_CERT_FILE names {path}, which can't be read")
