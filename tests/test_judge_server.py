"""The page of a blind test: what it answers, what it refuses, and what it never tells; and its Space."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from test_trial import MODELS, a_trial

from seqgan_hf.cli import main
from seqgan_hf.judge_server import Place, hits, judge_app, place_at
from seqgan_hf.space_export import export_space
from seqgan_hf.trial import REAL
from seqgan_hf.votes import Votes, name_of_judge

BASE = "http://127.0.0.1:7860"
JSON = {"Content-Type": "application/json"}
_IN_A_PROCESS_WITHOUT_TORCH = (
    "import runpy, sys; sys.modules.update(torch=None, numpy=None, transformers=None, seqgan_hf=None); "
    "sys.path.insert(0, '.'); runpy.run_path('app.py', run_name='__main__')"
)


class Judge:
    """A browser that keeps its cookie, as far as the application sees it."""

    def __init__(self, app):
        self.app, self.cookies = app, httpx.Cookies()

    def ask(self, method, path, **kwargs):
        async def send():
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=BASE, cookies=self.cookies) as client:
                answer = await client.request(method, path, **kwargs)
                self.cookies = client.cookies
                return answer

        return asyncio.run(send())

    def get(self, path, **kwargs):
        return self.ask("GET", path, **kwargs)

    def vote(self, item, real, **kwargs):
        return self.ask("POST", "/vote", **{"json": {"item": item, "real": real}} | kwargs)


@pytest.fixture
def trial():
    return a_trial()


@pytest.fixture
def app(trial, tmp_path):
    with Votes(tmp_path / "votes.sqlite") as votes:
        app = judge_app(trial, tmp_path, votes, Place())
        app.votes = votes
        yield app


@pytest.fixture
def judge(app):
    judge = Judge(app)
    assert judge.get("/").status_code == 200
    return judge


def judge_all(judge, first):
    """Judge to the end, everything real, and yield each answer before the last; the last is returned."""
    answer = first
    while (item := answer.json()["item"]) is not None:
        yield answer
        answer = judge.vote(item["id"], True)
    yield answer


def test_a_judge_meets_every_item_once_and_learns_his_hits_at_the_end(judge, trial):
    answers = list(judge_all(judge, judge.get("/item")))
    assert [answer.json()["done"] for answer in answers] == list(range(21))
    shown = [answer.json()["item"]["id"] for answer in answers[:-1]]
    assert shown == trial.order_for(name_of_judge(judge.cookies["judge"]))
    last = answers[-1].json()
    assert last["item"] is None and last["hits"] == {REAL: [5, 5]} | {model: [0, 5] for model in MODELS}


def test_no_answer_tells_a_source_before_the_end(judge, trial):
    page = judge.get("/")
    *answers, _ = judge_all(judge, judge.get("/item"))
    for answer in (page, *answers):
        whole = f"{answer.headers} {answer.text}"
        assert not any(word in whole for word in (*MODELS, '"source"', '"scores"', '"block"', '"hits":'))
    assert {frozenset(answer.json()["item"]) for answer in answers} == {frozenset({"id", "text", "prompt"})}


def test_a_vote_that_comes_again_changes_nothing(judge, app):
    item = judge.get("/item").json()["item"]["id"]
    first, again = judge.vote(item, True), judge.vote(item, False)
    assert first.json() == again.json() and first.json()["done"] == 1
    assert [vote[1:3] for vote in app.votes.all()] == [(item, True)]


def test_a_judge_goes_on_in_another_process_of_the_server(judge, trial, tmp_path):
    item = judge.get("/item").json()["item"]["id"]
    state = judge.vote(item, True).json()
    with Votes(tmp_path / "votes.sqlite") as votes:
        judge.app = judge_app(trial, tmp_path, votes, Place())
        assert judge.get("/item").json() == state
        assert "set-cookie" not in judge.get("/").headers, "it stays the same judge"


def test_judges_are_told_apart_by_a_cookie_that_scripts_and_other_sites_do_not_get(app):
    cookies = [Judge(app).get("/").headers["set-cookie"] for _ in range(2)]
    assert cookies[0] != cookies[1]
    assert re.fullmatch(r"judge=[\w-]{43}; HttpOnly; Max-Age=31536000; Path=/; SameSite=strict", cookies[0]), cookies[
        0
    ]


def test_the_headers_let_nothing_foreign_in(judge):
    headers = judge.get("/").headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"].startswith("'sha256-") and "unsafe" not in headers["content-security-policy"]
    for answer in (judge.get("/item"), judge.get("/nothing"), judge.get("/", headers={"Host": "evil.example"})):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "content-security-policy" in answer.headers


@pytest.mark.parametrize(
    ("status", "method", "path", "given"),
    [
        (421, "GET", "/", {"headers": {"Host": "evil.example"}}),
        (421, "GET", "/item", {"headers": {"Host": "evil.example:7860"}}),
        (421, "GET", "/item", {"headers": {"Host": "127.0.0.1.evil.example"}}),
        (421, "GET", "/item", {"headers": {"Host": "127.0.0.1@evil.example"}}),
        (421, "GET", "/item", {"headers": {"Host": ""}}),
        (421, "GET", "/item", {"headers": [("Host", "127.0.0.1"), ("Host", "evil.example")]}),
        (200, "GET", "/item", {"headers": {"Host": "LOCALHOST:1234"}}),
        (200, "GET", "/item", {"headers": {"Host": "[::1]:7860"}}),
        (403, "GET", "/item", {"headers": {"Origin": "http://evil.example"}}),
        (403, "POST", "/vote", {"headers": {"Origin": "null"}}),
        (403, "POST", "/vote", {"headers": {"Origin": "http://127.0.0.1:9999"}}),
        (403, "POST", "/vote", {"headers": {"Sec-Fetch-Site": "cross-site"}}),
        (403, "POST", "/vote", {"headers": {"Sec-Fetch-Site": "same-site"}}),
        (400, "POST", "/vote", {"headers": {"Origin": BASE, **JSON}, "content": "{"}),
        (400, "POST", "/vote", {"headers": JSON, "content": b"\xff\xfe\x00"}),
        (400, "POST", "/vote", {"headers": JSON, "content": "[" * 1000}),
        (400, "POST", "/vote", {"json": []}),
        (400, "POST", "/vote", {"json": {"item": "x"}}),
        (400, "POST", "/vote", {"json": {"item": "x", "real": 1}}),
        (400, "POST", "/vote", {"json": {"item": ["x"], "real": True}}),
        (404, "POST", "/vote", {"json": {"item": "x", "real": True}}),
        (415, "POST", "/vote", {"headers": {"Content-Type": "text/plain"}, "content": '{"item": "x", "real": true}'}),
        (413, "POST", "/vote", {"headers": JSON, "content": "x" * 1025}),
        (413, "POST", "/vote", {"headers": {"Content-Length": "-1", **JSON}, "content": "{}"}),
        (413, "GET", "/", {"headers": {"Content-Length": "99999999"}}),
        (405, "GET", "/vote", {}),
        (405, "DELETE", "/", {}),
        (405, "OPTIONS", "/vote", {}),
        (405, "PUT", "/item", {}),
        (404, "GET", "/trial.json", {}),
        (404, "GET", "/votes.csv", {}),
        (404, "GET", "/votes.csv", {"headers": {"Authorization": "Bearer None"}}),
        (404, "GET", "/media/trial.json", {}),
        (404, "GET", "/media/../trial.json", {}),
        (404, "GET", "/media/..%2ftrial.json", {}),
        (404, "GET", "/media/..%5ctrial.json", {}),
        (404, "GET", "/media/%2e%2e%2f%2e%2e%2fetc%2fpasswd", {}),
        (404, "GET", "//etc/passwd", {}),
    ],
)  # fmt: skip
def test_each_request_has_its_clear_status(status, method, path, given, judge, app, tmp_path):
    (tmp_path / "trial.json").write_text("secret")
    if isinstance(given.get("headers"), list):
        given = {"headers": httpx.Headers([*given["headers"], ("Cookie", f"judge={judge.cookies['judge']}")])}
    answer = judge.ask(method, path, **given)
    assert answer.status_code == status, answer.text
    assert "secret" not in answer.text and "Traceback" not in answer.text
    if status != 200:
        assert answer.headers["content-type"] == "text/plain; charset=utf-8" and len(answer.text) < 120
        assert app.votes.all() == []


def test_a_body_that_does_not_say_its_length_is_limited_too(judge):
    async def endless():
        while True:
            yield b" " * 100

    answer = judge.ask("POST", "/vote", headers=JSON, content=endless())
    assert answer.status_code == 413 and answer.text == "A request has at most 1024 bytes.\n"


@pytest.mark.parametrize("cookie", [None, "", "short", "x" * 44, "../" + "x" * 40, "\x00" * 43])
def test_without_a_cookie_nobody_votes(cookie, app, trial):
    headers = {} if cookie is None else {"Cookie": f"judge={cookie}"}
    judge = Judge(app)
    assert judge.get("/item", headers=headers).status_code == 401
    answer = judge.vote(next(iter(trial.items)), True, headers=headers)
    assert answer.status_code == 401 and "Open the page, and allow its cookie." in answer.text
    assert app.votes.all() == []


def test_votes_that_cannot_be_stored_are_not_confirmed(judge, app):
    item = judge.get("/item").json()["item"]["id"]
    app.votes._do(lambda connection: connection.execute("ALTER TABLE votes RENAME TO gone")).result()
    answer = judge.vote(item, True)
    assert answer.status_code == 503 and answer.text == "The vote could not be stored. It will be sent again.\n"
    app.votes._do(lambda connection: connection.execute("ALTER TABLE gone RENAME TO votes")).result()
    assert judge.vote(item, True).json()["done"] == 1


def test_media_are_served_by_the_ids_of_items_alone(trial, tmp_path):
    id = next(iter(trial.items))
    (tmp_path / "media").mkdir()
    for name in (f"{id}.wav", f"{id}.png", "other.wav", f"{id}.txt"):
        (tmp_path / "media" / name).write_bytes(b"sound of " + name.encode())
    with Votes(tmp_path / "votes.sqlite") as votes:
        judge = Judge(judge_app(trial, tmp_path, votes, Place()))
        judge.get("/")
        assert judge.get(f"/media/{id}.wav").content == b"sound of " + f"{id}.wav".encode()
        assert judge.get(f"/media/{id}.wav", headers={"Range": "bytes=0-4"}).content == b"sound"
        assert [judge.get(f"/media/{name}").status_code for name in ("other.wav", f"{id}.txt")] == [404, 404]
        shown = [answer.json()["item"] for answer in judge_all(judge, judge.get("/item")) if answer.json()["item"]]
    assert {item["id"]: (item["sound"], item["picture"]) for item in shown if "sound" in item} == {
        id: (f"media/{id}.wav", f"media/{id}.png")
    }


def test_hits_by_hand(trial):
    ids = {source: [id for id in trial.items if trial.items[id].source == source] for source in trial.sources}
    said = {ids[REAL][0]: True, ids[REAL][1]: False, ids["MLE"][0]: False}
    assert hits(trial, said) == {REAL: [1, 2], "MLE": [1, 1]}


def test_others_than_this_machine_are_warned_of(capsys):
    assert place_at("127.0.0.1").hosts == ["127.0.0.1", "localhost", "[::1]", "127.0.0.1"]
    assert capsys.readouterr().out == ""
    assert {"example.org", socket.gethostname()} <= set(place_at("0.0.0.0", ["example.org"]).hosts)
    assert "Warning: at 0.0.0.0 everybody in the network may judge" in capsys.readouterr().out


def test_without_starlette_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "seqgan_hf.judge_server", None)
    with pytest.raises(SystemExit):
        main(["judge", "--output_dir", str(tmp_path)])
    assert "pip install 'seqgan_hf[judge]'" in capsys.readouterr().err


# ---- A Space -------------------------------------------------------------------------------------------------------


class Space:
    """A trial exported as a Space and served as there, in a process in which torch cannot be imported."""

    def __init__(self, trial, folder, **variables):
        self.folder, self.space, self.process, self.port = folder, folder / "space", None, 0
        self.said = export_space(trial, folder, self.space)
        key = (folder / "key.json").read_text(encoding="utf-8")
        self.variables = {**os.environ, "TRIAL_KEY": key, "PYTHONPATH": "", **variables}

    @property
    def base(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_A_PROCESS_WITHOUT_TORCH], cwd=self.space, text=True,
            env=self.variables | {"PORT": str(self.port)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        line = self.process.stdout.readline()
        found = re.fullmatch(r"Judge at http://0\.0\.0\.0:(\d+)/ \(Ctrl-C ends\)\n", line)
        assert found, line + self.process.communicate(timeout=10)[0]
        self.port = int(found[1])
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.05)
        raise AssertionError("the server does not listen")

    def kill(self):
        self.process.kill()
        self.process.communicate()

    def votes(self):
        with Votes(self.space / "votes.sqlite") as votes:
            return votes.all()

    def __enter__(self):
        return self.start()

    def __exit__(self, *exception):
        self.kill()


def test_a_space_needs_no_torch_and_tells_nobody_the_sources(trial, tmp_path):
    with Space(trial, tmp_path, VOTES_TOKEN="open") as space, httpx.Client(base_url=space.base) as client:
        client.get("/")
        answer = client.get("/item")
        while (item := answer.json()["item"]) is not None:
            answer = client.post("/vote", json={"item": item["id"], "real": True})
        assert answer.json()["hits"][REAL] == [5, 5]
        assert client.get("/votes.csv", headers={"Authorization": "Bearer shut"}).status_code == 404
        votes = client.get("/votes.csv", headers={"Authorization": "Bearer open"}).text
        assert len(votes.splitlines()) == 21 and votes.startswith("judge,item,judged_real,seconds\n")
        space.process.send_signal(signal.SIGINT)
        assert space.process.communicate(timeout=20)[0].splitlines()[-1] == "Ended. All votes are kept."
    pushed = [path for path in space.space.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    names = {str(path.relative_to(space.space)) for path in pushed}
    assert names == {
        "app.py", "Dockerfile", "README.md", "requirements.txt", "trial.json", "votes.sqlite", "judging/__init__.py",
        "judging/trial.py", "judging/votes.py", "judging/request_guard.py", "judging/judge_server.py",
        "judging/templates/judge.html",
    }  # fmt: skip
    for path in pushed:
        if path.suffix in (".json", ".md", ".html"):
            assert not any(model in path.read_text(encoding="utf-8") for model in MODELS), path
    readme = (space.space / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("---\ntitle: ") and "\nsdk: docker\napp_port: 7860\n" in readme
    assert "Votes need persistent storage" in readme and "A blind test of 20 texts" in readme
    pins = (space.space / "requirements.txt").read_text().split()
    assert [pin.split("==")[0] for pin in pins] == ["starlette", "uvicorn", "jinja2"]


def test_without_its_key_a_space_tells_no_hits(trial, tmp_path):
    with Votes(tmp_path / "votes.sqlite") as votes:
        judge = Judge(judge_app(trial.blind(), tmp_path, votes, Place()))
        judge.get("/")
        *_, last = judge_all(judge, judge.get("/item"))
        assert last.json() == {"done": 20, "total": 20, "item": None}


def test_in_the_frame_of_the_hub_the_cookie_is_one_that_a_frame_gets(trial, tmp_path):
    place = Place(["you-test.hf.space"], frame="https://huggingface.co")
    with Votes(tmp_path / "votes.sqlite") as votes:
        judge = Judge(judge_app(trial, tmp_path, votes, place))
        assert judge.get("/").status_code == 421
        headers = {"Host": "you-test.hf.space", "Origin": "https://you-test.hf.space"}
        answer = judge.get("/", headers=headers)
        assert answer.headers["set-cookie"].endswith("; Path=/; SameSite=none; Secure; Partitioned")
        assert answer.headers["content-security-policy"].endswith("frame-ancestors https://huggingface.co")
        token = re.match(r"judge=([\w-]+);", answer.headers["set-cookie"])[1]
        headers["Cookie"] = f"judge={token}"
        item = judge.get("/item", headers=headers).json()["item"]["id"]
        assert judge.vote(item, True, headers=headers).json()["done"] == 1
        assert judge.vote(item, True, headers=headers | {"Origin": "https://huggingface.co"}).status_code == 403


def test_a_folder_that_holds_something_else_is_left_alone(trial, tmp_path):
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "thesis.md").write_text("x")
    with pytest.raises(ValueError, match=r"space holds something else\. Choose a new folder for the Space\."):
        export_space(trial, tmp_path, tmp_path / "space")
    export_space(trial, tmp_path, tmp_path / "new")
    assert "The Space is in" in export_space(trial, tmp_path, tmp_path / "new"), "its own is written again"
    key = json.loads((tmp_path / "key.json").read_text())
    assert key == {id: item.source for id, item in trial.items.items()}
    assert not Path(tmp_path / "new" / "key.json").exists()
