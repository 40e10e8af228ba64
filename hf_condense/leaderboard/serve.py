"""A built site on this machine: Python's own server, on the loopback address alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from hf_condense.errors import ArtefactError, ConfigError

HOST = "127.0.0.1"


def serve(site: Path | str, port: int = 8000) -> None:
    """Serves a built site until it is interrupted, and prints its address.

    Raises:
        ArtefactError: no site is there. ConfigError: the port cannot be used.
    """
    with serving(site, port) as (address, thread):
        print(f"open {address} (Ctrl+C ends it)", flush=True)
        try:
            thread.join()
        except KeyboardInterrupt:
            print()


@contextmanager
def serving(site: Path | str, port: int = 0) -> Iterator[tuple[str, threading.Thread]]:
    """Serves in a thread for a block: (address, thread). Port 0 takes a free one. Raises as `serve`."""
    folder = built_site(site)
    try:
        server = ThreadingHTTPServer((HOST, port), partial(_Handler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise ConfigError(
            "port", port, f"a free port from 1 to 65535, or 0 for any ({error})", "choose another --port"
        ) from None
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}/", thread
    finally:
        server.shutdown()
        server.server_close()


def built_site(site: Path | str) -> Path:
    """The folder of a site, if `build` made it.

    Raises:
        ArtefactError: it is not one.
    """
    folder = Path(site)
    if not ((folder / "index.html").is_file() and (folder / "board.json").is_file()):
        raise ArtefactError(
            "site",
            str(site),
            "a folder that `leaderboard build` made",
            f"run `hf-condense leaderboard build BOARD --output_dir {site}`",
        )
    return folder


class _Handler(SimpleHTTPRequestHandler):
    """Files of one folder; folders are not listed, and nothing is printed."""

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def list_directory(self, path):
        self.send_error(404)

    def log_message(self, *_) -> None:
        pass
