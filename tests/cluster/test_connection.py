"""Whether anybody is at an address, before Ray takes minutes to find out."""

import socket

import pytest

from cluster import connection, tokens
from pipeline.errors import ConfigError


def test_an_address_where_nobody_answers_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "ANSWERS_WITHIN", 0.1)  # what takes the connection and says nothing may be a cluster
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
            with pytest.raises(ConfigError, match=rf"there is no Ray cluster at {address} \(Connection refused\)"):
                connection._knock(address)
        taken.listen()
        connection._knock(f"127.0.0.1:{port}")
    connection._knock("auto")
