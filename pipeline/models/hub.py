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


def need(what: str, repository: str, name: str, instead: str) -> None:
    """WeightsError when a file of a hub repository is neither in the hub's local cache nor can be fetched.

    what, instead: see `out_of_reach`.
    """
    import huggingface_hub

    if not isinstance(huggingface_hub.try_to_load_from_cache(repository, name), str) and not reachable():
        raise out_of_reach(what, repository, instead)


def out_of_reach(what: str, repository: str, instead: str) -> WeightsError:
    """The error for weights that are nowhere else. what: was asked for. instead: what to give for a copy of them."""
    return WeightsError(
        f"{what}: these weights are on the model hub only ({repository}), which cannot be reached from here, and its "
        f"local cache (HF_HOME) does not hold them: download them elsewhere and give {instead}, or copy that cache "
        "here; `cuts3d weights list` names those that need no hub"
    )


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
