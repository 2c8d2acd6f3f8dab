"""What Ray runs in place of its own default_worker.py on nodes of `support.ray_nodes`: has the worker forked from a
process that has imported torch and all the rest, and ends with it.
"""

import os
import sys
from contextlib import suppress
from multiprocessing.connection import Client
from pathlib import Path

VARIABLE = "CUTS3D_WARM_WORKERS"  # names the socket of `support.warm_workers`

if __name__ == "__main__":
    with Client(os.environ[VARIABLE]) as server:
        server.send((sys.argv[1:], dict(os.environ), str(Path.cwd())))
        with suppress(EOFError, ConnectionResetError):
            server.recv()
