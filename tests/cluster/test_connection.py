"""Whether anybody is at an address, before Ray takes minutes to find out."""

import socket

import pytest

from cluster import connection, tokens
from pipeline.errors import ConfigError


def test_a_ray_that_does_not_start_in_time_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Exception("The current node timed out during startup. This could happen because …")
    ends: list[object] = [late, late, "ready"]
    shut: list[None] = []

    def start() -> object:
        end = ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr(connection.ray, "shutdown", lambda: shut.append(None))
    assert connection.started(start) == "ready"
    assert len(shut) == 2
    for ends, tries in (([late] * 9, connection.STARTS), ([ValueError("no such option"), "ready"], 1)):
        before = len(ends)
        with pytest.raises((Exception, ValueError), match=r"timed out|no such option"):
            connection.started(start)
        assert before - len(ends) == tries


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
