"""Ray's token: found where Ray's own client looks for it, and said to be what is wrong when it is.

Ray sends a token only in a mode of its own. `ray.init` turns that on by itself for a Ray on this machine, but not for
an address; and when a cluster refuses a token, it says after 20 s that there is no cluster.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.errors import ClusterError

MODE = "RAY_AUTH_MODE"
ANSWERS_WITHIN = 10.0  # seconds
# Calls without arguments that every Ray answers: of the head, and of its server for ray://.
_OF_HEAD, _OF_CLIENT = "/ray.rpc.NodeInfoGcsService/CheckAlive", "/ray.rpc.RayletDriver/ClusterInfo"


def use_token_that_is_there() -> None:
    """Let Ray send the token that it finds: in RAY_AUTH_TOKEN, in the file that RAY_AUTH_TOKEN_PATH names, or in
    ~/.ray/auth_token. Nothing is done where RAY_AUTH_MODE is set. To be called before Ray connects.
    """
    if MODE in os.environ:
        return
    places = [os.environ.get("RAY_AUTH_TOKEN"), os.environ.get("RAY_AUTH_TOKEN_PATH")]
    if not any(places) and not (Path.home() / ".ray" / "auth_token").exists():
        return
    os.environ[MODE] = "token"
    if "ray" in sys.modules:  # which has read the mode when it was loaded
        with suppress(AttributeError):  # a Ray that knows no tokens
            _raylet().Config.initialize("")


def check_token(address: str) -> None:
    """ClusterError when the Ray at HOST:PORT, or ray://HOST:PORT, does not take the token that is here, or none.

    Whatever else is wrong there is left to Ray to find.
    """
    with suppress(ImportError):  # Ray's own client has grpc for ray:// addresses
        import grpc

        call = _OF_CLIENT if address.startswith("ray://") else _OF_HEAD
        with grpc.insecure_channel(address.removeprefix("ray://")) as channel:
            try:
                channel.unary_unary(call)(b"", timeout=ANSWERS_WITHIN, metadata=_header())
            except grpc.RpcError as error:
                if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    raise token_error(address, refused=bool(_header())) from error


def token_error(address: str, refused: bool) -> ClusterError:
    """refused: whether a token was sent."""
    if refused:
        return ClusterError(
            f"{address} refuses the token: RAY_AUTH_TOKEN, or the file that RAY_AUTH_TOKEN_PATH names, or else "
            "~/.ray/auth_token, must hold that of the cluster"
        )
    return ClusterError(
        f"{address} asks for a token: set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file that holds it, or put it "
        "into ~/.ray/auth_token; RAY_AUTH_MODE must be token, or not set"
    )


def _header() -> Sequence[tuple[str, str]]:
    """What Ray's client sends with each request."""
    from ray.exceptions import RayError

    try:
        ray = _raylet()
        if ray.get_authentication_mode() != ray.AuthenticationMode.TOKEN:
            return ()
        header = ray.AuthenticationTokenLoader.instance().get_token_for_http_header()
    except (AttributeError, RayError):  # one that is named and cannot be read is said by Ray when it connects
        return ()
    return tuple((name.lower(), value) for name, value in header.items())


def _raylet() -> Any:
    """Ray's compiled part, which has no types, and of older Rays not these names."""
    return importlib.import_module("ray._raylet")
