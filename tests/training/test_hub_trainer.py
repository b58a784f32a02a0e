"""Runs that transformers' Trainer and TRL's SFTTrainer make for a study, on weights from a folder."""

import importlib.util
import json
import math

import pytest

if any(importlib.util.find_spec(name) is None for name in ("transformers", "trl", "peft")):
    pytest.skip("transformers, trl and peft are an extra", allow_module_level=True)

from hub_folders import save_model, write_records, write_text
from rlrs.data import prepare
from rlrs.data.records import load_records, prepare_records
from rlrs.records import Pruning, read_metrics, read_record, write_record
from rlrs.records.checked import read_checked
from rlrs.runs import Run
from rlrs.runs.asked import OwnRun, ReportedResult
from rlrs.runs.verifying import Verification
from rlrs.settings import ConfigError, DataConfig, HubConfig, TrainerConfig, TrainingConfig, study_from
from rlrs.study import resolve
from rlrs.study import run as run_study
from rlrs.study.python import _Silent
from rlrs.study.trainer_checks import own_components
from rlrs.training import RunSpec, hub_trainer
from rlrs.training import train as train_reference

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning",
    "ignore:`gradient_checkpointing` is deprecated:FutureWarning",
    "ignore:.*pin_memory.*:UserWarning",
)
RATIOS = {"embedding": ((0.0, 2.0), (1.0, 0.5)), "attention": ((0.0, 0.5), (1.0, 1.5))}
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, text, tokens and records."""
    folder = tmp_path_factory.mktemp("hub")
    save_model(folder / "model")
    write_text(folder / "text.txt")
    config = DataConfig(source=f"files:{folder}/text.txt", tokenizer=str(folder / "model"), sequence_length=16)
    prepare(config, folder / "tokens")
    for kind in ("messages", "prompt", "text"):
        write_records(folder / f"{kind}.jsonl", kind)
        source = f"files:{folder}/{kind}.jsonl"
        prepare_records(DataConfig(source=source, sequence_length=64, valid_fraction=0.2), folder / f"{kind}-data")
    return folder


@pytest.fixture
def begin(place, tmp_path):
    """The run of a folder, as its process gets it; the folder is `tmp_path`, or one in it."""

    def run(name=".", *, data="tokens", steps=6, seed=3, ratios=RATIOS, decays=None, trainer="Trainer", **asked):
        config = {"trainer": trainer, "eval_tokens": 256, "lora": asked.pop("lora", None)}
        config["arguments"] = {"per_device_train_batch_size": 4, **asked.pop("arguments", {})}
        spec = OwnRun(
            trainer=TrainerConfig(transformers=config),
            args={"model": str(place / "model")},
            training=TrainingConfig(score_steps=3, warmup_fraction=0.2, component_weight_decay=decays or {}),
            steps=steps,
            seed=seed,
            lr=3e-3,
            final_fraction=0.1,
            ratios=ratios,
            data=str(place / data),
        )
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        write_record(folder / "run.json", spec.asked(**asked))
        return Run.read(folder / "run.json")

    return run


def losses(folder):
    return [line.loss for line in read_metrics(folder / "metrics.jsonl") if line.loss is not None]


def test_a_run_of_the_trainer_has_the_losses_of_the_reference_trainer(begin, place, tmp_path):
    run = begin()
    hub_trainer.train(run)
    data = prepare(
        DataConfig(source=f"files:{place}/text.txt", tokenizer=str(place / "model"), sequence_length=16),
        place / "tokens",
    )
    spec = RunSpec(
        model=HubConfig(hub=str(place / "model"), weights="load"),
        training=TrainingConfig(score_steps=3, warmup_fraction=0.2, eval_tokens=256, log_every=1),
        steps=6, batch_size=4, seed=3, lr=3e-3, final_fraction=0.1, ratios=RATIOS, data_hash=data.hash,
    )  # fmt: skip
    reference = train_reference(spec, data, tmp_path / "reference")
    assert losses(tmp_path) == pytest.approx(losses(tmp_path / "reference"), rel=2e-5)
    assert run.result.score == pytest.approx(reference.score, rel=2e-5)
    assert run.result.valid_loss == pytest.approx(reference.valid_loss, rel=1e-4)
    assert run.result.rates["embedding"] == pytest.approx(6e-3)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("at", [3, 6])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(begin, tmp_path, monkeypatch, at):
    saved = {"arguments": {"save_steps": 2}}
    whole = begin("whole", **saved)
    hub_trainer.train(whole)
    killed = begin("killed", **saved)

    def kill(step):
        if step == at:
            raise KeyboardInterrupt

    if at == 6:  # after its last checkpoint, before its end
        monkeypatch.setattr(killed, "finish", lambda valid_loss=None: kill(6))
    else:
        report = killed.report
        monkeypatch.setattr(killed, "report", lambda step, **loss: report(step, **loss) or kill(step))
    with pytest.raises(KeyboardInterrupt):
        hub_trainer.train(killed)
    (tmp_path / "killed" / "checkpoints" / "checkpoint-9").mkdir()  # one that was not written to its end
    again = Run.read(tmp_path / "killed" / "run.json")
    hub_trainer.train(again)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert (again.result.score, again.result.valid_loss) == (whole.result.score, whole.result.valid_loss)


def test_a_run_above_the_limit_of_a_rung_ends_there(begin, tmp_path):
    run = begin(prune=Pruning(rungs=((2, 0.1), (6, None)), window=1))
    hub_trainer.train(run)
    result = read_checked(tmp_path / "result.json", ReportedResult, None, "result", "")
    assert (result.status, result.steps) == ("pruned", 2)
    assert run.result.valid_loss is None


def test_another_seed_has_another_order_and_the_same_weights_to_begin_with(begin, tmp_path):
    for seed in (3, 4):
        hub_trainer.train(begin(str(seed), seed=seed, steps=2, validate=False))
    three, four = losses(tmp_path / "3"), losses(tmp_path / "4")
    assert three != four
    assert three[0] == pytest.approx(math.log(257), abs=0.05)


def test_weight_decay_of_a_component_reaches_its_group(begin):
    trainer = hub_trainer.make_trainer(begin(decays={"embedding": 0.3}))
    trainer.create_optimizer()
    decays = {group["name"]: group["weight_decay"] for group in trainer.optimizer.param_groups}
    assert (decays["embedding"], decays["attention"], decays["norm/no_decay"]) == (0.3, 0.1, 0.0)
    assert trainer.optimizer.param_groups[0]["betas"] == (0.9, 0.95)


@pytest.mark.parametrize("kind", ["messages", "prompt", "text"])
def test_records_of_every_kind_are_fine_tuned_on_with_adapters(begin, tmp_path, kind):
    ratios = {"attention": ((0.0, 2.0), (1.0, 0.5))}
    run = begin(data=f"{kind}-data", trainer="SFTTrainer", lora=LORA, steps=3, ratios=ratios)
    hub_trainer.train(run)
    assert run.result.status == "finished"
    assert math.isfinite(run.result.valid_loss)
    assert run.result.rates == {"attention": pytest.approx(6e-3), "feed_forward": pytest.approx(3e-3)}


def test_a_run_verifies_its_own_rates(begin, tmp_path):
    hub_trainer.train(begin(verify=2))
    found = read_record(tmp_path / "verification.0.json", Verification, "")
    assert found.findings == ()
    assert set(found.components) == {"embedding", "attention", "feed_forward", "norm", "unembedding"}


def test_records_are_split_by_their_hash(place, tmp_path):
    train, valid, facts = load_records(place / "text-data")
    assert (len(train), len(valid)) == (24, 6)
    assert facts == {"text_field": "text", "sequence_length": 64}
    write_records(tmp_path / "a.jsonl", "text", count=31)
    config = DataConfig(source=f"files:{tmp_path}/a.jsonl", sequence_length=64, valid_fraction=0.2)
    prepare_records(config, tmp_path / "data")
    moved = {str(r) for r in load_records(tmp_path / "data")[1]} ^ {str(r) for r in valid}
    assert len(moved) <= 2, "a record more moves no other, but for the one at the border"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"messages": []}', r"line 1: neither messages, nor prompt and completion, nor a text in 'text'"),
        ('{"text": "a"}', "1 records are too few"),
        ("[1, 2]", "element 1: no object"),
        ('{"text": "a"}\nno JSON', "line 2: not JSON"),
    ],
)
def test_records_that_cannot_be_used_are_one_line(tmp_path, text, said):
    (tmp_path / "a.jsonl").write_text(text + "\n")
    with pytest.raises(ConfigError, match=said):
        prepare_records(DataConfig(source=f"files:{tmp_path}/a.jsonl"), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def small_study(place, **changes):
    scale = {"steps": 4, "set": {"model": str(place / "model")}}
    plain = {
        "name": "ft",
        "trainer": {"transformers": {"arguments": {"per_device_train_batch_size": 4}, "eval_tokens": 256}},
        "data": {"source": f"files:{place}/text.txt", "sequence_length": 16},
        "proxy": scale,
        "target": {**scale, "steps": 5},
        "training": {"score_steps": 2, "warmup_fraction": 0.2},
        "search": {"trials": 1, "lr": 3e-3, "method": "local"},
        "transfer": {"trials": 1},
        "comparison": {"arms": ["uniform", "rlrs"], "seeds": 2, "horizons": []},
        "processes": 2,
    }
    for name, value in changes.items():
        plain[name] = {**plain.get(name, {}), **value} if isinstance(value, dict) else value
    return study_from(plain, "study.yaml")


@pytest.mark.long
def test_a_whole_study_and_the_same_after_its_end(place, tmp_path):
    found = run_study(small_study(place), tmp_path / "run", _Silent())
    assert found.comparison is not None
    assert found.data["hash"] == prepare(resolve(small_study(place)).data, tmp_path / "run" / "data").hash
    assert {c.component for c in found.models.proxy.components} >= {"embedding", "attention", "feed_forward"}
    assert json.loads((tmp_path / "run" / "verify" / "sound.json").read_text())["verified"]
    again = run_study(small_study(place), tmp_path / "run", _Silent())
    assert again.comparison.losses == found.comparison.losses


def test_only_components_that_are_trained_are_searched(place):
    study = resolve(small_study(place, trainer={"transformers": {"lora": LORA, "trainer": "SFTTrainer"}}))
    assert own_components(study.trainer, study.proxy, "proxy.set")[0] == ["attention", "feed_forward"]


def test_a_folder_is_known_by_what_it_holds(place, tmp_path):
    save_model(tmp_path / "other", seed=1)
    contents = [
        resolve(small_study(place, proxy={"set": {"model": str(folder)}})).proxy.set["content"]
        for folder in (place / "model", tmp_path / "other")
    ]
    assert contents[0] != contents[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"proxy": {"set": {}}}, "proxy.set.model should be the folder of a transformers model"),
        ({"proxy": {"set": {"model": "nowhere"}}}, "set.model='nowhere': no folder with a config.json"),
        (
            {"trainer": {"transformers": {"arguments": {"learning_rate": 1e-3}}}},
            "arguments.learning_rate=0.001 cannot be given: it is of the run",
        ),
        (
            {"trainer": {"transformers": {"arguments": {"lr": 1}}}},
            "arguments.lr: TrainingArguments has no such argument",
        ),
        ({"trainer": {"transformers": {"arguments": {"optim": "none"}}}}, "TrainingArguments refuses them: "),
        ({"trainer": {"transformers": {"lora": {"rank": 4}}}}, "trainer.transformers.lora={'rank': 4}: "),
        ({"trainer": {"transformers": {}, "model": "a:b"}}, "model is not for transformers"),
        ({"trainer": {"command": "true"}}, "should have command, call or transformers, one of them"),
        ({"search": {"start": {"router": 2.0}}}, "search.start: "),
    ],
)
def test_what_cannot_be_is_one_line(place, changes, said):
    with pytest.raises(ConfigError) as error:
        resolve(small_study(place, **changes))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_weights_is_not_trained_from_scratch_in_silence(place, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_bytes((place / "model" / "config.json").read_bytes())
    both = {"proxy": {"set": {"model": str(tmp_path / "bare")}}, "target": {"set": {"model": str(tmp_path / "bare")}}}
    with pytest.raises(ConfigError, match="has no weights to load"):
        resolve(small_study(place, **both))
