"""What the launcher reads out of a Dockerfile by pure code: options of lowering, what may be pulled, and what steps name."""

from __future__ import annotations

from collections.abc import Sequence

from sandboxbuild.dockerfile import Dockerfile, LowerOptions, base_images
from sandboxbuild.dockerfile.handovers import named_runs
from sandboxbuild.dockerfile.ignore import IgnoreRules
from sandboxbuild.launcher.settings import BuildSettings
from sandboxbuild.oci.reference import parse_reference
from sandboxbuild.plan.handovers import NamedRun

DOCKER_IMAGE: str = "docker-image://"
OCI_LAYOUT: str = "oci-layout://"


def lower_options(
    settings: BuildSettings, platform: str, build_platform: str, ignore: IgnoreRules | None = None
) -> LowerOptions:
    """`platform` is the one of --platform that is meant, "" where none was given."""
    return LowerOptions(
        target=settings.target,
        build_args=settings.build_args,
        labels=settings.labels,
        platform=platform,
        build_platform=build_platform,
        source_date_epoch=settings.source_date_epoch,
        named_contexts=settings.named_contexts,
        ignore=ignore,
    )


def pulled_repositories(dockerfile: Dockerfile, settings: BuildSettings, build_platform: str) -> tuple[str, ...]:
    """HOST/PATH of everything that the needed stages name, on any of the platforms. Raises DockerfileError."""
    references: list[str] = []
    for platform in settings.platforms or ("",):
        options = lower_options(settings, platform, build_platform)
        images = base_images(dockerfile, options)
        references += [image.reference for image in images if not image.reference.startswith(OCI_LAYOUT)]
    references += [value.removeprefix(DOCKER_IMAGE) for _, value in settings.named_contexts if value.startswith(DOCKER_IMAGE)]
    return repositories(references)


def handed_over(dockerfile: Dockerfile, settings: BuildSettings, build_platform: str) -> tuple[NamedRun, ...]:
    """The RUNs that name secrets or ssh agents, each as often as it is run. Raises DockerfileError."""
    if not settings.secrets and not settings.ssh:
        return ()
    platforms = settings.platforms or ("",)
    return tuple(run for one in platforms for run in named_runs(dockerfile, lower_options(settings, one, build_platform)))


def repositories(references: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(parse_reference(reference.removeprefix(DOCKER_IMAGE)).name for reference in references))
