"""Checkpoints are written whole or not at all, and a run goes on from the newest whole one."""

import json
import os
import re
import resource

import pytest
from conftest import write_checkpoint
from test_trainer import config, moved, texts, weights

from seqgan_hf import SeqGANTrainer
from seqgan_hf.checkpoints import (
    UNFINISHED_FOLDER,
    CheckpointError,
    checkpoints_in,
    last_checkpoint,
    what_is_wrong_with,
    write_whole,
    written_whole,
)


def test_a_checkpoint_appears_when_all_of_it_is_written(tmp_path):
    checkpoint = tmp_path / "checkpoint-3"
    with written_whole(checkpoint) as unfinished:
        (unfinished / "discriminator").mkdir()
        (unfinished / "discriminator" / "config.json").write_text("{}")
        assert unfinished.name == "checkpoint-3" and checkpoints_in(tmp_path) == []
    assert (checkpoint / "discriminator" / "config.json").read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_a_checkpoint_takes_the_place_of_one_of_its_name(tmp_path):
    for text in ("old", "new"):
        with written_whole(tmp_path / "checkpoint-3") as unfinished:
            (unfinished / text).touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["checkpoint-3", "new"]


def test_what_is_left_of_a_killed_save_is_cleared_by_the_next(tmp_path):
    (tmp_path / UNFINISHED_FOLDER / "checkpoint-2").mkdir(parents=True)
    with written_whole(tmp_path / "checkpoint-3"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("file write failed\n at 0x1")])
def test_a_failed_save_says_where_to_go_on_and_leaves_nothing(error, tmp_path):
    write_checkpoint(tmp_path / "checkpoint-2")
    message = (
        rf"^{tmp_path}/checkpoint-3 could not be written \({re.escape(str(error).splitlines()[0])}\); [\d,]+ MiB are "
        r"free there\. Training stops\. checkpoint-2 is whole: free some space, or mend what it was, and go on "
        r"from it with `resume_from_checkpoint`\.$"
    )
    with pytest.raises(CheckpointError, match=message), written_whole(tmp_path / "checkpoint-3") as unfinished:
        (unfinished / "model.safetensors").touch()
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    message = r"There is no earlier checkpoint\. Free some space, or give another `output_dir`, and begin again\.$"
    with pytest.raises(CheckpointError, match=message), written_whole(tmp_path / "other" / "checkpoint-3"):
        raise error


def test_a_mistake_while_saving_is_no_matter_of_space(tmp_path):
    with pytest.raises(KeyError), written_whole(tmp_path / "checkpoint-3"):
        raise KeyError


def test_a_file_too_large_for_the_disk_stops_training_and_the_checkpoint_before_resumes(tiny_model, tmp_path):
    def trainer(run, steps):
        args = config(tmp_path, output_dir=str(tmp_path / run), max_steps=steps, save_strategy="steps", save_steps=1)
        return SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), args, train_dataset=texts())

    whole = trainer("whole", 3)
    whole.train()
    full = trainer("full", 3)
    folder, save = tmp_path / "full", full._save_optimizer_and_scheduler
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_on_a_small_disk(output_dir):
        if full.state.global_step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        save(output_dir)

    full._save_optimizer_and_scheduler = save_on_a_small_disk
    try:
        with pytest.raises(CheckpointError, match=r"checkpoint-2 could not be written .* checkpoint-1 is whole"):
            full.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in folder.iterdir()] == ["checkpoint-1"]
    again = trainer("full", 3)
    again.train(resume_from_checkpoint=True)
    assert not moved(weights(whole.model), again.model)
    assert not moved(weights(whole.discriminator.model), again.discriminator.model)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


BROKEN = {
    "it lacks trainer_state.json, the last file to be written": lambda folder: (folder / "trainer_state.json").unlink(),
    "it lacks seqgan_state.pt, the state of the game": lambda folder: (folder / "seqgan_state.pt").unlink(),
    "it lacks optimizer.pt, the generator's optimizer": lambda folder: (folder / "optimizer.pt").unlink(),
    "it lacks rng_state*.pth, random states": lambda folder: (folder / "rng_state.pth").unlink(),
    "it lacks b.safetensors, a part of the weights": lambda folder: (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "model.safetensors", "y": "b.safetensors"}})
    ),
    "it lacks the generator's weights": lambda folder: (folder / "model.safetensors").unlink(),
    "it lacks the discriminator's weights": lambda folder: (folder / "discriminator" / "model.safetensors").unlink(),
    "model.safetensors is cut off": lambda folder: truncate(folder / "model.safetensors"),
    "discriminator/model.safetensors is cut off": lambda folder: truncate(folder / "discriminator" / "model.safetensors"),
    "seqgan_state.pt is cut off": lambda folder: truncate(folder / "seqgan_state.pt"),
    "trainer_state.json is cut off": lambda folder: truncate(folder / "trainer_state.json"),
}  # fmt: skip


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_checkpoint_is_skipped_and_the_reason_is_said(reason, tmp_path, caplog):
    for step in (9, 10):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    BROKEN[reason](tmp_path / "checkpoint-10")
    assert what_is_wrong_with(tmp_path / "checkpoint-10") == reason
    assert what_is_wrong_with(tmp_path / "checkpoint-9") is None
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-9"
    assert caplog.messages == [f"{tmp_path / 'checkpoint-10'} is skipped: {reason}."]


def test_a_save_that_was_killed_is_spoken_of(tmp_path, caplog):
    (tmp_path / UNFINISHED_FOLDER / "checkpoint-2").mkdir(parents=True)
    assert last_checkpoint(tmp_path) is None and last_checkpoint(tmp_path / "nowhere") is None
    assert caplog.messages == [f"{tmp_path / 'checkpoint-2'} is skipped: the run ended while it was being written."]


def test_folders_of_other_names_are_no_checkpoints(tmp_path):
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-best", "old-checkpoint-11"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-12").touch()
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-9", "checkpoint-10"]


def test_nothing_to_resume_is_said(tiny_model, tmp_path):
    trainer = SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), config(tmp_path), train_dataset=texts())
    message = (
        f"{tmp_path / 'run'} holds no complete checkpoint to resume. Check `output_dir`, or leave "
        "`resume_from_checkpoint` out to begin anew."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        trainer.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"nowhere cannot be resumed: there is no such folder\."):
        trainer.train(resume_from_checkpoint=str(tmp_path / "nowhere"))


def test_the_best_checkpoint_is_known_by_its_own_name(tiny_model, tmp_path):
    args = config(
        tmp_path, max_steps=2, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1,
        load_best_model_at_end=True, metric_for_best_model="nll", save_total_limit=1, learning_rate=1e-4,
    )  # fmt: skip
    trainer = SeqGANTrainer(
        tiny_model("lstm"), tiny_model("cnn"), args, train_dataset=texts(), eval_dataset=texts(count=6)
    )
    trainer.train()
    for checkpoint in checkpoints_in(tmp_path / "run"):
        best = json.loads((checkpoint / "trainer_state.json").read_text())["best_model_checkpoint"]
        assert best in [str(path) for path in (tmp_path / "run").iterdir()]


def test_a_text_is_replaced_as_a_whole(tmp_path):
    for text in ("first", "zweitens: ä"):
        write_whole(tmp_path / "metrics.json", text)
        assert (tmp_path / "metrics.json").read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_all_of_a_checkpoint_is_on_the_disk_before_it_appears(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor).st_ino))
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda source, target: (flushed.append("renamed"), rename(source, target)))
    with written_whole(tmp_path / "checkpoint-3") as unfinished:
        (unfinished / "discriminator").mkdir()
        (unfinished / "discriminator" / "model.safetensors").touch()
        (unfinished / "trainer_state.json").touch()
    inside = {path.stat().st_ino for path in (tmp_path / "checkpoint-3", *(tmp_path / "checkpoint-3").rglob("*"))}
    assert set(flushed[:-2]) == inside and flushed[-2:] == ["renamed", tmp_path.stat().st_ino]


def test_as_many_checkpoints_are_kept_as_asked_for(tiny_model, tmp_path):
    args = config(tmp_path, max_steps=3, save_strategy="steps", save_steps=1, save_total_limit=2)
    SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), args, train_dataset=texts()).train()
    assert [path.name for path in checkpoints_in(tmp_path / "run")] == ["checkpoint-2", "checkpoint-3"]


def test_a_checkpoint_is_pushed_once_and_not_before_it_is_whole(tiny_model, tmp_path):
    args = config(tmp_path, max_steps=2, save_strategy="steps", save_steps=1, hub_strategy="every_save")
    trainer = SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), args, train_dataset=texts())
    trainer.args.push_to_hub, pushed = True, []

    def start(model_id, stage, what, revision):
        pushed.append((what, [path.name for path in checkpoints_in(tmp_path / "run")]))

    trainer._pushes.start = start
    trainer.train()
    assert pushed == [
        ("Training in progress, step 1", ["checkpoint-1"]),
        ("Training in progress, step 2", ["checkpoint-1", "checkpoint-2"]),
    ]


def test_a_checkpoint_that_is_replaced_comes_back_where_the_new_one_does_not(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "checkpoint-3")
    rename = os.rename

    def fail_to_place(source, target):
        if source.parent.name == UNFINISHED_FOLDER and source.name == "checkpoint-3":
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_to_place)
    with pytest.raises(CheckpointError, match="checkpoint-3 is whole"), written_whole(tmp_path / "checkpoint-3"):
        pass
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    monkeypatch.undo()
    (tmp_path / UNFINISHED_FOLDER).mkdir()
    os.rename(tmp_path / "checkpoint-3", tmp_path / UNFINISHED_FOLDER / "old-checkpoint-3")  # killed in between
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-3"


def test_an_error_that_is_not_of_the_disk_is_not_blamed_on_it(tmp_path):
    with pytest.raises(NotImplementedError, match="quantised"), written_whole(tmp_path / "checkpoint-3"):
        raise NotImplementedError("a quantised model cannot be saved")
    assert list(tmp_path.iterdir()) == []


def test_the_best_checkpoint_is_found_again_in_a_folder_that_was_moved(tiny_model, tmp_path):
    def trainer(folder, steps, **settings):
        args = config(
            tmp_path, output_dir=str(folder), max_steps=steps, save_strategy="steps", save_steps=1, eval_strategy="steps",
            eval_steps=1, metric_for_best_model="nll", greater_is_better=False, **settings,
        )  # fmt: skip
        return SeqGANTrainer(
            tiny_model("lstm"), tiny_model("cnn"), args, train_dataset=texts(), eval_dataset=texts(count=6)
        )

    first = trainer(tmp_path / "here", 2, learning_rate=1e-1)
    first.train()
    best = first.state.best_global_step
    (tmp_path / "here").rename(tmp_path / "there")
    moved_run = trainer(tmp_path / "there", 3, learning_rate=1e-1, save_total_limit=1)
    moved_run.train(resume_from_checkpoint=True)
    kept = moved_run.state.best_model_checkpoint
    assert kept == str(tmp_path / "there" / f"checkpoint-{moved_run.state.best_global_step}")
    assert moved_run.state.best_global_step != best or (tmp_path / "there" / f"checkpoint-{best}").is_dir()
