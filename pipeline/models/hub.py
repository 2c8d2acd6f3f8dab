"""Files of the Hugging Face hub, where it can be reached; what its own cache already holds counts without it."""

import threading
import urllib.request
from functools import cache
from pathlib import Path

from pipeline.errors import WeightsError

_PROBE_S = 5.0


@cache
def reachable() -> bool:
    """Whether the hub answers within five seconds; asked once a process. False under HF_HUB_OFFLINE."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()

    def probe() -> None:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=_PROBE_S):
                answered.set()
        except (OSError, ValueError):  # no route, no name, refused, an error page: not reachable
            return

    # In a thread, since the time-out of a request does not bound the look-up of its host's name.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(_PROBE_S)
    return answered.is_set()


def file(repository: str, name: str) -> Path | None:
    """A file of a hub repository: out of the hub's local cache or downloaded into it; None where neither is possible.

    Raises WeightsError when the hub answers but does not give the file.
    """
    import huggingface_hub
    from huggingface_hub import constants

    cached = huggingface_hub.try_to_load_from_cache(repository, name)
    if isinstance(cached, str):
        return Path(cached)
    if not reachable():
        return None
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name))
    except OSError as error:
        raise WeightsError(f"{constants.ENDPOINT} does not give {name} of {repository}: {error}") from error
