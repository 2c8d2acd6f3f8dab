"""What can be wrong with a launch, looked for before torch and models are loaded: a wrong one is refused at once."""

from pathlib import Path

from pipeline.engine.presence import Presence
from pipeline.engine.shard_job import ledger_of
from pipeline.images.manifest import Manifest
from pipeline.methods.registry import known_config, manifest_of
from pipeline.models.device import check_device
from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder


def checked_manifest(
    out: str | Path, launch: Launch, until: str | None, device: str, files_here: bool = True
) -> Manifest | None:
    """The images of a launch, listed; None where it resumes those of the run. First its settings are looked at,
    then the images, then the run that is there already, if there is one. files_here: False where models are loaded on
    other machines, so that their files may be there alone.

    Raises what `pipeline.engine.run.run` does, for all that shows by then.
    """
    check_device(device)
    known = known_config(launch, until, files_here)
    manifest = None if launch.images is None else manifest_of(launch)
    RunFolder.refuse_another(out, known, manifest)
    return manifest


def need_photos(folder: RunFolder, until: str | None) -> None:
    """SourceError when a launch that resumes a run finds none of the photos that come next. What stages have kept may
    do without photos: nothing is looked for then.
    """
    done = ledger_of(folder, until).committed_keys()
    following = next((shard for shard in folder.manifest.shards() if shard.key not in done), None)
    if following is not None and not folder.kept_stages():
        Presence(folder, is_resumed=True).need(following)
