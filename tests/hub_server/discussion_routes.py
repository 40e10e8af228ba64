"""The routes of discussions and pull requests: list, open, read, comment, close, merge."""

from __future__ import annotations

from tests.hub_server.discussions import Discussion
from tests.hub_server.repositories import Refusal, Repository
from tests.hub_server.routes import PAGE, Answer, Request, as_json, route


@route("discussions", "GET", "/api/{type}/{repo}/discussions")
def discussions(request: Request) -> Answer:
    """A page of them, newest first."""
    found, asked = request.readable(), {key: values[0] for key, values in request.query.items()}
    kind, status = asked.get("type", "all"), asked.get("status", "all")
    rows = [
        row(found, thread)
        for thread in reversed(found.discussions)
        if kind in ("all", "pull_request" if thread.base else "discussion")
        and (status == "all" or (thread.status in ("open", "draft")) == (status == "open"))
        and asked.get("author", thread.author) == thread.author
    ]
    start = int(asked.get("p", 0)) * PAGE
    return as_json({"discussions": rows[start : start + PAGE], "count": len(rows), "start": start})


def row(repository: Repository, thread: Discussion) -> dict:
    repo = {"name": repository.id, "type": repository.type.removesuffix("s")}
    return {
        "num": thread.number, "title": thread.title, "author": {"name": thread.author}, "createdAt": thread.created,
        "status": thread.status, "isPullRequest": thread.base is not None, "repo": repo,
    }  # fmt: skip


@route("discussion_open", "POST", "/api/{type}/{repo}/discussions")
def discussion_open(request: Request) -> Answer:
    """A discussion, or a pull request without a commit yet (a draft)."""
    found, asked = request.writable(pull_request=True), request.json
    thread = found.open_discussion(asked["title"], request.needs_user(), asked.get("pullRequest", False))
    thread.comment(thread.author, asked.get("description", ""))
    return as_json({"num": thread.number})


@route("discussion", "GET", "/api/{type}/{repo}/discussions/{number}")
def discussion(request: Request) -> Answer:
    found = request.readable()
    thread = found.discussion(int(request.parts["number"]))
    said = {**row(found, thread), "events": thread.events}
    if thread.base:
        said["changes"] = {"base": thread.base, "mergeCommitId": thread.merge_commit}
        said["filesWithConflicts"] = thread.status == "open" and found.merged_tree(thread) is None
        said["diff"] = found.diff(thread)
    return as_json(said)


@route("comment", "POST", "/api/{type}/{repo}/discussions/{number}/comment")
def comment(request: Request) -> Answer:
    thread = request.writable(pull_request=True).discussion(int(request.parts["number"]))
    text = request.json["comment"]
    if not text.strip():
        raise Refusal(400, "an empty comment")
    return as_json({"newMessage": thread.comment(request.needs_user(), text)})


@route("discussion_status", "POST", "/api/{type}/{repo}/discussions/{number}/status")
def discussion_status(request: Request) -> Answer:
    """Opens or closes; its author may, and who may write to the repository."""
    user, asked = request.needs_user(), request.json
    thread = request.readable().discussion(int(request.parts["number"]))
    if thread.author != user:
        request.writable()
    if thread.status == "merged" or asked["status"] not in ("open", "closed"):
        raise Refusal(400, f"{thread.status} cannot become {asked['status']}")
    if "comment" in asked:
        thread.comment(user, asked["comment"])
    return as_json({"newStatus": thread.change_status(user, asked["status"])})


@route("merge", "POST", "/api/{type}/{repo}/discussions/{number}/merge")
def merge(request: Request) -> Answer:
    found, number, user = request.writable(), int(request.parts["number"]), request.needs_user()
    commit = found.merge(number, user)
    if "comment" in request.json:
        found.discussion(number).comment(user, request.json["comment"])
    return as_json({"mergeCommitId": commit})
