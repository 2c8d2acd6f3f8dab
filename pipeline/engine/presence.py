"""Whether the photos are where the run looks for them: a disk that was moved, or a mount that is gone, must not set a
whole run aside.
"""

from dataclasses import dataclass, field

from pipeline.errors import SourceError
from pipeline.images.beside import first_that_holds
from pipeline.images.manifest import ImageRef, Shard
from pipeline.methods.registry import moved_command
from pipeline.runs.run_folder import RunFolder
from pipeline.storage.locations import existing
from pipeline.wording import counted


@dataclass
class Presence:
    """Looks for a shard's photos before the shard is worked on.

    is_resumed: whether the images are the run's own, which were there when they were listed; a launch that has just
        listed them, or that tries single ones again, knows that some may be missing.
    """

    run: RunFolder
    is_resumed: bool
    _seen: str = field(default="", init=False)

    def need(self, shard: Shard) -> None:
        """SourceError, with a place, when none of the shard's photos is there; of a launch that is not resumed, when
        none of the run's is.
        """
        places = list(_places(shard.refs))
        found = next((place for place in places if _is_there(place)), "")
        self._seen = found or self._seen
        if found or not places or (not self.is_resumed and self._some_are_there()):
            return
        raise SourceError(
            f"{self.run.url}: none of {counted(len(places), 'image')} looked for is there, for example {places[0]}; "
            f"nothing was set aside. Mount them or move them back; if they have moved, `{moved_command(self.run)}` "
            "tells the run where they are now"
        )

    def _some_are_there(self) -> bool:
        if self._seen and _is_there(self._seen):
            return True
        places = list(_places(self.run.manifest.refs))
        return first_that_holds([""], places) is not None


def _places(refs: tuple[ImageRef, ...]) -> dict[str, None]:
    return dict.fromkeys(ref.uri for ref in refs if ref.trouble is None)


def _is_there(place: str) -> bool:
    try:
        return existing(place) is not None
    except Exception:  # noqa: BLE001  a store that does not answer: reading will say so, image by image
        return True
