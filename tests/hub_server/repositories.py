"""One repository of the Hub: a bare git repository (git 2.38 or later), its pull requests and its access flags."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.hub_server.discussions import Discussion, hub_time
from tests.hub_server.large_files import ATTRIBUTES, Pointer


class Refusal(Exception):
    """An answer that is an error, with the status and the `X-Error-Code` by which clients tell errors apart."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict | None = None, **body):
        super().__init__(message)
        self.status, self.message, self.body = status, message, body
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}


@dataclass(frozen=True)
class Entry:
    """A file or folder of one commit; `large` where the file's bytes are kept apart."""

    path: str
    is_file: bool
    oid: str
    size: int
    large: Pointer | None = None

    def row(self) -> dict:
        """As the tree routes tell it."""
        if not self.is_file:
            return {"type": "directory", "oid": self.oid, "size": 0, "path": self.path}
        row = {"type": "file", "oid": self.oid, "size": self.size, "path": self.path}
        if self.large:
            row["size"] = self.large.size
            row["lfs"] = {"oid": self.large.oid, "size": self.large.size, "pointerSize": self.size}
        return row


@dataclass(frozen=True)
class Commit:
    """What a client asks to be committed: bytes by path (pointer text for large files) and deletions (folders end in "/")."""

    summary: str
    description: str
    author: str
    parent: str | None
    files: dict[str, bytes]
    deleted: tuple[str, ...] = ()


@dataclass
class Repository:
    """A repository with its first commit, made at `folder`; all changes of its refs happen under one lock."""

    type: str  # "models", "datasets" or "spaces", as in its URLs
    id: str
    folder: Path
    owner: str
    private: bool = False
    gated: str | bool = False
    readers: set[str] = field(default_factory=set)  # users who may read in spite of `gated`
    sdk: str | None = None  # of a Space
    discussions: list[Discussion] = field(default_factory=list)
    created: str = field(default_factory=lambda: hub_time(time.time()))

    def __post_init__(self):
        self.lock = threading.Lock()
        self._trees: dict[str, dict[str, Entry]] = {}
        self._git("init", "--bare", "--quiet", "--template=", "--initial-branch=main")
        first = Commit("initial commit", "", self.owner, None, {".gitattributes": ATTRIBUTES})
        self._write("refs/heads/main", None, first)

    def resolve(self, revision: str) -> str:
        """The commit of a branch, tag, ref or (shortened) hash.

        Raises:
            Refusal: 404 RevisionNotFound.
        """
        if re.fullmatch(r"[\w.][\w./-]*", revision):
            options = ("--verify", "--quiet", "--end-of-options")
            said = self._git("rev-parse", *options, f"{revision}^{{commit}}", check=False)
            if said:
                return said.decode().split()[-1]
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def tree(self, commit: str) -> dict[str, Entry]:
        """Files and folders of a commit by path; what a hash names never changes, so it is read once."""
        if commit not in self._trees:
            rows = [row.split(b"\t", 1) for row in self._git("ls-tree", "-rtlz", commit).split(b"\0") if row]
            found = [(*facts.split(), path.decode()) for facts, path in rows]
            pointers = self._pointers([oid for _, kind, oid, size, _ in found if kind == b"blob" and int(size) < 200])
            self._trees[commit] = {
                path: Entry(path, kind == b"blob", oid.decode(), int(size.replace(b"-", b"0")), pointers.get(oid))
                for _, kind, oid, size, path in found
            }
        return self._trees[commit]

    def _pointers(self, oids: list[bytes]) -> dict[bytes, Pointer]:
        said, found, at = self._git("cat-file", "--batch", stdin=b"\n".join([*oids, b""])), {}, 0
        for oid in oids:
            end = said.index(b"\n", at)
            size = int(said[at:end].split()[2])
            pointer = Pointer.read(said[end + 1 : end + 1 + size])
            if pointer:
                found[oid] = pointer
            at = end + 1 + size + 1
        return found

    def blob(self, entry: Entry) -> bytes:
        return self._git("cat-file", "blob", entry.oid)

    def history(self, commit: str) -> list[dict]:
        """Commits from `commit` back to the first, newest first."""
        said = self._git("log", "--topo-order", "--format=%H%x00%an%x00%ct%x00%s%x00%b%x01", commit).decode()
        rows = [row.strip("\n").split("\0") for row in said.split("\1")[:-1]]
        return [
            {
                "id": oid,
                "title": title,
                "message": body.strip(),
                "authors": [{"user": name}],
                "date": hub_time(int(at)),
            }
            for oid, name, at, title, body in rows
        ]

    def refs(self) -> dict[str, list[dict]]:
        said = self._git("for-each-ref", "--format=%(refname) %(objectname) %(*objectname)").decode().splitlines()
        groups = {"refs/heads/": "branches", "refs/tags/": "tags", "refs/pr/": "pullRequests"}
        found = {"branches": [], "tags": [], "converts": [], "pullRequests": []}
        for line in said:
            ref, *oids = line.split()
            start = next(start for start in groups if ref.startswith(start))
            name = ref if start == "refs/pr/" else ref.removeprefix(start)
            found[groups[start]].append({"name": name, "ref": ref, "targetCommit": oids[-1]})
        return found

    def commit(self, revision: str, asked: Commit, create_pr: bool = False) -> tuple[str, Discussion | None]:
        """Adds one commit to a branch or to a pull request, or opens a new pull request with it.

        Raises:
            Refusal: 404 for an unknown branch or a deletion of nothing, 412 when the branch moved past the stated parent.
        """
        with self.lock:
            ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
            head = self.resolve(ref)
            if asked.parent and not head.startswith(asked.parent):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            paths = self.tree(head)
            for path in asked.deleted:
                if path.rstrip("/") not in paths:
                    raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            if not create_pr:
                oid, thread = self._write(ref, head, asked), self._of_ref(ref)
            else:
                thread = Discussion(len(self.discussions) + 1, asked.summary, asked.author, ref)
                oid = self._write(thread.ref, head, asked)
                thread.comment(asked.author, asked.description)
                self.discussions.append(thread)
            if thread:
                thread.commit(asked.author, asked.summary, oid)
            return oid, thread if create_pr else None

    def open_discussion(self, title: str, author: str, pull_request: bool) -> Discussion:
        """A thread with the next number; a pull request starts as a draft at the head of main."""
        with self.lock:
            thread = Discussion(len(self.discussions) + 1, title, author)
            if pull_request:
                thread.base, thread.status = "refs/heads/main", "draft"
                self._git("update-ref", thread.ref, self.resolve(thread.base), "")
            self.discussions.append(thread)
            return thread

    def discussion(self, number: int) -> Discussion:
        """Raises Refusal (404) for an unknown number."""
        if not 1 <= number <= len(self.discussions):
            raise Refusal(404, f"No discussion {number}", "EntryNotFound")
        return self.discussions[number - 1]

    def _of_ref(self, ref: str) -> Discussion | None:
        return next((thread for thread in self.discussions if thread.base and thread.ref == ref), None)

    def opened(self, ref: str) -> str | None:
        """Who opened the pull request of this ref."""
        thread = self._of_ref(ref)
        return thread and thread.author

    def merged_tree(self, thread: Discussion) -> str | None:
        """The tree that merging a pull request would make, or None where both changed the same lines."""
        ours, theirs = self.resolve(thread.base), self.resolve(thread.ref)
        said = self._git("merge-tree", "--write-tree", ours, theirs, check=False)
        return said.decode().split()[0] if said else None

    def diff(self, thread: Discussion) -> str:
        """What a pull request changes, since it left its base."""
        theirs = self.resolve(thread.ref)
        if thread.merge_commit:
            return self._git("diff", f"{thread.merge_commit}^1...{theirs}").decode(errors="replace")
        return self._git("diff", f"{self.resolve(thread.base)}...{theirs}").decode(errors="replace")

    def merge(self, number: int, author: str) -> str:
        """Merges a pull request into the branch it was opened on.

        Raises:
            Refusal: 404 for an unknown number, 409 when it is not open or the two changed the same lines.
        """
        with self.lock:
            thread = self.discussion(number)
            if thread.base is None or thread.status not in ("open", "draft"):
                raise Refusal(409, f"Pull request {number} is {thread.status}")
            tree = self.merged_tree(thread)
            if tree is None:
                raise Refusal(409, f"Pull request {number} conflicts with {thread.base}")
            ours = self.resolve(thread.base)
            message, parents = f"{thread.title} (#{number})", ("-p", ours, "-p", self.resolve(thread.ref))
            merged = self._git("commit-tree", tree, *parents, "-m", message, author=author).decode().strip()
            self._git("update-ref", thread.base, merged, ours)
            thread.merge_commit = merged
            thread.change_status(author, "merged")
            return merged

    def add_ref(self, ref: str, commit: str) -> None:
        """Makes a branch or tag.

        Raises:
            Refusal: 409 when it is there.
        """
        with self.lock:
            if self._git("for-each-ref", ref):
                raise Refusal(409, f"Reference {ref} already exists")
            self._git("update-ref", ref, commit, "")

    def _write(self, ref: str, parent: str | None, asked: Commit) -> str:
        """One run of git writes blobs, trees and commit and then moves the ref: all of it or nothing."""
        message = f"{asked.summary}\n\n{asked.description}".strip().encode()
        lines = [b"commit " + ref.encode()]
        lines += [f"committer {asked.author} <{asked.author}@example.org> {int(time.time())} +0000".encode()]
        lines += [b"data %d\n%s" % (len(message), message)]
        lines += [b"from " + parent.encode()] if parent else []
        lines += [b"D " + path.rstrip("/").encode() for path in asked.deleted]
        for path, data in asked.files.items():
            lines += [b"M 100644 inline " + path.encode(), b"data %d\n%s" % (len(data), data)]
        self._git("fast-import", "--quiet", stdin=b"\n".join([*lines, b""]))
        return self.resolve(ref)

    def _git(self, *arguments: str, stdin: bytes = b"", check: bool = True, author: str = "hub") -> bytes:
        """Output of a git command, free of the settings of this machine; empty if it fails and `check` is off."""
        who = {f"GIT_{role}_{what}": author for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "PATH": os.environ["PATH"]}
        where = {"GIT_DIR": str(self.folder)}
        done = subprocess.run(["git", *arguments], env={**who, **alone, **where}, input=stdin, capture_output=True)
        if done.returncode and check:
            raise RuntimeError(f"git {' '.join(arguments)}: {done.stderr.decode()}")
        return b"" if done.returncode else done.stdout
