"""What click hands over, as BuildSettings: defaults, combinations, contradictions. Pure but for a look at folders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from sandboxbuild.cli import arguments
from sandboxbuild.errors import UsageError
from sandboxbuild.launcher.settings import BuildSettings, OutputSpec, RegistrySettings, ReportFiles, SecretSource
from sandboxbuild.units import parse_duration, parse_size

REGISTRY_TIMEOUT_LIMIT_S = 3600
PULL_WORDS = {"": False, "true": True, "false": False, "always": True, "newer": True, "missing": False}


def build_settings(path: str | None, values: Mapping[str, Any], environ: Mapping[str, str]) -> BuildSettings:
    """`values` are click's, by the parameter names of RUN_FLAGS. Raises UsageError."""
    outputs = [output_spec(text) for text in values["output"]]
    for flag, kind, as_tar in (("tar_path", "docker", True), ("oci_layout_path", "oci", False)):
        if values[flag]:
            outputs.append(arguments.ParsedOutput(OutputSpec(kind, values[flag], as_tar)))
    output_pushes = tuple(name for output in outputs if output.push for name in output.names)
    output_tags = tuple(name for output in outputs if not output.push for name in output.names)
    push = values["push"]
    destinations = (*values["destination"], *output_pushes)
    if any(output.push and not output.names for output in outputs):
        push = True if push is None else push
    named = (*values["tag"], *output_tags)
    if push and not named and not destinations:
        raise UsageError("--push needs a name for the image", hint="-t REGISTRY/REPOSITORY:TAG")
    return BuildSettings(
        context=_context(path, values["context"]),
        context_subpath=values["context_sub_path"] or "",
        dockerfile=values["file"] or "",
        target=values["target"] or "",
        build_args=arguments.parse_build_args(values["build_arg"], environ),
        named_contexts=arguments.parse_pairs(values["build_context"], "--build-context"),
        labels=arguments.parse_pairs(values["label"], "--label"),
        annotations=arguments.parse_annotations(values["annotation"]),
        platforms=_platforms(values["platform"], environ),
        no_cache=bool(values["no_cache"]),
        pull=_pull(values["pull"]),
        tags=named if push is not False else (*named, *destinations),
        pushes=destinations if push is not False else (),
        push_tags=bool(push),
        outputs=tuple(output.spec for output in outputs if output.spec.kind in ("oci", "docker", "rootfs")),
        secrets=tuple(_secret(text, environ) for text in values["secret"]),
        ssh=tuple(arguments.parse_ssh(text) for text in values["ssh"]),
        add_hosts=arguments.parse_hosts(arguments.split_commas(values["add_host"])),
        shm_size_bytes=arguments.measure("--shm-size", values["shm_size"] or "64m", parse_size),
        ulimits=arguments.parse_ulimits(values["ulimit"]),
        network=_network(values["network"]),
        source_date_epoch=_epoch(values, environ),
        compression=values["compression"] or "gzip",
        image_format=values["format"] or "oci",
        jobs=values["jobs"] or 0,
        timeout_s=arguments.measure("--timeout", values["timeout"] or "0", parse_duration),
        profile=values["profile"] or "plain",
        policy_file=values["policy_file"] or "",
        allow_hosts=tuple(values["allow_host"]),
        audit_log=values["audit_log"] or "",
        learn=values["learn"] or "",
        uplink=values["uplink"] or "unix",
        store=values["store"] or "",
        snapshotter=values["snapshotter"] or "auto",
        registries=registry_settings(values),
        reports=ReportFiles(
            image_id=values["iidfile"] or "",
            metadata=values["metadata_file"] or "",
            digest=values["digest_file"] or "",
            names_with_digest=values["image_name_with_digest_file"] or "",
            tags_with_digest=values["image_name_tag_with_digest_file"] or "",
        ),
    )


def plan_settings(path: str | None, values: Mapping[str, Any], environ: Mapping[str, str]) -> BuildSettings:
    """The few of them that decide a plan."""
    return BuildSettings(
        context=_context(path, values["context"]),
        context_subpath=values["context_sub_path"] or "",
        dockerfile=values["file"] or "",
        target=values["target"] or "",
        build_args=arguments.parse_build_args(values["build_arg"], environ),
        named_contexts=arguments.parse_pairs(values["build_context"], "--build-context"),
        labels=arguments.parse_pairs(values["label"], "--label"),
        platforms=_platforms(values["platform"], environ),
        source_date_epoch=_epoch(values, environ),
        store=values["store"] or "",
    )


def output_spec(text: str) -> arguments.ParsedOutput:
    """An --output, with a look at whether its destination is a folder."""
    destination = arguments.output_destination(text)
    return arguments.parse_output(text, is_directory=destination not in ("", "-") and os.path.isdir(destination))


def _secret(text: str, environ: Mapping[str, str]) -> SecretSource:
    secret = arguments.parse_secret(text, environ)
    if secret.path and not os.access(secret.path, os.R_OK):
        raise UsageError(f"--secret id={secret.secret_id}: its file can't be read")
    return secret._replace(path=os.path.abspath(secret.path)) if secret.path else secret


def _context(path: str | None, option: str | None) -> str:
    """PATH and --context say the same thing; kaniko's dir:// is a plain path."""
    if path and option:
        raise UsageError(f"the context is given twice: {path!r} and --context {option!r}")
    context = path or option or "."
    return context.removeprefix("dir://") if context != "dir://" else "."


def _platforms(texts: tuple[str, ...], environ: Mapping[str, str]) -> tuple[str, ...]:
    from sandboxbuild.oci.platform import parse_platform

    asked = arguments.split_commas(texts) or arguments.split_commas((environ.get("DOCKER_DEFAULT_PLATFORM", ""),))
    return tuple(dict.fromkeys(str(parse_platform(text)) for text in asked))


def _pull(text: str | None) -> bool:
    if (text or "") not in PULL_WORDS:
        raise UsageError(f"--pull={text} is not supported", hint="--pull, --pull=missing or --pull=false")
    return PULL_WORDS[text or ""]


def _network(text: str | None) -> str:
    if text not in (None, "", "default", "none", "host"):
        raise UsageError(f"--network {text!r} is not known", hint="default, none or host")
    return text or "default"


def _epoch(values: Mapping[str, Any], environ: Mapping[str, str]) -> int | None:
    text = values["source_date_epoch"] or environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return 0 if values.get("reproducible") else None
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise UsageError(f"--source-date-epoch {text!r} is no number of seconds since 1970")
    return int(text)


def registry_settings(values: Mapping[str, Any]) -> RegistrySettings:
    """Commands that only push lack the flags about pulling."""
    unverified = values["tls_verify"] is False
    return RegistrySettings(
        mirrors=tuple(values.get("registry_mirror", ())),
        maps=arguments.parse_registry_maps(values["registry_map"]),
        fallback=not values["skip_default_registry_fallback"],
        insecure_pull=bool(values.get("insecure_pull")),
        insecure_push=bool(values["insecure"]),
        insecure_hosts=tuple(values["insecure_registry"]),
        unverified_pull=unverified or bool(values.get("skip_tls_verify_pull")),
        unverified_push=unverified or bool(values["skip_tls_verify"]),
        unverified_hosts=tuple(values["skip_tls_verify_registry"]),
        certificates=arguments.parse_pairs(values["registry_certificate"], "--registry-certificate"),
        authfile=values["authfile"] or "",
        client_certificates=arguments.parse_client_certificates(values["registry_client_cert"]),
        realms=arguments.parse_realms(values["registry_auth_realm"]),
        timeout_s=_registry_timeout_s(values["registry_timeout"]),
        name_servers=arguments.parse_name_servers(values["dns"]),
    )


def _registry_timeout_s(text: str | None) -> float:
    timeout_s = float(arguments.measure("--registry-timeout", text or "60s", parse_duration))
    if not 0 < timeout_s <= REGISTRY_TIMEOUT_LIMIT_S:
        raise UsageError(f"--registry-timeout {text!r} is no time that can be waited", hint="a second to an hour")
    return timeout_s
