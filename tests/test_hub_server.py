"""The test Hub, seen through the real clients: each script runs in a process of its own, as its user's would."""

import hashlib
import http.client
import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hub_server import READ_TOKEN, STRANGER_TOKEN, WRITE_TOKEN, Account, HubServer
from machine import Machine

# `error_of` gives the name of the exception that a call raises, or None.
PRELUDE = """
import huggingface_hub, json, os, sys, warnings
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub import CommitOperationAdd as Add, CommitOperationDelete as Delete

api = HfApi()

def error_of(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except (OSError, ValueError, RuntimeError) as error:
        return type(error).__name__

def read_error(repo_id, token):
    # A cache of its own: a client that is refused falls back, silently, on what another token downloaded.
    return error_of(hf_hub_download, repo_id, "a.txt", token=token, cache_dir=f"cache of {token}")

def tell(**outcome):
    print(json.dumps(outcome))
"""


def run_client(machine: Machine, folder: Path, source: str, token: str | None = WRITE_TOKEN) -> dict:
    """Run a script as a user of the Hub of this machine and return what it gave to `tell`."""
    result = machine.run(["python", "-c", PRELUDE + textwrap.dedent(source)], folder, token)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def ask(hub: HubServer, path: str, method: str = "GET", body: str | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(hub.endpoint.removeprefix("http://"))
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    status, body = response.status, response.read()
    connection.close()
    return status, body


@pytest.fixture
def hub(machine):
    return machine.new_hub()


@pytest.fixture
def client(hub, machine, tmp_path):
    """Return a function that runs a script as a client of `hub` and gives what it tells."""
    return lambda source, token=WRITE_TOKEN: run_client(machine, tmp_path, source, token)


def test_a_pushed_folder_comes_back_whole(hub, client, tmp_path):
    contents = {
        "README.md": b"# speeches\n",
        "d/model.safetensors": b"weights",
        "numbers.dat": b"\0\1\2",
        "long.txt": b"a line\n" * 1_600_000,  # more than 10 MB
    }
    for path, content in contents.items():
        (tmp_path / "push" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "push" / path).write_bytes(content)
    told = client("""
        repo = api.create_repo("speeches")
        warnings.simplefilter("ignore")
        for _ in range(2):  # the second time nothing has changed
            api.upload_folder(repo_id=repo.repo_id, folder_path="push", commit_message="Push")
        folder, files = snapshot_download(repo.repo_id), api.list_repo_files(repo.repo_id)
        tell(folder=folder, files=files, top=[entry.path for entry in api.list_repo_tree(repo.repo_id)])
    """)
    assert sorted(told["files"]) == sorted([*contents, ".gitattributes"])
    assert sorted(told["top"]) == sorted({path.split("/")[0] for path in told["files"]})
    for path, content in contents.items():
        assert (Path(told["folder"]) / path).read_bytes() == content
        assert hub.files("tester/speeches")[path] == content
    assert hub.commits("tester/speeches") == ["Push", "initial commit"]
    by_lfs = [request for request in hub.requests if request.startswith("PUT /lfs-upload/")]
    assert len(by_lfs) == 3, "by extension, as binary and by size; the README is small text"


def test_a_commit_edits_what_it_names_and_wants_the_parent_it_knows(hub, client):
    hub.add_repo("tester/m", {"a.txt": "a", "d/b.txt": "b", "d/e/c.txt": "c", "dd.txt": "dd"})
    told = client("""
        first = api.model_info("tester/m").sha
        edits = lambda: [Add("new.txt", b"new"), Delete("d/", is_folder=True), Delete("a.txt")]
        second = api.create_commit("tester/m", edits(), commit_message="Edit", parent_commit=first)
        try:
            api.create_commit("tester/m", [Add("late.txt", b"")], commit_message="Late", parent_commit=first)
        except OSError as error:
            status = error.response.status_code
        missing = error_of(api.delete_file, "a.txt", "tester/m")
        titles = [commit.title for commit in api.list_repo_commits("tester/m")]
        tell(status=status, missing=missing, titles=titles, head=api.model_info("tester/m").sha == second.oid)
    """)
    assert sorted(hub.files("tester/m")) == [".gitattributes", "dd.txt", "new.txt"]
    assert told["titles"] == hub.commits("tester/m") == ["Edit", "Add files", "initial commit"]
    assert (told["status"], told["missing"], told["head"]) == (412, "RemoteEntryNotFoundError", True)


def test_branches_tags_and_short_commit_ids_are_revisions(hub, client):
    hub.add_repo("tester/m", {"a.txt": "one"})
    told = client("""
        first = api.model_info("tester/m").sha
        api.create_tag("tester/m", tag="v1")
        api.create_branch("tester/m", branch="feature/x")
        for revision, content in (("feature/x", b"two"), ("main", b"three")):
            upload = {"path_or_fileobj": content, "path_in_repo": "a.txt", "repo_id": "tester/m"}
            api.upload_file(**upload, revision=revision)
        read = lambda revision, path="a.txt": open(hf_hub_download("tester/m", path, revision=revision)).read()
        contents = [read(revision) for revision in ("v1", first, first[:7], "feature/x", "main")]
        again = error_of(api.create_branch, "tester/m", branch="feature/x")
        api.create_branch("tester/m", branch="feature/x", exist_ok=True)
        refs = api.list_repo_refs("tester/m")
        api.delete_tag("tester/m", tag="v1")
        api.delete_branch("tester/m", branch="feature/x")
        errors = [error_of(read, "v1"), error_of(api.delete_tag, "tester/m", tag="v1"), error_of(read, "main", "b.txt")]
        names = [[ref.name for ref in kind] for kind in (refs.branches, refs.tags)]
        known = huggingface_hub.try_to_load_from_cache("tester/m", "b.txt") is huggingface_hub._CACHED_NO_EXIST
        tell(contents=contents, again=again, names=names, errors=errors, known_missing=known)
    """)
    assert told["contents"] == ["one", "one", "one", "two", "three"]
    assert told["again"] == "HfHubHTTPError"
    assert told["names"] == [["main", "feature/x"], ["v1"]]
    assert told["errors"] == ["RevisionNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError"]
    assert told["known_missing"]


def test_a_pull_request_leaves_main_alone(hub, client):
    hub.add_repo("tester/m", {"a.txt": "a"})
    told = client(
        """
        upload = {"path_in_repo": "b.bin", "path_or_fileobj": b"b", "repo_id": "tester/m"}
        made = api.upload_file(**upload, create_pr=True)
        tell(revision=made.pr_revision, refused=error_of(api.upload_file, **upload))
        """,
        STRANGER_TOKEN,
    )
    assert told == {"revision": "refs/pr/1", "refused": "HfHubHTTPError"}
    assert "b.bin" not in hub.files("tester/m")
    assert hub.files("tester/m", revision="refs/pr/1")["b.bin"] == b"b"


def test_a_private_repo_does_not_exist_for_others(hub, client):
    hub.add_repo("tester/open", {"a.txt": "a"})
    told = client(f"""
        api.create_repo("tester/secret", private=True)
        api.upload_file(path_or_fileobj=b"a", path_in_repo="a.txt", repo_id="tester/secret")
        info_error = lambda repo_id, token: error_of(api.model_info, repo_id, token=token)
        tokens = ("{WRITE_TOKEN}", "{READ_TOKEN}", "{STRANGER_TOKEN}", False)
        files = [read_error("tester/secret", token) for token in tokens]
        info = [info_error("tester/secret", token) for token in tokens]
        missing, public = info_error("tester/none", False), info_error("tester/open", False)
        tell(info=info, files=files, missing=missing, public=public)
    """)
    assert told["info"] == told["files"] == [None, None, "RepositoryNotFoundError", "RepositoryNotFoundError"]
    assert told["missing"] == "RepositoryNotFoundError"
    assert told["public"] is None
    assert hub.repo("tester/secret").private


def test_only_a_known_token_with_write_access_writes(hub, client):
    hub.tokens = {**hub.tokens, "hf_member": Account("member", organizations=("lab",))}
    hub.add_repo("tester/m")
    hub.add_repo("lab/m")
    told = client(f"""
        def push(token, repo_id="tester/m"):
            try:
                api.upload_file(path_or_fileobj=b"a", path_in_repo="a.txt", repo_id=repo_id, token=token)
            except OSError as error:
                return [error.response.status_code, type(error).__name__]
        tokens = ("{WRITE_TOKEN}", "{READ_TOKEN}", "{STRANGER_TOKEN}", False, "hf_unknown")
        who = [api.whoami(token)["name"] for token in ("{READ_TOKEN}", "hf_member")]
        create = error_of(api.create_repo, "lab/new", token="{WRITE_TOKEN}")
        delete = error_of(api.delete_repo, "tester/m", token="{STRANGER_TOKEN}")
        told = dict(push=[push(token) for token in tokens], lab=push("hf_member", "lab/m"), who=who)
        tell(**told, create=create, delete=delete, unknown=error_of(api.whoami, "hf_unknown"))
    """)
    refused, hidden, unknown = [403, "HfHubHTTPError"], [401, "RepositoryNotFoundError"], [401, "HfHubHTTPError"]
    assert told["push"] == [None, refused, refused, hidden, unknown]
    assert told["lab"] is None
    assert told["who"] == ["tester", "member"]
    assert told["create"] == told["delete"] == told["unknown"] == "HfHubHTTPError"


def test_a_gated_repo_shows_itself_and_keeps_its_files(hub, client):
    hub.add_repo("tester/gated", {"a.txt": "a"}, gated=True)
    hub.add_repo("tester/granted", {"a.txt": "a"}, gated=True).granted.add("stranger")
    told = client(f"""
        files = [read_error("tester/gated", token) for token in ("{READ_TOKEN}", "{STRANGER_TOKEN}", False)]
        granted, info = read_error("tester/granted", "{STRANGER_TOKEN}"), api.model_info("tester/gated", token=False)
        tell(files=files, granted=granted, gated=info.gated, size=len(info.siblings))
    """)
    assert told == {"files": [None, "GatedRepoError", "GatedRepoError"], "granted": None, "gated": "manual", "size": 2}


def test_a_range_is_that_part_of_the_file(hub, client):
    hub.add_repo("tester/m", {"digits.bin": b"0123456789"})
    told = client("""
        files = HfFileSystem()
        with files.open("tester/m/digits.bin", block_size=2) as file:
            file.seek(7)
            rest = file.read().decode()
        tell(part=files.read_bytes("tester/m/digits.bin", start=2, end=5).decode(), rest=rest)
    """)
    assert told == {"part": "234", "rest": "789"}
    for wanted, reply in (("bytes=8-20", (206, b"89")), ("bytes=-3", (206, b"789")), ("bytes=10-", (416, b""))):
        assert ask(hub, "/tester/m/resolve/main/digits.bin", Range=wanted) == reply


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("tags: [unclosed", "YAML Metadata Error"),
        ("just words", "expected a mapping, got str"),
        ("base_model: /tmp/pretrained", '"base_model" with value "/tmp/pretrained" is not valid. Use a model id'),
        ("language: [en, zh-CN]", '"language" must only contain lowercase characters'),
    ],
)
def test_a_card_that_the_hub_refuses_is_not_pushed(hub, client, metadata, message):
    hub.add_repo("tester/m")
    told = client(f"""
        card = "---\\n{metadata}\\n---\\n# Card".encode()
        try:
            api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="tester/m")
        except ValueError as error:
            tell(error=str(error))
    """)
    assert "Invalid metadata in README.md" in told["error"]
    assert message in told["error"]
    assert hub.requests == ["POST /api/validate-yaml"], "before anything is uploaded"


def test_the_card_describes_the_model(hub, client):
    card = (
        "---\nlibrary_name: transformers\ntags: [seqgan]\nbase_model: tester/base\npipeline_tag: text-generation\n---"
    )
    hub.add_repo("tester/m", {"README.md": card, "model.safetensors": b"12345"})
    told = client("""
        info = api.model_info("tester/m", files_metadata=True)
        weights = info.siblings[-1]
        tell(tags=info.tags, card=info.card_data.to_dict(), task=info.pipeline_tag, size=weights.lfs.size)
    """)
    assert told["tags"] == ["transformers", "seqgan", "base_model:tester/base"]
    assert told["card"]["base_model"] == "tester/base"
    assert (told["task"], told["size"]) == ("text-generation", 5)


def test_an_upload_is_tried_again_and_a_commit_is_not(hub, client):
    hub.add_repo("tester/m")
    hub.fail("PUT", "/lfs-upload/", times=1)
    push = """
        upload = {"path_in_repo": "a.bin", "repo_id": "tester/m"}
        tell(error=error_of(api.upload_file, path_or_fileobj=b"a", **upload))
    """
    assert client(push)["error"] is None
    assert sum(request.startswith("PUT /lfs-upload/") for request in hub.requests) == 2
    hub.fail("POST", "/commit/")
    assert client(push.replace('b"a"', 'b"b"'))["error"] == "HfHubHTTPError"
    assert hub.files("tester/m")["a.bin"] == b"a"
    hub.heal()
    assert client(push.replace('b"a"', 'b"b"'))["error"] is None
    assert hub.files("tester/m")["a.bin"] == b"b"


def test_an_upload_that_arrives_broken_is_refused(hub):
    hub.add_repo("tester/m")
    oid = hashlib.sha256(b"whole").hexdigest()
    assert ask(hub, f"/lfs-upload/{oid}", "PUT", "who")[0] == 400
    verify = "/tester/m.git/info/lfs/verify", "POST", json.dumps({"oid": oid, "size": 5})
    assert ask(hub, *verify)[0] == 404
    assert ask(hub, f"/lfs-upload/{oid}", "PUT", "whole")[0] == ask(hub, *verify)[0] == 200


def test_a_fault_lasts_as_asked_and_a_delay_still_answers(hub):
    hub.add_repo("tester/m", {"a.txt": "a"})
    hub.fail("GET", r"/a\.txt$", status=500, times=2)
    assert [ask(hub, "/tester/m/resolve/main/a.txt")[0] for _ in range(3)] == [500, 500, 200]
    hub.fail(path="/resolve/", status=None, delay=0.2)
    start = time.perf_counter()
    assert ask(hub, "/tester/m/resolve/main/a.txt") == (200, b"a")
    assert time.perf_counter() - start >= 0.2


def test_the_same_pushes_have_the_same_commit_ids():
    def ids(title):
        with HubServer() as hub:
            hub.add_repo("tester/m", {"a.txt": "a"})
            hub.commit("tester/m", {"b.txt": "b"}, title)
            return list(hub.repo("tester/m").history)

    first, again, other = ids("Add b"), ids("Add b"), ids("Add B")
    assert first == again
    assert (first[:2] == other[:2], first[2] == other[2]) == (True, False)
    assert all(len(oid) == 40 and int(oid, 16) for oid in first)


def test_an_endpoint_that_is_missing_says_which():
    with HubServer() as hub:
        for path in ("/api/models/tester/m/discussions", "/parquet"):
            status, body = ask(hub, f"{path}?name=m")
            assert (status, f"no endpoint GET {path}," in json.loads(body)["error"]) == (404, True)
    with pytest.raises(KeyError, match="no dataset tester/m on this Hub, which holds nothing"):
        hub.files("tester/m", "dataset")


def test_a_client_gets_its_own_cache_and_none_of_the_settings_around_it(hub, tmp_path, monkeypatch):
    foreign = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_CACHE": "/cache", "HTTPS_PROXY": "http://p"}
    for name, text in foreign.items():
        monkeypatch.setenv(name, text)
    first, second = hub.environment(tmp_path), hub.environment(tmp_path, token=None)
    assert not set(foreign) & set(first)
    assert first["HF_ENDPOINT"] == hub.endpoint
    assert first["HF_TOKEN"] == WRITE_TOKEN
    assert "HF_TOKEN" not in second
    assert first["HF_HOME"] != second["HF_HOME"]
    assert first["PATH"] == second["PATH"]


def test_the_log_names_requests_and_no_tokens(machine, tmp_path, capsys):
    hub = machine.new_hub(verbose=True)
    hub.add_repo("tester/m", {"a b.txt": "a"})
    run_client(machine, tmp_path, "hf_hub_download('tester/m', 'a b.txt'); tell()")
    assert hub.requests == [f"{method} /tester/m/resolve/main/a b.txt" for method in ("HEAD", "GET")]
    shown = capsys.readouterr().err
    assert '"GET /tester/m/resolve/main/a%20b.txt HTTP/1.1" 200' in shown
    assert WRITE_TOKEN not in shown


def test_a_person_sees_the_files(hub):
    hub.add_repo("tester/d", {"<b>.txt": "a"}, repo_type="dataset")
    hub.add_repo("tester/secret", private=True)
    start = ask(hub, "/")[1].decode()
    assert 'href="/datasets/tester/d"' in start
    assert "secret" not in start
    page = ask(hub, "/datasets/tester/d")[1].decode()
    assert "datasets/tester/d: Add files" in page
    link = page.split('<li><a href="')[-1].split('"')[0]
    assert "&lt;b&gt;.txt" in page
    assert ask(hub, link) == (200, b"a")


def test_the_program_says_how_to_use_it_and_serves(tmp_path):
    command = [sys.executable, str(Path(__file__).with_name("hub_server.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as program:
        exports = {}
        for line in program.stdout:
            if line.startswith("export "):
                name, _, text = line.removeprefix("export ").strip().partition("=")
                exports[name] = text
            if "HF_TOKEN" in exports:
                break
        try:
            connection = http.client.HTTPConnection(exports["HF_ENDPOINT"].removeprefix("http://"))
            connection.request("GET", "/api/whoami-v2", headers={"Authorization": f"Bearer {exports['HF_TOKEN']}"})
            assert json.loads(connection.getresponse().read())["name"] == "tester"
            connection.close()
        finally:
            program.terminate()


def test_datasets_are_pushed_loaded_and_streamed(hub, client):
    told = client(f"""
        from datasets import Dataset, DatasetDict, get_dataset_config_names, load_dataset

        rows = lambda *args, **options: [row["text"] for row in load_dataset(*args, split="train", **options)]
        train, other = (Dataset.from_dict(dict(text=list(text))) for text in ("abc", "d"))
        DatasetDict(train=train, test=other).push_to_hub("tester/d", private=True)
        # Before anything is cached, because what is cached is served to every token.
        errors = [error_of(rows, "tester/d", token=token) for token in ("{STRANGER_TOKEN}", False)]
        api.create_tag("tester/d", tag="v1", repo_type="dataset")
        other.push_to_hub("tester/d", "other")
        other.push_to_hub("tester/d", split="train", revision="dev")
        told = dict(errors=errors, main=rows("tester/d"), stream=rows("tester/d", streaming=True))
        told.update(other=rows("tester/d", "other", streaming=True), tag=rows("tester/d", revision="v1"))
        told.update(branch=rows("tester/d", revision="dev", streaming=True), missing=error_of(rows, "tester/none"))
        tell(**told, configurations=get_dataset_config_names("tester/d"))
    """)
    assert told["main"] == told["stream"] == told["tag"] == ["a", "b", "c"]
    assert told["other"] == told["branch"] == ["d"]
    assert told["configurations"] == ["default", "other"]
    assert told["errors"] == ["DatasetNotFoundError"] * 2
    assert told["missing"] == "DatasetNotFoundError"
    assert "other/train-00000-of-00001.parquet" in hub.files("tester/d", "dataset")


@pytest.fixture(scope="module")
def models(machine, tmp_path_factory):
    """The Hub after a process with the package pushed models, and what that process and one without it told."""
    hub = machine.new_hub()
    pushed = run_client(machine, tmp_path_factory.mktemp("push"), """
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import GPT2Config, GPT2LMHeadModel
        from seqgan_hf import LSTMConfig, LSTMForCausalLM, TextCNNConfig, TextCNNForSequenceClassification
        from seqgan_hf.tokenization import train_tokenizer

        special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        look = lambda model: model.eval()(torch.tensor([[5, 6, 7]])).logits.double().sum().item()
        tokenizer = train_tokenizer(["we work"], 260)
        gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=260, n_embd=8, n_layer=1, n_head=2, n_positions=16, **special))
        gpt2.push_to_hub("tester/gpt2")
        tokenizer.push_to_hub("tester/gpt2")
        told = dict(ids=tokenizer("we work")["input_ids"], first=look(gpt2))
        api.create_tag("tester/gpt2", tag="v1")
        gpt2.lm_head.weight.data *= 2
        gpt2.push_to_hub("tester/gpt2", commit_message="Double the head")
        told["main"] = look(gpt2)

        lstm = LSTMForCausalLM(LSTMConfig(vocab_size=260, **special))
        cnn = TextCNNForSequenceClassification(TextCNNConfig(vocab_size=260, pad_token_id=0))
        lstm.push_to_hub("tester/lstm", private=True)
        cnn.save_pretrained("pair/discriminator")
        os.rename("pair/discriminator/cnn.py", "pair/cnn.py")  # transformers looks for code at the root only
        api.upload_folder(repo_id="tester/lstm", folder_path="pair")
        told.update(lstm=look(lstm), cnn=look(cnn))

        base = GPT2LMHeadModel.from_pretrained("tester/gpt2")
        adapter = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)
        adapted = get_peft_model(base, adapter)
        adapted.push_to_hub("tester/adapter")
        tell(**told, adapter=look(adapted))
    """)  # fmt: skip
    pulled = run_client(machine, tmp_path_factory.mktemp("pull"), """
        sys.modules["seqgan_hf"] = None  # the package cannot be imported here
        import torch
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

        look = lambda model: model.eval()(torch.tensor([[5, 6, 7]])).logits.double().sum().item()
        language_model = lambda name, **options: look(AutoModelForCausalLM.from_pretrained(name, **options))
        told = dict(ids=AutoTokenizer.from_pretrained("tester/gpt2")("we work")["input_ids"])
        told.update(first=language_model("tester/gpt2", revision="v1"), main=language_model("tester/gpt2"))
        told.update(adapter=language_model("tester/adapter"))
        told.update(lstm=language_model("tester/lstm", trust_remote_code=True))
        from_subfolder = {"subfolder": "discriminator", "trust_remote_code": True}
        cnn = AutoModelForSequenceClassification.from_pretrained("tester/lstm", **from_subfolder)
        hidden = error_of(AutoModelForCausalLM.from_pretrained, "tester/lstm", token=False, force_download=True)
        tell(**told, cnn=look(cnn), hidden=hidden)
    """)  # fmt: skip
    return hub, pushed, pulled


def test_a_model_and_its_tokenizer_are_the_same_after_the_hub(models):
    hub, pushed, pulled = models
    assert pulled["main"] == pytest.approx(pushed["main"])
    assert pulled["ids"] == pushed["ids"]
    assert hub.commits("tester/gpt2")[0] == "Double the head"


def test_a_model_is_loaded_by_its_tag(models):
    _, pushed, pulled = models
    assert pulled["first"] == pytest.approx(pushed["first"])
    assert pulled["first"] != pytest.approx(pulled["main"])


def test_an_adapter_finds_its_base_model_on_the_hub(models):
    _, pushed, pulled = models
    assert pulled["adapter"] == pytest.approx(pushed["adapter"])
    assert pulled["adapter"] != pytest.approx(pulled["main"])


def test_a_process_without_the_package_runs_its_models_from_the_hub(models):
    hub, pushed, pulled = models
    assert pulled["lstm"] == pytest.approx(pushed["lstm"])
    assert pulled["cnn"] == pytest.approx(pushed["cnn"]), "from a subfolder"
    assert "lstm.py" in hub.files("tester/lstm")


def test_a_private_model_is_missing_without_a_token(models):
    assert models[2]["hidden"] == "OSError"
