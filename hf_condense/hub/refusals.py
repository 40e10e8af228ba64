"""Turns refusals of the Hub and connection failures into errors with a next step."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from hf_condense.errors import HubError
from hf_condense.text import shortened

# the client moves between HTTP libraries; whichever it is, its error is the base of the client's own
TransportError = HfHubHTTPError.__bases__[0]
_AGAIN = "run the same command again: no repository holds half of a push, and files that arrived are not sent twice"
_BY_STATUS = {
    400: ("a request that the Hub takes ({said})", "mend what it names, and push again"),
    401: ("a token that the Hub knows", "run `hf auth login` or set HF_TOKEN, and check the repository's name"),
    403: ("a token that may write there", "use a token with write access to it, or push to a name of your own"),
    404: (
        "a repository and revision that this token can see",
        "check both names; for private ones run `hf auth login`",
    ),
    409: ("a repository that nothing else changes at the moment ({said})", f"wait a little, then {_AGAIN}"),
    412: (
        "a revision that no one else pushes to at the same time",
        f"wait until the other push is done, then {_AGAIN}",
    ),
    429: ("fewer requests in a short time", f"wait some minutes, then {_AGAIN}"),
}


class NoAnswer(HubError):
    """The Hub could not be reached."""


def lost_answer(repo_id: str, error: BaseException) -> NoAnswer:
    """A commit was sent and not answered: whether it was made is unknown."""
    step = f"it may have landed all the same; check the network, then {_AGAIN}, and a commit that landed is not made twice"
    return NoAnswer("repository", repo_id, f"an answer to the commit ({_line(error)})", step)


def status_of(error: BaseException) -> int | None:
    """The HTTP status of an answer, where the error is one."""
    response = getattr(error, "response", None)
    return None if response is None else response.status_code


@contextmanager
def clear_hub_errors(repo_id: str) -> Iterator[None]:
    """Turns what the Hub's client raises during a push into a HubError. Errors of this library pass as they are."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise HubError("token", None, "that of a Hub account", "run `hf auth login` or set HF_TOKEN") from error
    except (HfHubHTTPError, TransportError, ConnectionError, HFValidationError, RuntimeError, ValueError) as error:
        raise _explained(repo_id, error) from error


def _explained(repo_id: str, error: Exception) -> HubError:
    if isinstance(error, HFValidationError):
        return HubError(
            "repository", repo_id, "owner/name with letters, digits, '-', '_' and '.'", "choose such a name"
        )
    if isinstance(error, ValueError) and isinstance(error.__cause__, HfHubHTTPError):  # the card is checked first
        said = " ".join(str(error).split())
        return HubError("README.md", repo_id, f"a card that the Hub takes ({said})", "mend its YAML block")
    reason: BaseException | None = error
    while reason is not None and status_of(reason) is None:  # the upload's error is the cause of its thread's error
        reason = reason.__cause__
    page = next((p for p in map(_page, (error, error.__cause__, reason)) if p is not None), None)
    if page is not None:
        step = f"open a web page in a browser and log in to the network, or check HF_ENDPOINT, then {_AGAIN}"
        allowed = (
            f"the Hub's answer instead of a web page{f' ({page})' if page else ''}, as a network's login sends it"
        )
        return NoAnswer("repository", repo_id, allowed, step)
    if reason is None:
        said = _line(error.__cause__ or error)
        return NoAnswer(
            "repository", repo_id, f"a connection that holds ({said})", f"check the network, then {_AGAIN}"
        )
    status, said = status_of(reason), getattr(reason, "server_message", None) or _line(reason)
    fallback = (f"a Hub that works; it answered {status} ({said})", _AGAIN)
    allowed, next_step = _BY_STATUS.get(status, fallback)
    return HubError("repository", repo_id, allowed.format(said=said), next_step)


def _page(error: BaseException | None) -> str | None:
    """The title of a page of HTML that came where data were asked for; None for everything else."""
    response = getattr(error, "response", None)
    text = getattr(error, "doc", "")  # of what was no JSON
    # an overloaded Hub sends pages too, with an error status
    if response is not None and response.status_code in (*range(400), 511):
        text = response.text if "html" in response.headers.get("content-type", "") else ""
    if not text.lstrip().startswith("<"):
        return None
    title = re.search(r"<title[^>]*>(.{1,200}?)</title>", text, re.IGNORECASE | re.DOTALL)
    return shortened(" ".join(title[1].split()), 80) if title else ""


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
