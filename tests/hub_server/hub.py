"""What a test sees of the local Hub: addresses, users, faults, and the server that runs while tests need it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest

from tests.hub_server import ENDPOINT, SOCKET, discussion_routes  # noqa: F401 (registers its routes)
from tests.hub_server.faults import Fault, Faults
from tests.hub_server.large_files import LargeFiles
from tests.hub_server.repositories import Refusal, Repository
from tests.hub_server.routes import Answer, Request, as_json, match

if TYPE_CHECKING:
    from huggingface_hub import HfApi


class Hub:
    """The local Hub. In the fixture `hub` the client libraries are online, and logged in as `ada`.

    `endpoint` is the address (also `HF_ENDPOINT`, set before anything is imported). `tokens` holds a token for each user:
    `ada` and `grace` share the organization `lab`; `eve` is in none. `fresh("digits")` gives an id nobody has used.
    `api(user)` is an `HfApi` of a user, of nobody (`None`), or of a wrong token (`"nobody-at-all"`).

    A repository is made private or gated as on the real Hub: `api().create_repo(private=True)`,
    `api().update_repo_settings(repo_id, gated="auto", repo_type=...)`, and opened to one with `api().grant_access`.

    `fault("commit", status=500)`, `fault("lfs_put", drop_after=1000)`, `fault("commit", meanwhile=...)` arm a `Fault`
    (faults.py) for a block. Routes are called as in routes.py: `create`, `settings`, `validate_yaml`, `preupload`,
    `lfs_batch`, `lfs_put`, `lfs_part`, `commit`, `info`, `tree`, `resolve`, `comment`, `merge`, ...
    `requests` lists (route, user) of the requests that arrived whole. `offline()` takes the clients offline for a block.
    """

    endpoint = ENDPOINT
    tokens = {"ada": "hf_ada", "grace": "hf_grace", "eve": "hf_eve"}
    organizations = {"lab": {"ada", "grace"}}

    def __init__(self, folder: Path):
        self.folder = folder
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large_files = LargeFiles(folder / "large")
        self.large_files.folder.mkdir(parents=True)
        self.faults = Faults()
        self.requests: list[tuple[str, str | None]] = []
        self._lock = threading.Lock()
        self._made = 0

    def fresh(self, stem: str) -> str:
        """A repository id of `lab` that nobody has used."""
        with self._lock:
            self._made += 1
            return f"lab/{stem}-{self._made}"

    def api(self, user: str | None = "ada") -> HfApi:
        """A client of this Hub for a user, for nobody (None), or with a wrong token (any other name)."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint, token=False if user is None else self.tokens.get(user, f"hf_{user}"))

    def fault(self, route: str, status: int | None = None, **how: Any) -> AbstractContextManager[Fault]:
        """Arms a `Fault` for a block; leaving the block without a request that met it fails the test."""
        return self.faults.armed(Fault(route, status, **how))

    @contextmanager
    def online(self, user: str = "ada") -> Iterator[Hub]:
        """The client libraries are online and logged in for a block, and do not wait between their attempts."""
        with self._clients(offline=False) as patch:
            import huggingface_hub.utils._http as http

            patch.setenv("HF_TOKEN", self.tokens[user])
            patch.setattr(http, "time", SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None}))
            yield self

    @contextmanager
    def offline(self) -> Iterator[None]:
        """The client libraries believe for a block that there is no network."""
        with self._clients(offline=True):
            yield

    @contextmanager
    def _clients(self, offline: bool) -> Iterator[pytest.MonkeyPatch]:
        import datasets.config
        import huggingface_hub.constants

        with pytest.MonkeyPatch.context() as patch:
            for module in (huggingface_hub.constants, datasets.config):
                patch.setattr(module, "HF_HUB_OFFLINE", offline)
            patch.setenv("HF_HUB_OFFLINE", str(int(offline)))
            yield patch

    def page(self, type: str, id: str) -> str:
        return f"{self.endpoint}/{'' if type == 'models' else f'{type}/'}{id}"

    def may_write(self, user: str | None, id: str) -> bool:
        owner = id.split("/")[0]
        return user is not None and (user == owner or user in self.organizations.get(owner, ()))

    def create(self, type: str, id: str, user: str, private: bool, sdk: str | None = None) -> bool:
        """Makes a repository; False if there is one of that name."""
        with self._lock:
            if (type, id) in self.repositories:
                return False
            self._made += 1  # a name can be used again after a deletion; its folder is another
            folder = self.folder / f"{self._made}.git"
            self.repositories[type, id] = Repository(type, id, folder, user, private, sdk=sdk)
            return True

    @contextmanager
    def serving(self) -> Iterator[Hub]:
        """Answers requests for a block, in threads of this process."""
        server = ThreadingHTTPServer(SOCKET.getsockname(), _Handler, bind_and_activate=False)
        server.socket.close()
        server.socket, server.hub, server.daemon_threads = SOCKET, self, True
        server.server_activate()
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()


class Page(Exception):
    """A page of HTML is to be answered."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for head and body of a small answer
    disable_nagle_algorithm = True

    def answer(self) -> None:
        hub, (path, _, query) = self.server.hub, self.path.partition("?")
        found = match(self.command, path)
        name = found[0] if found else "unknown"
        fault = hub.faults.take(name)
        if fault and fault.drop_after is not None:
            self.rfile.read(min(fault.drop_after, int(self.headers.get("Content-Length", fault.drop_after))))
            return self._break()
        user = None
        try:
            body = self._body()
            user = self._user()
            hub.requests.append((name, user))
            if fault and fault.meanwhile:
                fault.meanwhile()
            if fault and fault.status:
                raise Refusal(fault.status, "a fault that the test armed")
            if not found:
                raise Refusal(404, f"no route {path}", "RepoNotFound")
            if fault and fault.page:
                raise Page
            headers = {key.lower(): value for key, value in self.headers.items()}
            answer = found[1](Request(hub, user, path, parse_qs(query), headers, body, found[2]))
        except Page:
            login = b"<!doctype html><html><title>Airport WiFi</title><body>Log in</body></html>"
            answer = Answer(login, headers={"Content-Type": "text/html"})
        except Refusal as refused:
            answer = as_json({"error": refused.message, **refused.body}, refused.status, **refused.headers)
        if fault and fault.lose_answer:
            return self._break()
        self.send_response(answer.status)
        for key, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def _user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token:
            return None
        for user, known in self.server.hub.tokens.items():
            if token == known:
                return user
        raise Refusal(401, "Invalid credentials in Authorization header")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _break(self) -> None:
        """Ends the connection for the other side at once, also where a forked child holds a copy of the socket."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_) -> None:
        pass
