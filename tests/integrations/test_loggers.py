"""Each tracker is written for real and read back with its own reader."""

import csv
import importlib
import json
import sys
import time

import pytest
import torch

import rlrs
from rlrs.integrations.loggers import CSV, MLflow, TensorBoard, rates

RATIOS = {"embedding": (5.0, 0.5), "experts": (0.25, 2.0)}
STEPS = 5


def build(**options):
    groups = [
        {"name": name, "component": name.partition("/")[0], "params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.1}
        for name in ("embedding", "experts", "norm", "experts/no_decay")
    ]
    optimizer = torch.optim.SGD(groups)
    return optimizer, rlrs.RelativeLR(optimizer, RATIOS, total_steps=STEPS, warmup_steps=1, **options)


def log_a_run(logger):
    """All that was logged, step by step."""
    optimizer, scheduler = build(final_fraction=0.1)
    logged = {}
    for _ in range(STEPS):
        logged[scheduler.last_epoch] = rates(scheduler)
        logger.log(rates(scheduler), scheduler.last_epoch)
        optimizer.step()
        scheduler.step()
    return logged


def test_rates_and_ratios_of_every_component_and_the_base_are_there_under_flat_names():
    _, scheduler = build(final_fraction=0.1)
    assert rates(scheduler) == {
        "lr/base": 0.1,
        **{"lr/embedding": 0.5, "lr/experts": 0.025, "lr/norm": 0.1},
        **{"lr_ratio/embedding": 5.0, "lr_ratio/experts": 0.25, "lr_ratio/norm": 1.0},
    }


def test_the_ratio_moves_from_its_start_to_its_end_and_is_the_rate_over_the_base_rate():
    optimizer, scheduler = build(final_fraction=0.1)
    for _ in range(STEPS):
        values = rates(scheduler)
        for component in ("embedding", "experts", "norm"):
            assert values[f"lr_ratio/{component}"] * values["lr/base"] == pytest.approx(values[f"lr/{component}"])
        optimizer.step()
        scheduler.step()
    assert rates(scheduler)["lr_ratio/embedding"] == pytest.approx(0.5)
    assert rates(scheduler)["lr_ratio/experts"] == pytest.approx(2.0)


def test_ratios_are_numbers_also_where_the_base_rate_is_zero():
    optimizer, scheduler = build(final_fraction=0.0)
    ratios = []
    for _ in range(STEPS):
        ratios.append(rates(scheduler)["lr_ratio/embedding"])
        optimizer.step()
        scheduler.step()
    ratios.append(rates(scheduler)["lr_ratio/embedding"])
    assert rates(scheduler)["lr/base"] == 0
    # A schedule that ends at 0 for every component never shows the end ratio: the rate is the start ratio throughout.
    assert ratios == pytest.approx([5.0] * (STEPS + 1))


def test_two_base_rates_give_each_component_its_own_ratio():
    groups = [
        {"name": n, "component": n, "params": [torch.nn.Parameter(torch.ones(1))], "lr": lr}
        for n, lr in {"embedding": 0.1, "experts": 0.002}.items()
    ]
    scheduler = rlrs.RelativeLR([torch.optim.SGD([g]) for g in groups], RATIOS, total_steps=9)
    assert rates(scheduler)["lr/experts"] == 0.002 * 0.25
    assert rates(scheduler)["lr_ratio/experts"] == 0.25


def test_csv_is_read_back_and_continued(tmp_path):
    path = tmp_path / "rates.csv"
    logged = log_a_run(CSV(path))
    CSV(path).log(logged[0], 9)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row.pop("step")) for row in rows] == [*logged, 9]
    for row, values in zip(rows, [*logged.values(), logged[0]], strict=True):
        assert {name: float(value) for name, value in row.items()} == values


def test_csv_refuses_other_columns_than_the_files(tmp_path):
    CSV(tmp_path / "a.csv").log({"lr/base": 1.0}, 0)
    with pytest.raises(ValueError, match=r"a\.csv has the columns step, lr/base, not step, loss"):
        CSV(tmp_path / "a.csv").log({"loss": 1.0}, 1)


@pytest.mark.filterwarnings("ignore")
def test_tensorboards_event_file_is_read_back(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoard(tmp_path)
    logged = log_a_run(logger)
    logger.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(logged[0])
    for name in logged[0]:
        found = {event.step: event.value for event in events.Scalars(name)}
        assert found == pytest.approx({step: values[name] for step, values in logged.items()})


@pytest.mark.filterwarnings("ignore")
def test_mlflows_store_is_read_back(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    with mlflow.start_run() as run:
        logged = log_a_run(MLflow())
    client = mlflow.MlflowClient()
    for name in logged[0]:
        found = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, name)}
        assert found == pytest.approx({step: values[name] for step, values in logged.items()})


@pytest.mark.filterwarnings("ignore")
def test_an_offline_weights_and_biases_run_is_a_logger_as_it_is(tmp_path):
    wandb = pytest.importorskip("wandb")
    run = wandb.init(mode="offline", dir=str(tmp_path), project="rlrs", settings=wandb.Settings(silent=True))
    logged = log_a_run(run)
    run.finish()
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 30
    while (history := read_wandb(path)) is None and time.monotonic() < deadline:
        time.sleep(0.1)  # its writer is a process of its own, which may outlive finish() by a moment
    assert [row.pop("_step") for row in history] == list(logged)
    for row, values in zip(history, logged.values(), strict=True):
        assert {name: row[name] for name in values} == pytest.approx(values)


def read_wandb(path):
    """History rows of an offline run's file, None while it is unfinished.

    It is records in blocks of 32 KiB, in LevelDB's log format after 7 bytes.
    """
    from wandb.proto import wandb_internal_pb2

    data, at, parts, rows = path.read_bytes(), 7, b"", []
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            if record.WhichOneof("record_type") == "exit":
                return rows
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    return None


@pytest.mark.filterwarnings("ignore")
def test_trackio_is_a_logger_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    trackio = pytest.importorskip("trackio")
    if not str(importlib.import_module("trackio.utils").TRACKIO_DIR).startswith(str(tmp_path)):
        pytest.skip("trackio was imported before, with another folder")
    run = trackio.init(project="rlrs", name="a")
    logged = log_a_run(trackio)
    run.finish()
    storage = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
    rows = storage.get_logs("rlrs", "a")
    assert [row["step"] for row in rows] == list(logged)
    for row, values in zip(rows, logged.values(), strict=True):
        assert {name: row[name] for name in values} == pytest.approx(values)


def test_a_missing_tracker_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ImportError, match=r"pip install -e '.\[mlflow\]'"):
        MLflow()
