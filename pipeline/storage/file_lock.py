"""A lock among the processes that see a file, let go when the file is closed or its process ends."""

import errno
import fcntl
import logging
from typing import IO, Any

log = logging.getLogger(__name__)

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


def lock(file: IO[Any] | int, waiting: str) -> bool:
    """Hold the lock of an open file or folder, after whoever holds it; False where the file system has none.

    waiting: what the log says when somebody else holds it.
    """
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s", waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True
