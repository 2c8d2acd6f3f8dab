"""What can be wrong with a launch, looked for before torch and models are loaded: a wrong one is refused at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.engine.presence import Presence
from pipeline.engine.shard_job import ledger_of
from pipeline.images.manifest import Manifest
from pipeline.methods.registry import known_config, manifest_of
from pipeline.models.device import check_device
from pipeline.runs.launch import Launch, with_own_shard_size
from pipeline.runs.run_folder import RunFolder
from pipeline.storage.files_at import files_at


def checked_manifest(
    out: str | Path, launch: Launch, until: str | None, device: str, files_here: bool = True
) -> Manifest | None:
    """The images of a launch, listed; None where it resumes those of the run. First its settings are looked at,
    `check_settings`, then the images. files_here: False where models are loaded on other machines, so that their files
    may be there alone.

    Raises what `pipeline.engine.run.run` does, for all that shows by then.
    """
    known = check_settings(out, launch, until, device, files_here)
    if launch.images is None:
        return None
    manifest = manifest_of(with_own_shard_size(launch, out))
    RunFolder.refuse_another(out, known, manifest)
    return manifest


def check_settings(
    out: str | Path, launch: Launch, until: str | None, device: str, files_here: bool = True
) -> Mapping[str, Any]:
    """Everything but the images, which may take minutes to list: the settings, the run that is there already, if there
    is one, and whether there can be one. The part of the configuration that is known without models.
    """
    check_device(device)
    files_at(out).need_writable()
    known = known_config(launch, until, files_here)
    RunFolder.refuse_another(out, known, None)
    return known


def need_photos(folder: RunFolder, until: str | None) -> None:
    """SourceError when a launch that resumes a run finds none of the photos that come next. What stages have kept may
    do without photos: nothing is looked for then.
    """
    done = ledger_of(folder, until).committed_keys()
    following = next((shard for shard in folder.manifest.shards() if shard.key not in done), None)
    if following is not None and not folder.kept_stages():
        Presence(folder, is_resumed=True).need(following)
