"""What of the input goes through the store: a context's archive, and the images of OCI layouts."""

from __future__ import annotations

from sandboxbuild.launcher.archives import save_archive
from sandboxbuild.launcher.layouts import SCHEME, load_image
from sandboxbuild.launcher.sources import Sources
from sandboxbuild.store import Store


def stored_sources(sources: Sources, store: Store) -> Sources:
    """The same with its archive where the executor looks for it, and with layouts named by what is in the store."""
    if sources.archive is not None:
        save_archive(sources.archive, store)
    places = {name: f"{SCHEME}{load_image(image, store).digest}" for name, image in sources.layouts}
    return sources._replace(named=tuple((name, places.get(name, where)) for name, where in sources.named))
