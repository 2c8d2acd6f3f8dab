"""Exceptions of the pipeline. Each says what to do next and also is the builtin that a caller would naturally catch."""

from typing import ClassVar


class CutsError(Exception):
    """Base of all errors that cuts3d raises on purpose; the command line prints them without a traceback.

    They go from process to process as they are: one that takes more than its message has a `__reduce__`.

    fatal: whether it is the same however often and wherever it is tried: what was asked for cannot be done.
    """

    fatal: ClassVar[bool] = False


class ConfigError(CutsError, ValueError):
    """A recipe, option or preset is unknown or out of range."""

    fatal = True


class ExtensionError(CutsError, ImportError):
    """An installed extension of the command line does not load."""


class WeightsError(CutsError, OSError):
    """Weights are missing, corrupt or cannot be fetched."""


class WorkerBrokenError(CutsError, RuntimeError):
    """This process can do no more work, because of something that an image or the machine did to it."""


class ImageError(CutsError, ValueError):
    """One image cannot be used. A record, not a crash: the shard continues without it.

    reason: short machine-readable word, e.g. "truncated".
    detail: the sentence for people.
    """

    fatal = True

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        """How it goes from process to process: exceptions otherwise are made again from their message alone."""
        return type(self), (self.reason, self.detail)


class SourceError(CutsError, ValueError):
    """The image source (folder, list, tar, COCO file) cannot be listed, is empty or has duplicate ids."""

    fatal = True


class RunMismatchError(CutsError, ValueError):
    """A run folder was made with another configuration, manifest or schema than the one asked for."""

    fatal = True


class StoreError(CutsError, OSError):
    """A stored shard or commit record is missing, torn, corrupt or of another schema.

    what: the sentence that says what is wrong, without its full stop.
    remedy: sentences that say what to do about it when the caller knows nothing better; "" where `what` says it, too.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(f"{what}. {remedy}" if remedy else what)
        self.what = what
        self.remedy = remedy


class StoreAccessError(StoreError):
    """What holds a run does not answer or refuses: network, credentials, permissions, space."""


class TrainingError(CutsError, RuntimeError):
    """A training cannot continue: its loss is no number any more, or what it should resume from is missing."""


class ClusterError(CutsError, RuntimeError):
    """A cluster cannot be reached, refuses what is asked of it, or has not what the work needs."""
