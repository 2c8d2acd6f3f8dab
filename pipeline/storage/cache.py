"""Where what is fetched or derived is kept for the user."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$CUTS3D_CACHE, else cuts3d in $XDG_CACHE_HOME, else ~/.cache/cuts3d. Need not exist."""
    own = os.environ.get("CUTS3D_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "cuts3d"
