"""The command line as a person meets it: exit codes, one-sentence errors, JSON."""

from __future__ import annotations

import hashlib
import json
import sys

import pytest

from spanwright.cli import main
from support.data import sentences, write_jsonl
from support.tiny import SENTENCES, tiny_extractor


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line; (exit code, standard output, standard error)."""

    def call(*arguments, stdin=None):
        monkeypatch.setattr(sys, "argv", ["spanwright", *map(str, arguments)])
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", stdin)
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    tiny_extractor().save(folder / "model")
    write_jsonl(folder / "train.jsonl", sentences())
    (folder / "bad.jsonl").write_text('{"tokenized_text": ["a"], "ner": [[0, 5, "x"]]}\n')
    (folder / "run.toml").write_text("[training]\nmax_steps = 2\nbatch_size = 4\n[optimizer]\nlr = 1e-3\n")
    (folder / "texts.txt").write_text(f"{SENTENCES[0]}\n\n{SENTENCES[1]}\n")
    (folder / "texts.jsonl").write_text(json.dumps({"text": SENTENCES[0]}) + "\n")
    return folder


def test_train_evaluate_extract(run, place, tmp_path):
    out = tmp_path / "run"
    code, printed, err = run(
        "train",
        "--model",
        place / "model",
        "--train",
        place / "train.jsonl",
        "--dev",
        place / "train.jsonl",
        "--output",
        out,
        "--config",
        place / "run.toml",
        "--set",
        "training.seed=3",
        "--device",
        "cpu",
    )
    assert code == 0, err
    assert "12 of 12 gold spans" in err
    assert "micro" in printed
    assert json.loads((out / "train-config.json").read_text())["training"]["seed"] == 3

    code, printed, _ = run("evaluate", out, place / "train.jsonl", "--json", "--threshold", "0.4")
    assert code == 0
    assert json.loads(printed)["micro"]["num_gold"] == 12
    code, printed, _ = run("evaluate", out, place / "train.jsonl", "--labels", "city")
    assert code == 0
    assert "city" in printed
    assert "person" not in printed.split("micro")[0].split("F1")[1]

    code, printed, _ = run("extract", out, SENTENCES[0], "--labels", "person, city", "--json", "--threshold", "0")
    answer = json.loads(printed)
    assert answer["text"] == SENTENCES[0]
    assert all(answer["text"][e["start"] : e["end"]] == e["text"] for e in answer["entities"])

    code, _, err = run("train", "--model", place / "model", "--train", place / "train.jsonl", "--output", out)
    assert code == 2
    assert "new or empty folder" in err
    code, printed, err = run(
        "train",
        "--model",
        place / "model",
        "--train",
        place / "train.jsonl",
        "--dev",
        place / "train.jsonl",
        "--output",
        out,
        "--config",
        place / "run.toml",
        "--set",
        "training.seed=3",
        "--resume",
        "--json",
        "--device",
        "cpu",
    )
    assert code == 0, err
    assert json.loads(printed)["steps"] == 2


def test_extract_from_files_and_standard_input(run, place):
    code, printed, _ = run("extract", place / "model", "--input", place / "texts.txt", "--labels", "person", "--json")
    assert code == 0
    assert [json.loads(line)["text"] for line in printed.splitlines()] == [SENTENCES[0], "", SENTENCES[1]]
    code, printed, _ = run("extract", place / "model", "--input", place / "texts.jsonl", "--labels", "person")
    assert printed.startswith(SENTENCES[0])
    code, printed, _ = run("extract", place / "model", "--labels", "person", stdin=iter([SENTENCES[1] + "\n"]))
    assert printed.startswith(SENTENCES[1])
    code, printed, _ = run("extract", place / "model", "Yes .", "--labels", "person", "--threshold", "1")
    assert printed == "no entities\n"


def test_relations(run, tmp_path):
    tiny_extractor(adjacency="none", seed=1).save(tmp_path / "model")
    asked = ("--labels", "person,country", "--relations", "met,lives in", "--threshold", "0.4")
    code, printed, err = run("extract", tmp_path / "model", SENTENCES[1], *asked, "--json")
    assert code == 0, err
    found = json.loads(printed)
    assert {relation["label"] for relation in found["relations"]} <= {"met", "lives in"}
    assert found["relations"]
    code, printed, _ = run("extract", tmp_path / "model", SENTENCES[1], *asked)
    assert printed.count(" -> ") == len(found["relations"])
    record = {"tokenized_text": ["Ada", "met", "Bob"], "ner": [[0, 0, "person"], [2, 2, "person"]]}
    (tmp_path / "data.jsonl").write_text(json.dumps(record | {"relations": [[0, 1, "met"]]}) + "\n")
    code, printed, err = run("evaluate", tmp_path / "model", tmp_path / "data.jsonl", "--json")
    assert code == 0, err
    assert json.loads(printed)["relations"]["micro"]["num_gold"] == 1
    code, printed, _ = run("evaluate", tmp_path / "model", tmp_path / "data.jsonl", "--relations", "owns,met")
    assert "with both labels" in printed
    assert "owns" in printed
    code, printed, _ = run("inspect", tmp_path / "model")
    assert "relations (none, projected pairs)" in " ".join(printed.split())
    assert "<<REL>>" in printed
    code, _, err = run("extract", tmp_path / "model", "a", "--labels", "b", "--relations", "c", "--threshold", "2")
    assert code == 2


def test_check_and_convert(run, place, tmp_path):
    assert run("check", place / "train.jsonl")[0] == 0
    code, printed, _ = run("check", place / "bad.jsonl", "--json")
    assert code == 1
    assert json.loads(printed)["codes"] == {"out-of-range": 1}
    code, printed, _ = run("check", "--train", place / "train.jsonl", "--dev", place / "bad.jsonl")
    assert code == 1
    assert "bad.jsonl:1: `ner[0]` must end within its 1 words" in printed
    code, printed, _ = run("convert", place / "train.jsonl", tmp_path / "a.conll")
    assert (code, "8 sentences, 12 spans" in printed) == (0, True)
    code, printed, err = run("convert", place / "bad.jsonl", tmp_path / "b.conll", "--skip-invalid")
    assert "left out: " in err
    assert run("convert", place / "train.jsonl", tmp_path / "a.jsonl", "--to", "text")[0] == 0
    assert run("evaluate", place / "model", tmp_path / "a.jsonl", "--json")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["check"], 2, "must be given a file"),
        (["check", "none.jsonl"], 65, "No such file"),
        (["extract", "nowhere/at/all", "a", "--labels", "b"], 66, "must be a model's folder, but does not exist"),
        (["extract", "{place}", "a", "--labels", "b"], 66, "has no gliner_config.json"),
        (["extract", "{place}/model", "a", "--labels", ","], 2, "must name what to find"),
        (["extract", "{place}/model", "a", "--input", "b", "--labels", "c"], 2, "must not both be given"),
        (["extract", "{place}/model", "--input", "none.txt", "--labels", "c"], 65, "No such file"),
        (["extract", "{place}/model", "--input", "{place}/bad.jsonl", "--labels", "c"], 65, "bad.jsonl:1: `text`"),
        (["extract", "{place}/model", "a", "--labels", "b", "--overlap", "nestd"], 2, "Did you mean `nested`"),
        (["evaluate", "{place}/model", "{place}/bad.jsonl"], 65, "bad.jsonl:1"),
        (["extract", "{place}/model", "a", "--labels", "b", "--relations", "c"], 2, "asked of a relation model"),
        (
            ["train", "--model", "{place}/model", "--train", "{place}/bad.jsonl", "--output", "{place}/o"],
            65,
            "skip-invalid",
        ),
        (
            ["train", "--model", "{place}/model", "--train", "x", "--output", "o", "--set", "optimizer.lrr=1"],
            2,
            "`lrr` is not a key of section [optimizer]. Did you mean `lr`?",
        ),
        (["train", "--model", "m", "--train", "x", "--output", "o", "--config", "no.toml"], 2, "must be a TOML file"),
        (["train", "--model", "m", "--train", "x", "--output", "o", "--config", "{place}/bad.jsonl"], 2, "is none"),
        (["convert", "{place}/train.jsonl", "x.parquet"], 2, "must end in"),
    ],
)
def test_mistakes_are_one_sentence_and_an_exit_code(run, place, arguments, code, message):
    found, _, err = run(*(a.format(place=place) for a in arguments))
    assert message in err
    assert found == code
    assert "Traceback" not in err
    assert err.startswith("spanwright: ")


def test_unknown_keys_of_a_file_name_the_file(run, place, tmp_path):
    (tmp_path / "x.toml").write_text("[trainin]\nepochs = 1\n")
    _code, _, err = run("train", "--model", "m", "--train", "x", "--output", "o", "--config", tmp_path / "x.toml")
    assert "x.toml: `trainin` is not a key of TrainConfig. Did you mean `training`?" in err


def test_version(run):
    assert run("--version")[1].startswith("spanwright 0.")


def test_inspect(run, place):
    code, out, _ = run("inspect", place / "model")
    assert code == 0
    assert "uni-encoder, span (markerV0)" in out
    code, out, _ = run("inspect", place / "model", "--json")
    found = json.loads(out)
    assert sum(found["parameters"].values()) > 10_000
    assert found["limits"] == {"words of a window": 384, "words of a span": 4, "subtokens of a sequence": 512}
    assert found["markers"] == {"entity": "<<ENT>>", "separator": "<<SEP>>"}
    size, digest = found["files"]["model.safetensors"]
    data = (place / "model" / "model.safetensors").read_bytes()
    assert (size, digest) == (len(data), hashlib.sha256(data).hexdigest())
    assert found["stored_as"].keys() == {"F32", "I64"} or found["stored_as"].keys() == {"F32"}
    assert run("inspect", place / "nowhere")[0] == 66


def test_inspect_reads_the_licence_of_the_card(run, place):
    card = place / "model" / "README.md"
    card.write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
    assert json.loads(run("inspect", place / "model", "--json")[1])["licence"] == "apache-2.0"
    card.unlink()


def test_benchmark_zero_shot(run, place, tmp_path):
    (tmp_path / "sets" / "one").mkdir(parents=True)
    write_jsonl(tmp_path / "sets" / "one" / "test.jsonl", sentences())
    code, printed, err = run("benchmark", "zero-shot", place / "model", "--data", tmp_path / "sets", "--json")
    assert code == 0, err
    told = json.loads(printed)
    assert [each["name"] for each in told["sets"]] == ["one"]
    assert 0 <= told["interval"][0] <= told["mean_f1"] <= told["interval"][1] <= 1
    code, printed, _ = run("benchmark", "zero-shot", place / "model", "--data", tmp_path / "sets", "--draws", "10")
    assert code == 0
    assert "mean" in printed
    code, _, err = run("benchmark", "zero-shot", place / "model", "--data", tmp_path)
    assert code == 65
    assert "must hold data sets as NAME/test.jsonl" in err
