"""An S3 server to test against: moto, in a process of its own, over HTTP on loopback, with faults to order.

python s3_server.py [FAULT ...]      prints its port, serves until its stdin ends

faults: "conflict" refuses the first conditional put of each key with 409, as S3 may; "plain412" refuses as MinIO does,
without naming the condition; "unconditional" ignores conditions, "unimplemented" refuses them as unknown; "skewed"
refuses all requests but those for buckets, as from a machine whose clock is wrong. SIGUSR1 closes the port, SIGUSR2
opens it again, with all data. GET /-/requests answers with the requests so far, one a line, and forgets them.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

REFUSALS = {
    "conflict": ("409 Conflict", "ConditionalRequestConflict", "Conflict, try again"),
    "unimplemented": (
        "501 Not Implemented",
        "NotImplemented",
        "A header implies functionality that is not implemented",
    ),
    "skewed": ("403 Forbidden", "RequestTimeTooSkewed", "The difference between request and current time is too large"),
}


class S3Server:
    """The server of this script as a context manager; `environment` tells a process of it."""

    def __init__(self, *faults: str, **environment: str) -> None:
        command = [sys.executable, __file__, *faults]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=os.environ | environment)
        assert self.process.stdout is not None
        self.endpoint = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test-key",
            "AWS_SECRET_ACCESS_KEY": "test-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def make_bucket(self, name: str) -> str:
        """Its URL."""
        urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")).close()
        return f"s3://{name}"

    def requests(self) -> list[str]:
        """Method and path of the requests since this was asked last."""
        with urllib.request.urlopen(f"{self.endpoint}/-/requests") as answer:
            return answer.read().decode().splitlines()

    def go_away(self) -> None:
        self._signal(signal.SIGUSR1)

    def come_back(self) -> None:
        self._signal(signal.SIGUSR2)

    def _signal(self, number: int) -> None:
        self.process.send_signal(number)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == signal.Signals(number).name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.communicate()


class Application:
    """moto's application. It looks for a key and writes it in two steps, so that two conditional puts can both win when
    their threads meet in between; S3 promises that they cannot. One request at a time keeps that promise.
    """

    def __init__(self, moto: Callable[..., Iterable[bytes]], faults: set[str]) -> None:
        self._moto = moto
        self._faults = faults
        self._lock = threading.Lock()
        self._requests: list[str] = []
        self._refused: set[str] = set()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            path = environ["PATH_INFO"]
            if path == "/-/requests":
                text, self._requests = "\n".join(self._requests), []
                start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
                return [text.encode()]
            self._requests.append(f"{environ['REQUEST_METHOD']} {path}")
            is_conditional = "HTTP_IF_NONE_MATCH" in environ
            if "unconditional" in self._faults:
                environ.pop("HTTP_IF_NONE_MATCH", None)
            if is_conditional and "conflict" in self._faults and path not in self._refused:
                self._refused.add(path)
                return self._refuse("conflict", environ, start_response)
            if is_conditional and "unimplemented" in self._faults:
                return self._refuse("unimplemented", environ, start_response)
            if "skewed" in self._faults and path.count("/") > 1:
                return self._refuse("skewed", environ, start_response)
            body = b"".join(self._moto(environ, start_response))
            if "plain412" in self._faults:
                name = b"<Condition>If-None-Match</Condition>"
                body = body.replace(name, b" " * len(name))
            return [body]

    def _refuse(self, fault: str, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        status, code, message = REFUSALS[fault]
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        start_response(status, [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))])
        return [body]


def main(faults: set[str]) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = Application(DomainDispatcherApplication(create_backend_app), faults)

    class Handler(MotoRequestHandler):
        protocol_version = "HTTP/1.1"

    signals = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    threading.Thread(target=lambda: (sys.stdin.read(), os.kill(os.getpid(), signal.SIGTERM)), daemon=True).start()
    port = 0
    while True:
        server = make_server("127.0.0.1", port, application, threaded=True, request_handler=Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        print("SIGUSR2" if port else server.server_port, flush=True)
        port = server.server_port
        if signal.sigwait({signal.SIGUSR1, signal.SIGTERM}) == signal.SIGTERM:
            return
        server.shutdown()
        server.server_close()
        print("SIGUSR1", flush=True)
        if signal.sigwait({signal.SIGUSR2, signal.SIGTERM}) == signal.SIGTERM:
            return


if __name__ == "__main__":
    main(set(sys.argv[1:]))
