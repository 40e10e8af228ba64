"""The routes of the Hub that clients use, each a function from a request to an answer."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote

import yaml

from tests.hub_server.large_files import Pointer, is_large
from tests.hub_server.repositories import Commit, Entry, Refusal, Repository

if TYPE_CHECKING:
    from tests.hub_server.hub import Hub

PAGE = 25  # rows of one page of a tree
SPACE_SDKS = ("gradio", "docker", "static")
SPACE_COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")


@dataclass
class Answer:
    body: bytes = b""
    status: int = HTTPStatus.OK
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    """One request and who sent it; `parts` are the named pieces of its path."""

    hub: Hub
    user: str | None
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    parts: dict[str, str]

    @property
    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    @property
    def type(self) -> str:
        return self.parts.get("type") or self.parts.get("prefix", "").rstrip("/") or "models"

    @property
    def revision(self) -> str:
        return self.parts.get("revision") or "main"

    def readable(self) -> Repository:
        """The repository of the path.

        Raises:
            Refusal: RepoNotFound where there is none or it is hidden from this user: 404, or 401 to a stranger.
        """
        found = self.hub.repositories.get((self.type, self.parts["repo"]))
        if found is None or (found.private and not self.hub.may_write(self.user, found.id)):
            raise Refusal(404 if self.user else 401, "Repository not found", "RepoNotFound")
        return found

    def writable(self, pull_request: bool = False) -> Repository:
        """The repository of the path if this user may change it, or, for a pull request, if the user has a name.

        Who opened a pull request may add to its branch.

        Raises:
            Refusal: as `readable`; 401 without a token, 403 for another's repository.
        """
        found = self.readable()
        theirs = found.opened(self.revision) == self.needs_user()
        if not (pull_request or theirs or self.hub.may_write(self.user, found.id)):
            raise Refusal(403, f"{self.user} may not write to {found.id}")
        return found

    def needs_user(self) -> str:
        if self.user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.user


ROUTES: list[tuple[str, str, re.Pattern, Callable[[Request], Answer]]] = []
_PIECES = {
    "type": "models|datasets|spaces", "prefix": "(?:datasets/|spaces/)?", "repo": "[^/]+(?:/[^/]+)?", "path": ".*", "number": "[0-9]+",
}  # fmt: skip


def route(name: str, methods: str, pattern: str) -> Callable:
    """Registers a function under the name that faults go by. Pieces in braces match one path segment, or as `_PIECES` says."""
    expression = re.sub(r"{(\w+)}", lambda m: f"(?P<{m[1]}>{_PIECES.get(m[1], '[^/]+')})", pattern)

    def register(answer: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
        ROUTES.append((name, methods, re.compile(expression), answer))
        return answer

    return register


def match(method: str, path: str) -> tuple[str, Callable[[Request], Answer], dict[str, str]] | None:
    """Name, function and unquoted path pieces of the first route that takes this; the path is as it was sent, quoted."""
    for name, methods, pattern, answer in ROUTES:
        found = pattern.fullmatch(path)
        if found and method in methods.split():
            return name, answer, {k: unquote(v or "") for k, v in found.groupdict().items()}
    return None


def as_json(value: object, status: int = HTTPStatus.OK, **headers: str) -> Answer:
    return Answer(json.dumps(value).encode(), status, {"Content-Type": "application/json", **headers})


# --- users and repositories


@route("whoami", "GET", "/api/whoami-v2")
def whoami(request: Request) -> Answer:
    user = request.needs_user()
    organizations = [{"name": name} for name, members in request.hub.organizations.items() if user in members]
    token = {"type": "access_token", "accessToken": {"displayName": "tests", "role": "write"}}
    return as_json({"type": "user", "name": user, "fullname": user, "orgs": organizations, "auth": token})


@route("create", "POST", "/api/repos/create")
def create(request: Request) -> Answer:
    user, (type, id) = request.needs_user(), named(request)
    if not request.hub.may_write(user, id):
        raise Refusal(403, f"You don't have the rights to create a repository under {id.split('/')[0]}")
    url, sdk = request.hub.page(type, id), request.json.get("sdk")
    if (type == "spaces") != (sdk in SPACE_SDKS):
        raise Refusal(400, f'"sdk" must be one of {", ".join(SPACE_SDKS)} for a Space, and absent otherwise')
    if not request.hub.create(type, id, user, request.json.get("visibility") == "private", sdk):
        raise Refusal(409, "You already created this repository", url=url)
    return as_json({"url": url, "name": id})


@route("delete", "DELETE", "/api/repos/delete")
def delete(request: Request) -> Answer:
    type, id = named(request)
    found = replace(request, parts={"type": type, "repo": id}).writable()
    del request.hub.repositories[found.type, found.id]
    return as_json({})


def named(request: Request) -> tuple[str, str]:
    """Type and id of the repository that the body names; without an owner it is the user's."""
    asked = request.json
    return f"{asked.get('type', 'model')}s", f"{asked.get('organization') or request.needs_user()}/{asked['name']}"


@route("settings", "PUT", "/api/{type}/{repo}/settings")
def settings(request: Request) -> Answer:
    found, asked = request.writable(), request.json
    if "visibility" in asked:
        found.private = asked["visibility"] == "private"
    found.gated = asked.get("gated", found.gated)
    return as_json({})


@route("grant", "POST", "/api/{type}/{repo}/user-access-request/grant")
def grant(request: Request) -> Answer:
    request.writable().readers.add(request.json["user"])
    return as_json({})


@route("validate_yaml", "POST", "/api/validate-yaml")
def validate_yaml(request: Request) -> Answer:
    text = request.json["content"]
    front = front_matter(text)
    if front is None:
        return as_json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    errors = [{"message": message} for message in faults_of_card(front, request.json.get("repoType") == "space")]
    return as_json({"errors": errors, "warnings": []}, HTTPStatus.BAD_REQUEST if errors else HTTPStatus.OK)


def front_matter(card: str) -> str | None:
    """The YAML between the first two rules of a card."""
    found = re.match(r"\s*---\r?\n(.*?)\r?\n?---\s*(?:\n|$)", card, re.DOTALL)
    return found[1] if found else None


def faults_of_card(text: str, space: bool = False) -> list[str]:
    """What the Hub refuses in the front matter of a card: broken YAML, and values that are not of the known shape."""
    try:
        card = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        return [f"YAML: {error}"]
    if not isinstance(card, dict):
        return ["the metadata is no mapping"]
    said = faults_of_space(card) if space else []
    for key in (
        "license",
        "language",
        "tags",
        "task_categories",
        "size_categories",
        "source_datasets",
        "datasets",
        "base_model",
    ):
        value = card.get(key, [])
        if not all(isinstance(x, str) for x in (value if isinstance(value, list) else [value])):
            said.append(f'"{key}" must be a string or a list of strings')
    configs = card.get("configs", [])
    if not isinstance(configs, list) or not all(isinstance(c, dict) and "config_name" in c for c in configs):
        return [*said, '"configs" must be a list of mappings with "config_name"']
    if len({c["config_name"] for c in configs}) < len(configs) or sum(bool(c.get("default")) for c in configs) > 1:
        said.append('"configs" must have distinct names and at most one default')
    return said


def faults_of_space(card: dict) -> list[str]:
    """What the Hub refuses in the card of a Space."""
    said = [] if card.get("sdk") in SPACE_SDKS else [f'"sdk" must be one of {", ".join(SPACE_SDKS)}']
    said += [
        f'"{key}" must be one of {", ".join(SPACE_COLORS)}'
        for key in ("colorFrom", "colorTo")
        if card.get(key, "red") not in SPACE_COLORS
    ]
    if len(card.get("short_description", "")) > 60:
        said.append('"short_description" must be at most 60 characters long')
    return said


# --- reading


@route("tree", "GET", "/api/{type}/{repo}/tree/{revision}(?:/{path})?")
def tree(request: Request) -> Answer:
    found = request.readable()
    entries, folder = found.tree(found.resolve(request.revision)), request.parts["path"].strip("/")
    if folder and (folder not in entries or entries[folder].is_file):
        raise Refusal(404, f"{folder} is no folder of {found.id}", "EntryNotFound")
    start = f"{folder}/" if folder else ""
    inside = [e for e in entries.values() if e.path.startswith(start)]
    if request.query.get("recursive", ["false"])[0].lower() not in ("1", "true"):
        inside = [e for e in inside if "/" not in e.path.removeprefix(start)]
    at = int(request.query.get("cursor", ["0"])[0])
    more = {}
    if at + PAGE < len(inside):
        query = "&".join(f"{k}={v[0]}" for k, v in request.query.items() if k != "cursor")
        more["Link"] = f'<{request.hub.endpoint}{request.path}?{query}&cursor={at + PAGE}>; rel="next"'
    return as_json([e.row() for e in inside[at : at + PAGE]], **more)


@route("paths_info", "POST", "/api/{type}/{repo}/paths-info/{revision}")
def paths_info(request: Request) -> Answer:
    found = request.readable()
    entries = found.tree(found.resolve(request.revision))
    asked = parse_qs(request.body.decode()).get("paths", [])
    return as_json([entries[path].row() for path in asked if path in entries])


@route("refs", "GET", "/api/{type}/{repo}/refs")
def refs(request: Request) -> Answer:
    return as_json(request.readable().refs())


@route("commits", "GET", "/api/{type}/{repo}/commits/{revision}")
def commits(request: Request) -> Answer:
    found = request.readable()
    return as_json(found.history(found.resolve(request.revision)))


@route("resolve", "GET HEAD", "/{prefix}{repo}/resolve/{revision}/{path}")
def resolve(request: Request) -> Answer:
    """A file, or the asked range of its bytes."""
    found = request.readable()
    commit = found.resolve(request.revision)
    headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
    if found.gated and not (request.hub.may_write(request.user, found.id) or request.user in found.readers):
        raise Refusal(403 if request.user else 401, f"Access to {found.id} is restricted", "GatedRepo")
    entry = found.tree(commit).get(request.parts["path"])
    if entry is None or not entry.is_file:
        # clients note that this commit lacks the file
        raise Refusal(404, f"{request.parts['path']} is not in {found.id}", "EntryNotFound", headers)
    headers["ETag"] = f'"{entry.oid}"'
    if entry.large:
        headers |= {"X-Linked-ETag": f'"{entry.large.oid}"', "X-Linked-Size": str(entry.large.size)}
        data = request.hub.large_files.path(entry.large.oid).read_bytes()
    else:
        data = found.blob(entry)
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if not asked:
        return Answer(data, HTTPStatus.OK, headers)
    first, last = asked.groups()
    start = int(first) if first else max(len(data) - int(last), 0)
    stop = min(int(last) + 1, len(data)) if first and last else len(data)
    if start >= stop:
        return Answer(b"", HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    return Answer(data[start:stop], HTTPStatus.PARTIAL_CONTENT, headers)


# --- writing


@route("lfs_batch", "POST", "/{prefix}{repo}\\.git/info/lfs/objects/batch")
def lfs_batch(request: Request) -> Answer:
    """Where to send each object; those that are here need no sending."""
    request.writable(pull_request=True)
    objects = []
    for asked in request.json["objects"]:
        oid, row = asked["oid"], {"oid": asked["oid"], "size": asked["size"]}
        if not request.hub.large_files.has(oid):
            url = f"{request.hub.endpoint}/large/{oid}"
            upload = {"href": url, "header": request.hub.large_files.upload_header(asked["size"], f"{url}/part")}
            row["actions"] = {"upload": upload, "verify": {"href": f"{url}/verify"}}
        objects.append(row)
    return as_json({"transfer": "basic", "objects": objects})


@route("lfs_put", "PUT", "/large/{oid}")
def lfs_put(request: Request) -> Answer:
    """The whole object. As with storage behind signed addresses, no token comes along; what counts is the sha256."""
    if not request.hub.large_files.add(request.parts["oid"], request.body):
        raise Refusal(400, "the bytes have another sha256")
    return Answer()


@route("lfs_part", "PUT", "/large/{oid}/part/{number}")
def lfs_part(request: Request) -> Answer:
    etag = request.hub.large_files.add_part(request.parts["oid"], int(request.parts["number"]), request.body)
    return Answer(headers={"ETag": f'"{etag}"'})


@route("lfs_join", "POST", "/large/{oid}")
def lfs_join(request: Request) -> Answer:
    numbers = [part["partNumber"] for part in request.json["parts"]]
    if not request.hub.large_files.join(request.parts["oid"], numbers):
        raise Refusal(400, "a part is missing, or the bytes have another sha256")
    return as_json({})


@route("lfs_verify", "POST", "/large/{oid}/verify")
def lfs_verify(request: Request) -> Answer:
    if not request.hub.large_files.has(request.parts["oid"]):
        raise Refusal(404, "no such object")
    return as_json({})


@route("preupload", "POST", "/api/{type}/{repo}/preupload/{revision}")
def preupload(request: Request) -> Answer:
    """How each file is to be sent, and what is there under its name: a sha256 for a large file, a git hash else."""
    found = request.writable(pull_request="create_pr" in request.query)
    entries = found.tree(found.resolve(request.revision))

    def told(file: dict) -> dict:
        large = is_large(file["path"], base64.b64decode(file["sample"]))
        entry = entries.get(file["path"])
        oid = entry and (entry.large.oid if entry.large else entry.oid)
        mode = "lfs" if large else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    return as_json(
        {"files": [told(file) for file in request.json["files"]], "commitOid": found.resolve(request.revision)}
    )


@route("commit", "POST", "/api/{type}/{repo}/commit/{revision}")
def commit(request: Request) -> Answer:
    create_pr = "create_pr" in request.query
    found = request.writable(pull_request=create_pr)
    lines = [json.loads(line) for line in request.body.splitlines() if line]
    head = lines[0]["value"]
    files, deleted = {}, []
    for line in lines[1:]:
        kind, value = line["key"], line["value"]
        if kind == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif kind == "lfsFile":
            if not request.hub.large_files.has(value["oid"]):
                raise Refusal(400, f"{value['path']} points to a large file that was never uploaded")
            size = request.hub.large_files.path(value["oid"]).stat().st_size
            files[value["path"]] = Pointer(value["oid"], size).text()
        else:
            deleted.append(value["path"].rstrip("/") + ("/" if kind == "deletedFolder" else ""))
    asked = Commit(
        head["summary"],
        head.get("description", ""),
        request.needs_user(),
        head.get("parentCommit"),
        files,
        tuple(deleted),
    )
    oid, opened = found.commit(request.revision, asked, create_pr)
    page = request.hub.page(found.type, found.id)
    said = {"success": True, "commitOid": oid, "commitUrl": f"{page}/commit/{oid}"}
    if opened:
        said["pullRequestUrl"] = f"{page}/discussions/{opened.number}"
    return as_json(said)


@route("branch", "POST", "/api/{type}/{repo}/branch/{name}")
def branch(request: Request) -> Answer:
    found = request.writable()
    found.add_ref(f"refs/heads/{request.parts['name']}", found.resolve(request.json.get("startingPoint") or "main"))
    return as_json({})


@route("tag", "POST", "/api/{type}/{repo}/tag/{revision}")
def tag(request: Request) -> Answer:
    found = request.writable()
    found.add_ref(f"refs/tags/{request.json['tag']}", found.resolve(request.revision))
    return as_json({})


# the widest pattern comes last: an id may look like anything


@route("info", "GET", "/api/{type}/{repo}(?:/revision/{revision})?")
def info(request: Request) -> Answer:
    found = request.readable()
    oid = found.resolve(request.revision)
    entries = found.tree(oid)
    card = card_data(found, entries)
    of_space = {"sdk": card.get("sdk", found.sdk)} if found.type == "spaces" else {}
    return as_json({
        "_id": hashlib.sha256(found.id.encode()).hexdigest()[:24], "id": found.id, "author": found.id.split("/")[0],
        "sha": oid, "createdAt": found.created, "lastModified": found.history(oid)[0]["date"], "private": found.private,
        "gated": found.gated, "disabled": False, "downloads": 0, "likes": 0, "cardData": card, "tags": tags_of(card),
        "siblings": [sibling(e, "blobs" in request.query) for e in entries.values() if e.is_file],
        **of_space,
    })  # fmt: skip


def sibling(entry: Entry, with_blobs: bool) -> dict:
    row = {"rfilename": entry.path}
    if with_blobs:
        told = entry.row()
        row |= {"size": told["size"], "blobId": entry.oid}
        if entry.large:
            row["lfs"] = {"sha256": entry.large.oid, "size": entry.large.size, "pointerSize": entry.size}
    return row


def card_data(repository: Repository, entries: dict[str, Entry]) -> dict:
    if "README.md" not in entries:
        return {}
    return yaml.safe_load(front_matter(repository.blob(entries["README.md"]).decode()) or "") or {}


def tags_of(card: dict) -> list[str]:
    licenses = card.get("license") or []
    return [
        *(card.get("tags") or []),
        *(f"license:{x}" for x in ([licenses] if isinstance(licenses, str) else licenses)),
    ]
