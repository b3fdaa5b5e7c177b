"""
A Hugging Face Hub on this machine: the real clients push to it and load from it, and no test needs a network.

    with HubServer() as hub:
        subprocess.run([sys.executable, "push.py"], env=hub.environment(tmp_path), check=True)
        print(hub.files("tester/speeches")["config.json"])

The clients read `HF_ENDPOINT` when they are imported, so they must run in a process of their own (tests have a
`machine` for that, see conftest.py). To push by hand, run `python tests/hub_server.py --port 8765`, export what it
prints, and look at the result in a browser. All is in memory.
"""

import argparse
import base64
import fnmatch
import hashlib
import html
import json
import os
import re
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote

import yaml  # every client of the Hub brings it


class Account(NamedTuple):
    """Whom a token belongs to, and its role: "write" (to the user's and the organizations' repositories) or "read"."""

    user: str
    role: str = "write"
    organizations: tuple[str, ...] = ()


WRITE_TOKEN, READ_TOKEN, STRANGER_TOKEN = "hf_write", "hf_read", "hf_stranger"
TOKENS = {WRITE_TOKEN: Account("tester"), READ_TOKEN: Account("tester", "read"), STRANGER_TOKEN: Account("stranger")}

# What the Hub writes into a new repository, shortened to the kinds of files met here.
LFS_PATTERNS = (
    "*.7z *.arrow *.bin *.bin.* *.bz2 *.ckpt *.gz *.h5 *.joblib *.model *.msgpack *.npy *.npz *.onnx *.parquet *.pb "
    "*.pickle *.pkl *.pt *.pth *.safetensors *.tar *.tar.* *.tgz *.wasm *.xz *.zip *.zst *tfevents*"
).split()
GIT_ATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS)
LARGEST_REGULAR_FILE = 10 * 1024**2
Contents = Mapping[str, bytes | str]  # by path
CLIENT_VARIABLE = re.compile(r"HF_|HUGGING_?FACE|TRANSFORMERS_|(https?|all|no)_proxy$", re.IGNORECASE)


class HubError(Exception):
    """A refusal. The clients choose their exception by `code`."""

    def __init__(self, status: int, message: str, code: str = "", commit: str = "", **body: str):
        super().__init__(message)
        self.status = status
        self.body = {"error": message, **body}
        # A header holds one line of ASCII.
        shown = " ".join(message.split()).encode("ascii", "backslashreplace").decode()
        headers = {"X-Error-Message": shown, "X-Error-Code": code, "X-Repo-Commit": commit}
        self.headers = {name: text for name, text in headers.items() if text}


class File(NamedTuple):
    """One file of a commit. In LFS, git knows only a pointer to the content: `git_oid` and `pointer_size` are its."""

    sha256: str
    size: int
    git_oid: str
    pointer_size: int = 0

    @property
    def etag(self) -> str:
        return self.sha256 if self.pointer_size else self.git_oid

    def entry(self) -> dict[str, Any]:
        lfs = {"oid": self.sha256, "sha256": self.sha256, "size": self.size, "pointerSize": self.pointer_size}
        entry = {"type": "file", "oid": self.git_oid, "blobId": self.git_oid, "size": self.size}
        return {**entry, "lfs": lfs} if self.pointer_size else entry


class Commit(NamedTuple):
    """A snapshot of all files by path, and where it came from."""

    id: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, File]


@dataclass
class Repo:
    """A model, dataset or space. A gated one is downloaded by its owner and by the users in `granted`."""

    id: str
    type: str
    private: bool = False
    gated: bool = False
    granted: set[str] = field(default_factory=set)
    history: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """The path of its page and of its files."""
        return self.id if self.type == "model" else f"{self.type}s/{self.id}"

    def belongs_to(self, account: Account | None) -> bool:
        return account is not None and self.id.split("/")[0] in (account.user, *account.organizations)

    def find(self, revision: str) -> Commit:
        """The commit of a branch, a tag or a commit id, whole or the first 5 digits or more."""
        wanted = self.branches.get(revision) or self.tags.get(revision) or revision
        found = [commit for known, commit in self.history.items() if known.startswith(wanted)]
        if len(found) != 1 or len(wanted) < 5:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0]

    def log(self, revision: str) -> list[Commit]:
        """The commits of a revision, newest first."""
        commits = [self.find(revision)]
        while commits[-1].parent:
            commits.append(self.history[commits[-1].parent])
        return commits

    def add(self, branch: str, files: dict[str, File], title: str, message: str = "", author: str = "system") -> str:
        """Commit a snapshot to a branch. The id follows from the parent, the title, the message and the contents."""
        parent = self.branches.get(branch)
        content = [parent, title, message, sorted(files.items())]
        oid = hashlib.sha1(json.dumps(content).encode()).hexdigest()
        date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        self.history[oid] = Commit(oid, parent, title, message, author, date, files)
        self.branches[branch] = oid
        return oid


class Reply(NamedTuple):
    body: bytes
    status: int = 200
    headers: Mapping[str, str] = {}


@dataclass
class Request:
    """What a client sent; `args` are the named groups of the route that fits."""

    method: str
    quoted_path: str
    query: dict[str, list[str]]
    headers: Message
    body: bytes
    args: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return unquote(self.quoted_path)

    def json(self) -> dict[str, Any]:
        return json.loads(self.body or b"{}")


@dataclass
class Fault:
    method: str | None
    path: str
    status: int | None
    times: int | None
    delay: float


def to_json(body: dict | list, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    # A card may hold what JSON cannot, such as a date.
    content = json.dumps(body, default=str).encode()
    return Reply(content, status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})


def as_list(value: Any) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def with_folders(paths: Iterable[str]) -> set[str]:
    return {"/".join(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 2)}


def read_card(text: str) -> tuple[dict[str, Any], list[str], list[str]]:
    """
    Return the metadata of a README, and what the Hub finds wrong with it: errors, which refuse a push, and warnings.

    Of the Hub's many rules those are here that a generated card may break: the metadata must be YAML, a base model or
    dataset an id on the Hub, and a language lower-case.
    """
    block = re.match(r"\s*---\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, re.DOTALL)
    if block is None:
        return {}, [], ["empty or missing yaml metadata in repo card"]
    try:
        card = yaml.safe_load(block[1])
    except yaml.YAMLError as error:
        return {}, [f"YAML Metadata Error: {error}"], []
    if not isinstance(card, dict):
        return {}, [f"YAML Metadata Error: expected a mapping, got {type(card).__name__}"], []
    errors = []
    for key, kind in (("base_model", "model"), ("datasets", "dataset")):
        for value in as_list(card.get(key)):
            if not re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", str(value)):
                advice = f"Use a {kind} id from https://hf.co/{kind}s."
                errors.append(f'"{key}" with value "{value}" is not valid. {advice}')
    if any(str(language) != str(language).lower() for language in as_list(card.get("language"))):
        errors.append('"language" must only contain lowercase characters')
    return card, errors, []


class HubServer:
    """
    A Hub on 127.0.0.1 that serves while it is entered as a context.

    Args:
        port (`int`, *optional*, defaults to 0): Where to listen; 0 takes a free port.
        tokens (`dict[str, Account]`, *optional*): Who is known. Without it [`TOKENS`]: `tester` with a token to write
            and one to read, and `stranger`.
        verbose (`bool`, *optional*, defaults to `False`): Whether to print each request to stderr. Tokens never show.
        server (`_Server`, *optional*): Who listens already, to answer by this Hub from now on.

    `requests` is the log, as in `"POST /api/repos/create"`, without the query and with the path unquoted.
    """

    def __init__(
        self,
        port: int = 0,
        tokens: dict[str, Account] | None = None,
        verbose: bool = False,
        server: "_Server | None" = None,
    ):
        self.tokens = TOKENS if tokens is None else tokens
        self.verbose = verbose
        self.requests: list[str] = []
        self._repos: dict[tuple[str, str], Repo] = {}
        self._blobs: dict[str, bytes] = {}
        self._faults: list[Fault] = []
        self._lock = threading.RLock()
        self._server = server or _Server(("127.0.0.1", port), _Handler)
        self._server.hub = self
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def replaced_by(self, tokens: dict[str, Account] | None = None, verbose: bool = False) -> "HubServer":
        """Return a new, empty Hub that answers at this one's address from now on. This one keeps what it holds."""
        return HubServer(tokens=tokens, verbose=verbose, server=self._server)

    def variables(self, home: str | Path, token: str | None = WRITE_TOKEN) -> dict[str, str]:
        """Return the environment variables that send every client here, with its caches in the folder `home`."""
        switches = (
            "HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS",
            "HF_HUB_DISABLE_EXPERIMENTAL_WARNING", "HF_HUB_DISABLE_UPDATE_CHECK", "HF_DATASETS_DISABLE_PROGRESS_BARS",
        )  # fmt: skip
        places = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_MODULES_CACHE": str(Path(home) / "modules")}
        direct = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
        return {**places, **direct, **dict.fromkeys(switches, "1"), **({"HF_TOKEN": token} if token else {})}

    def environment(self, tmp_path: str | Path, token: str | None = WRITE_TOKEN) -> dict[str, str]:
        """
        Return the environment of a client process: this one's, without its proxies and Hugging Face settings (such as
        `HF_HUB_OFFLINE`), and with [`~HubServer.variables`]. Every call makes a new, empty cache below `tmp_path`.
        """
        kept = {name: text for name, text in os.environ.items() if not CLIENT_VARIABLE.match(name)}
        return {**kept, **self.variables(tempfile.mkdtemp(prefix="hf_home_", dir=tmp_path), token)}

    def add_repo(
        self,
        repo_id: str,
        files: Contents | None = None,
        repo_type: str = "model",
        private: bool = False,
        gated: bool = False,
    ) -> Repo:
        """Create a repository, with `files` as its second commit, and return it."""
        with self._lock:
            repo = self._repos[repo_type, repo_id] = Repo(repo_id, repo_type, private, gated)
            repo.add("main", {".gitattributes": self._store(GIT_ATTRIBUTES.encode())}, "initial commit")
            if files:
                self.commit(repo_id, files, "Add files", repo_type)
            return repo

    def commit(self, repo_id: str, files: Contents, title: str, repo_type: str = "model", branch: str = "main") -> str:
        """Add or replace files on a branch and return the commit's id."""
        with self._lock:
            repo = self.repo(repo_id, repo_type)
            snapshot = dict(repo.find(branch).files)
            for path, text in files.items():
                content = text.encode() if isinstance(text, str) else text
                is_lfs = self._belongs_in_lfs(snapshot, path, len(content), content[:512])
                snapshot[path] = self._store(content, is_lfs)
            return repo.add(branch, snapshot, title)

    def repo(self, repo_id: str, repo_type: str = "model") -> Repo:
        """Return a repository, to read its `branches` and `tags` or to set `private`, `gated` and `granted`."""
        if (repo_type, repo_id) not in self._repos:
            known = ", ".join(f"{kind} {name}" for kind, name in self._repos) or "nothing"
            raise KeyError(f"no {repo_type} {repo_id} on this Hub, which holds {known}")
        return self._repos[repo_type, repo_id]

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        """Return the contents of a revision by path, `.gitattributes` among them."""
        with self._lock:
            snapshot = self.repo(repo_id, repo_type).find(revision).files
            return {path: self._blobs[file.sha256] for path, file in snapshot.items()}

    def commits(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> list[str]:
        """Return the titles of the commits, newest first; the last is the Hub's own "initial commit"."""
        with self._lock:
            return [commit.title for commit in self.repo(repo_id, repo_type).log(revision)]

    def fail(
        self,
        method: str | None = None,
        path: str = "",
        status: int | None = 503,
        times: int | None = None,
        delay: float = 0,
    ) -> None:
        """
        Refuse the requests of a method (or of any) in whose path the regular expression `path` is found.

        The stages of a push are `/repos/create`, `/validate-yaml`, `/preupload/`, `/objects/batch`, `/lfs-upload/`,
        `/lfs/verify` and `/commit/`; those of a download `/revision/`, `/tree/` and `/resolve/`.

        Args:
            method (`str`, *optional*): "GET", "HEAD", "POST", "PUT" or "DELETE".
            path (`str`, *optional*): What to find in the unquoted path, without the query.
            status (`int`, *optional*, defaults to 503): What to answer; `None` answers properly, after the delay.
            times (`int`, *optional*): How many requests, from now on. Without it until [`~HubServer.heal`].
            delay (`float`, *optional*, defaults to 0): Seconds to wait before the answer.
        """
        with self._lock:
            self._faults.append(Fault(method, path, status, times, delay))

    def heal(self) -> None:
        """Forget every [`~HubServer.fail`]."""
        with self._lock:
            self._faults.clear()

    def answer(self, request: Request) -> Reply:
        """Return the reply to a request, a refusal included."""
        with self._lock:
            self.requests.append(f"{request.method} {request.path}")
            fault = self._next_fault(request)
        if fault:
            time.sleep(fault.delay)
        try:
            if fault and fault.status:
                raise HubError(fault.status, "The test asked this Hub to fail here")
            with self._lock:
                return self._route(request)
        except HubError as error:
            return to_json(error.body, error.status, error.headers)
        except (KeyError, ValueError) as error:
            return to_json({"error": f"Malformed request {request.method} {request.path}: {error!r}"}, 400)

    def _next_fault(self, request: Request) -> Fault | None:
        for fault in self._faults:
            if fault.times != 0 and fault.method in (None, request.method) and re.search(fault.path, request.path):
                fault.times = fault.times and fault.times - 1
                return fault
        return None

    def _route(self, request: Request) -> Reply:
        for methods, pattern, endpoint in _ROUTES:
            match = re.fullmatch(pattern, request.quoted_path)
            if match and request.method in methods.split():
                request.args = {name: unquote(text) for name, text in match.groupdict().items() if text}
                return endpoint(self, request)
        raise HubError(404, f"The test Hub has no endpoint {request.method} {request.path}, see tests/hub_server.py")

    def _store(self, content: bytes, is_lfs: bool = False) -> File:
        sha256 = hashlib.sha256(content).hexdigest()
        self._blobs[sha256] = content
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
        stored = pointer if is_lfs else content
        git_oid = hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()
        return File(sha256, len(content), git_oid, len(pointer) if is_lfs else 0)

    def _belongs_in_lfs(self, snapshot: Mapping[str, File], path: str, size: int, sample: bytes) -> bool:
        attributes = snapshot.get(".gitattributes")
        lines = self._blobs[attributes.sha256].decode().splitlines() if attributes else []
        patterns = [line.split()[0] for line in lines if "filter=lfs" in line]
        named = any(fnmatch.fnmatch(text, pattern) for pattern in patterns for text in (path, path.split("/")[-1]))
        return named or size > LARGEST_REGULAR_FILE or b"\0" in sample

    def _card(self, commit: Commit) -> tuple[dict[str, Any], list[str]]:
        """The metadata of a commit's README and its errors."""
        readme = commit.files.get("README.md")
        return read_card(self._blobs[readme.sha256].decode())[:2] if readme else ({}, [])

    def _account(self, request: Request) -> Account | None:
        header = request.headers.get("Authorization")
        if header is None:
            return None
        if header.removeprefix("Bearer ") not in self.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.tokens[header.removeprefix("Bearer ")]

    def _writer(self, request: Request) -> Account:
        account = self._account(request)
        if account is None:
            # The real client takes any 401 about a repository for a missing one, but without https only by the code.
            code = "RepoNotFound" if "repo" in request.args else ""
            raise HubError(401, "Invalid username or password.", code)
        if account.role != "write":
            raise HubError(403, "You must use a write token to change a repository")
        return account

    def _readable(self, request: Request) -> Repo:
        """The repository of a request. For those who may not see it, a private one does not exist."""
        account, kind = self._account(request), request.args.get("type", "models").removesuffix("s")
        repo = self._repos.get((kind, request.args["repo"]))
        if repo is None or (repo.private and not repo.belongs_to(account)):
            status, message = (404, "Repository not found") if account else (401, "Invalid username or password.")
            raise HubError(status, message, "RepoNotFound")
        return repo

    def _writable(self, request: Request, as_pull_request: bool = False) -> Repo:
        account, repo = self._writer(request), self._readable(request)
        if not as_pull_request and not repo.belongs_to(account):
            raise HubError(403, f"{account.user} may not write to the {repo.type} {repo.id}")
        return repo

    def _whoami(self, request: Request) -> Reply:
        account = self._account(request)
        if account is None:
            raise HubError(401, "Invalid username or password.")
        organizations = [{"type": "org", "name": name, "roleInOrg": "write"} for name in account.organizations]
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": account.role}}
        return to_json({"type": "user", "name": account.user, "id": account.user, "orgs": organizations, "auth": auth})

    def _validate_yaml(self, request: Request) -> Reply:
        _, *found = read_card(request.json()["content"])
        errors, warnings = ([{"message": text} for text in texts] for texts in found)
        return to_json({"errors": errors, "warnings": warnings}, 400 if errors else 200)

    def _create_repo(self, request: Request) -> Reply:
        account, wanted = self._writer(request), request.json()
        kind, owner = wanted.get("type") or "model", wanted.get("organization") or account.user
        repo = Repo(f"{owner}/{wanted['name']}", kind)
        url = f"{self.endpoint}/{repo.prefix}"
        if not repo.belongs_to(account):
            raise HubError(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        if (kind, repo.id) in self._repos:
            raise HubError(409, f"You already created this {kind} repo", url=url)
        self.add_repo(repo.id, None, kind, bool(wanted.get("private")) or wanted.get("visibility") == "private")
        return to_json({"name": repo.id, "url": url})

    def _delete_repo(self, request: Request) -> Reply:
        wanted = request.json()
        owner = wanted.get("organization") or self._writer(request).user
        request.args = {"type": f"{wanted.get('type') or 'model'}s", "repo": f"{owner}/{wanted['name']}"}
        repo = self._writable(request)
        del self._repos[repo.type, repo.id]
        return to_json({})

    def _preupload(self, request: Request) -> Reply:
        repo = self._writable(request, "create_pr" in request.query)
        snapshot, files = repo.find(request.args["revision"]).files, []
        for file in request.json()["files"]:
            path, sample = file["path"], base64.b64decode(file["sample"])
            mode = "lfs" if self._belongs_in_lfs(snapshot, path, file["size"], sample) else "regular"
            # The client leaves a file out of the commit if it has this content already.
            oid = snapshot[path].etag if path in snapshot else None
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return to_json({"files": files})

    def _plan_lfs_uploads(self, request: Request) -> Reply:
        wanted = request.json()
        repo, objects = self._writable(request, as_pull_request="ref" not in wanted), []
        for item in wanted["objects"]:
            upload = {"href": f"{self.endpoint}/lfs-upload/{item['oid']}"}
            verify = {"href": f"{self.endpoint}/{repo.prefix}.git/info/lfs/verify"}
            missing = item["oid"] not in self._blobs
            objects.append({**item, **({"actions": {"upload": upload, "verify": verify}} if missing else {})})
        return to_json({"transfer": "basic", "objects": objects})

    def _upload_lfs(self, request: Request) -> Reply:
        if hashlib.sha256(request.body).hexdigest() != request.args["oid"]:
            raise HubError(400, f"The {len(request.body)} bytes received do not hash to {request.args['oid']}")
        self._store(request.body)
        return to_json({})

    def _verify_lfs(self, request: Request) -> Reply:
        wanted = request.json()
        if len(self._blobs.get(wanted["oid"], b"")) != wanted["size"]:
            raise HubError(404, f"No LFS object {wanted['oid']} of {wanted['size']} bytes was uploaded")
        return to_json({})

    def _commit(self, request: Request) -> Reply:
        as_pull_request, branch = "create_pr" in request.query, request.args["revision"]
        repo = self._writable(request, as_pull_request)
        if branch not in repo.branches:
            raise HubError(404, f"Invalid rev id: there is no branch {branch}", "RevisionNotFound")
        header, *changes = (json.loads(line) for line in request.body.splitlines())
        parent, about = repo.find(branch), header["value"]
        if not parent.id.startswith(about.get("parentCommit", "")):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(parent.files)
        for change in changes:
            self._apply(files, change["key"], change["value"])
        if errors := self._card(parent._replace(files=files))[1]:
            raise HubError(400, "Invalid metadata in README.md: " + "; ".join(errors))
        page, discussion = f"{self.endpoint}/{repo.prefix}", None
        if as_pull_request:
            number = sum(name.startswith("refs/pr/") for name in repo.branches) + 1
            branch, discussion = f"refs/pr/{number}", f"{page}/discussions/{number}"
            repo.branches[branch] = parent.id
        oid = repo.add(branch, files, about["summary"], about.get("description", ""), self._writer(request).user)
        return to_json({"commitOid": oid, "commitUrl": f"{page}/commit/{oid}", "pullRequestUrl": discussion})

    def _apply(self, files: dict[str, File], operation: str, value: dict[str, str]) -> None:
        path = value["path"]
        if operation == "file":
            files[path] = self._store(base64.b64decode(value["content"]))
        elif operation == "lfsFile" and value["oid"] in self._blobs:
            files[path] = self._store(self._blobs[value["oid"]], is_lfs=True)
        elif operation == "lfsFile":
            raise HubError(400, f"{path} points to the LFS object {value['oid']}, which was not uploaded")
        elif operation in ("deletedFile", "deletedFolder"):
            folder, is_file = path.rstrip("/") + "/", operation == "deletedFile"
            gone = [name for name in files if (name == path if is_file else name.startswith(folder))]
            if not gone:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise HubError(400, f"The test Hub has no commit operation {operation}")

    def _list_commits(self, request: Request) -> Reply:
        log = self._readable(request).log(request.args["revision"])
        return to_json(
            [{**commit._replace(files={})._asdict(), "authors": [{"user": commit.author}]} for commit in log]
        )

    def _list_refs(self, request: Request) -> Reply:
        repo = self._readable(request)
        refs: dict[str, list] = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
        for name, oid in repo.branches.items():
            kind, ref = ("pullRequests", name) if name.startswith("refs/pr/") else ("branches", f"refs/heads/{name}")
            refs[kind].append({"name": name, "ref": ref, "targetCommit": oid})
        for name, oid in repo.tags.items():
            refs["tags"].append({"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid})
        return to_json(refs)

    def _create_ref(self, request: Request) -> Reply:
        repo, wanted, name = self._writable(request), request.json(), request.args["name"]
        if request.args["kind"] == "branch":
            refs, revision = repo.branches, wanted.get("startingPoint") or "main"
        else:
            refs, name, revision = repo.tags, wanted["tag"], name
        if name in refs:
            raise HubError(409, f"Reference already exists: {name}")
        refs[name] = repo.find(revision).id
        return to_json({})

    def _delete_ref(self, request: Request) -> Reply:
        repo, name = self._writable(request), request.args["name"]
        refs = repo.branches if request.args["kind"] == "branch" else repo.tags
        if name not in refs:
            raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
        if name == "main":
            raise HubError(403, "The default branch cannot be deleted")
        del refs[name]
        return to_json({})

    def _info(self, request: Request) -> Reply:
        repo = self._readable(request)
        commit = repo.find(request.args.get("revision", "main"))
        return to_json(self._describe(repo, commit, with_blobs="blobs" in request.query))

    def _describe(self, repo: Repo, commit: Commit, with_blobs: bool = False) -> dict[str, Any]:
        card, _ = self._card(commit)
        tags = as_list(card.get("library_name")) + as_list(card.get("tags"))
        for key in ("base_model", "dataset", "license"):
            tags += [f"{key}:{value}" for value in as_list(card.get(key, card.get(f"{key}s")))]
        files = sorted(commit.files.items())
        return {
            "id": repo.id, "author": repo.id.split("/")[0], "sha": commit.id, "lastModified": commit.date,
            "private": repo.private, "gated": "manual" if repo.gated else False, "disabled": False, "downloads": 0,
            "likes": 0, "tags": list(dict.fromkeys(tags)), "library_name": card.get("library_name"),
            "pipeline_tag": card.get("pipeline_tag"), "cardData": card,
            "siblings": [{"rfilename": path, **(file.entry() if with_blobs else {})} for path, file in files],
        }  # fmt: skip

    def _list_tree(self, request: Request) -> Reply:
        files = self._readable(request).find(request.args["revision"]).files
        folder = request.args.get("path", "").rstrip("/") + "/"
        inside = [path for path in with_folders(files) if folder == "/" or path.startswith(folder)]
        if not inside and folder != "/":
            raise HubError(404, f"{folder} does not exist on {request.args['revision']}", "EntryNotFound")
        if request.query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
            inside = [path for path in inside if "/" not in path.removeprefix(folder)]
        return to_json(self._entries(files, sorted(inside)))

    def _describe_paths(self, request: Request) -> Reply:
        files = self._readable(request).find(request.args["revision"]).files
        wanted = [path.rstrip("/") for path in parse_qs(request.body.decode()).get("paths", [])]
        return to_json(self._entries(files, [path for path in wanted if path in with_folders(files)]))

    def _entries(self, files: dict[str, File], paths: list[str]) -> list[dict[str, Any]]:
        def folder(path: str) -> dict[str, Any]:
            content = sorted((name, file) for name, file in files.items() if name.startswith(f"{path}/"))
            return {"type": "directory", "oid": hashlib.sha1(repr(content).encode()).hexdigest(), "size": 0}

        return [{"path": path, **(files[path].entry() if path in files else folder(path))} for path in paths]

    def _resolve(self, request: Request) -> Reply:
        repo, account, path = self._readable(request), self._account(request), request.args["path"]
        if repo.gated and not repo.belongs_to(account) and (account is None or account.user not in repo.granted):
            why = "you are not in the authorized list" if account else "you must be authenticated to access it"
            raise HubError(
                403 if account else 401, f"Access to {repo.type} {repo.id} is restricted: {why}", "GatedRepo"
            )
        commit = repo.find(request.args["revision"])
        if path not in commit.files:
            # By the commit's id the client remembers that this revision has no such file.
            raise HubError(404, f"{path} does not exist", "EntryNotFound", commit.id)
        file = commit.files[path]
        etag, body = f'"{file.etag}"', self._blobs[file.sha256]
        headers = {"X-Repo-Commit": commit.id, "ETag": etag, "Accept-Ranges": "bytes"}
        if file.pointer_size:
            headers.update({"X-Linked-Size": str(file.size), "X-Linked-Etag": etag})
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range") or "")
        if wanted is None:
            return Reply(body, 200, headers)
        first, last = (int(text) if text else None for text in wanted.groups())
        start = max(file.size - (last or 0), 0) if first is None else first
        part = body[start : None if first is None or last is None else last + 1]
        span = f"{start}-{start + len(part) - 1}" if part else "*"
        return Reply(part, 206 if part else 416, {**headers, "Content-Range": f"bytes {span}/{file.size}"})

    def _page(self, request: Request) -> Reply:
        """A page for people: the files of a revision, or the public repositories."""
        links = {repo.prefix: f"/{repo.prefix}" for repo in self._repos.values() if not repo.private}
        title = "Public repositories"
        if "repo" in request.args:
            repo = self._readable(request)
            commit = repo.find(request.args.get("revision", "main"))
            title = f"{repo.prefix}: {commit.title}"
            links = {path: f"/{repo.prefix}/resolve/{commit.id}/{path}" for path in sorted(commit.files)}
        items = "".join(f'<li><a href="{quote(url)}">{html.escape(text)}</a>' for text, url in links.items())
        page = f"<!doctype html><meta charset=utf-8><h1>{html.escape(title)}</h1><ul>{items}</ul>"
        return Reply(page.encode(), 200, {"Content-Type": "text/html; charset=utf-8"})


_NAME = r"(?P<repo>[^/]+/[^/]+|[^/]+)"
_API = rf"/api/(?P<type>models|datasets|spaces)/{_NAME}"
_WEB = rf"/(?!api/)(?:(?P<type>datasets|spaces)/)?{_NAME}"
_PAGE = r"/(?!api/)(?:(?P<type>datasets|spaces)/)?(?P<repo>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>refs/[^/]+/[^/]+|[^/]+)"
_REF = r"(?P<kind>branch|tag)/(?P<name>.+)"

# The first that fits answers. The clients quote the slashes of a revision, and of a path in a tree.
_ROUTES: list[tuple[str, str, Callable[[HubServer, Request], Reply]]] = [
    ("GET", "/api/whoami-v2", HubServer._whoami),
    ("POST", "/api/validate-yaml", HubServer._validate_yaml),
    ("POST", "/api/repos/create", HubServer._create_repo),
    ("DELETE", "/api/repos/delete", HubServer._delete_repo),
    ("POST", rf"{_API}/preupload/{_REVISION}", HubServer._preupload),
    ("POST", rf"{_WEB}\.git/info/lfs/objects/batch", HubServer._plan_lfs_uploads),
    ("PUT", r"/lfs-upload/(?P<oid>[0-9a-f]{64})", HubServer._upload_lfs),
    ("POST", rf"{_WEB}\.git/info/lfs/verify", HubServer._verify_lfs),
    ("POST", rf"{_API}/commit/{_REVISION}", HubServer._commit),
    ("GET", rf"{_API}/commits/{_REVISION}", HubServer._list_commits),
    ("GET", rf"{_API}/refs", HubServer._list_refs),
    ("POST", rf"{_API}/{_REF}", HubServer._create_ref),
    ("DELETE", rf"{_API}/{_REF}", HubServer._delete_ref),
    ("GET", rf"{_API}/tree/{_REVISION}(?:/(?P<path>.+))?", HubServer._list_tree),
    ("POST", rf"{_API}/paths-info/{_REVISION}", HubServer._describe_paths),
    ("GET HEAD", rf"{_WEB}/resolve/{_REVISION}/(?P<path>.+)", HubServer._resolve),
    ("GET", rf"{_API}(?:/revision/{_REVISION})?", HubServer._info),
    ("GET", rf"/|{_PAGE}(?:/(?:tree|commit)/{_REVISION})?", HubServer._page),
]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    hub: HubServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body waits until the client acknowledges the headers
    server: _Server

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True  # the client went away

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        request = Request(self.command, path, parse_qs(query), self.headers, self._read_body())
        reply = self.server.hub.answer(request)
        self.send_response(reply.status)
        for name, text in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _read_body(self) -> bytes:
        if "Transfer-Encoding" not in self.headers:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, format: str, *args: object) -> None:
        if self.server.hub.verbose:
            print(format % args, file=sys.stderr)


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="A Hugging Face Hub on this machine, kept in memory.")
    parser.add_argument("--port", type=int, default=0, help="Where to listen; by default on a free port.")
    with HubServer(parser.parse_args().port, verbose=True) as hub, tempfile.TemporaryDirectory() as home:
        print(f"A Hub for tests serves at {hub.endpoint} until Ctrl-C. Paste this in the shell that is to use it:\n")
        print("unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE HF_DATASETS_OFFLINE")
        print(
            "\n".join(f"export {name}={shlex.quote(text)}" for name, text in hub.variables(home).items()), flush=True
        )
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("\nGone, with all that was pushed to it.")


if __name__ == "__main__":
    main()
