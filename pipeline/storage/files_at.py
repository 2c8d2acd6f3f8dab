"""Which kind of files a run folder's path or URL means."""

from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.storage.files import RunFiles
from pipeline.storage.local_files import LocalFiles
from pipeline.storage.locations import redacted, secret_in


def files_at(url: str | Path) -> RunFiles:
    """The files at a local folder (need not exist yet), `file://` or any other fsspec URL.

    Credentials come from fsspec's own configuration or the environment. ConfigError when the URL carries some, as
    what names a run ends up in logs, or when fsspec does not know the protocol or lacks its package.
    """
    protocol, separator, path = str(url).partition("://")
    if not separator:
        return LocalFiles(Path(url))
    if secret := secret_in(str(url)):
        raise ConfigError(
            f"{redacted(str(url))} carries {secret}: give the URL without it, and credentials through the "
            "environment or fsspec's configuration"
        )
    if protocol in ("file", "local"):
        return LocalFiles(Path(path))
    from pipeline.storage.object_files import ObjectFiles  # fsspec takes half a second to import

    return ObjectFiles(str(url))
