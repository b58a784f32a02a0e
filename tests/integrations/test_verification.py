"""`rlrs.verify` under transformers, PEFT, Lightning and Accelerate, and on two processes."""

import multiprocessing
import os
import warnings

import pytest
import torch
from running import needs
from torch.optim.lr_scheduler import LambdaLR

import rlrs
from ports import free_port
from rlrs.integrations.verification import lightning_callback, trainer_callback
from rlrs.verify import VerificationError
from verified_loops import ALL, VOCAB, Decoder, groups, observe, plain

needs("transformers", "accelerate", "lightning", "peft", extra="integrations")


def transformers_adafactor():
    from transformers import Adafactor

    model = Decoder()
    optimizer = Adafactor(groups(model), relative_step=False, scale_parameter=False)
    return plain(model, optimizer)


def adafactor_that_sets_its_own_rate():
    from transformers import Adafactor

    model = Decoder()
    made = [{k: v for k, v in g.items() if k != "lr"} for g in groups(model)]
    return plain(model, Adafactor(made, relative_step=True, warmup_init=True))


def lora():
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"], modules_to_save=["lm_head"])
        model = peft.get_peft_model(Decoder(), config)
    optimizer = torch.optim.AdamW(groups(model, ratios={"attention": 2.0}))
    return plain(model, optimizer, scheduler=rlrs.RelativeLR(optimizer, {"attention": 2.0}, total_steps=20))


def test_adafactor_of_transformers_with_a_given_rate_is_sound():
    report, untouched = observe(transformers_adafactor)
    assert untouched
    assert report.ok, str(report)


def test_adafactor_of_transformers_that_sets_its_own_rate_is_inert():
    report, untouched = observe(adafactor_that_sets_its_own_rate)
    assert untouched
    assert {finding.component for finding in report.findings} == ALL
    assert {finding.kind for finding in report.findings} == {"inert"}


def test_lora_is_sound_where_only_adapters_train():
    report, untouched = observe(lora)
    assert untouched
    assert report.ok, str(report)
    assert set(report.components) == {"attention", "feed_forward", "unembedding"}


def trainer(folder, callback, **options):
    """A Trainer on a small Llama whose optimizer has a group per component."""
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = LlamaForCausalLM(config)
    row = torch.arange(6) % 16
    return Trainer(
        model=model,
        args=TrainingArguments(
            str(folder), max_steps=5, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no", **options
        ),
        train_dataset=[{"input_ids": row, "labels": row}] * 12,
        callbacks=[callback] if callback else [],
        optimizers=(torch.optim.AdamW(groups(model)), None),
    )


def test_the_trainers_callback_reports_after_its_steps_and_changes_nothing(tmp_path):
    callback = trainer_callback(steps=3)
    verified, plainly = trainer(tmp_path, callback), trainer(tmp_path, None)
    verified.train()
    plainly.train()
    assert callback.report.ok, str(callback.report)
    assert callback.report.steps == 3
    for one, two in zip(verified.model.parameters(), plainly.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_trainers_callback_raises_where_it_is_told_to(tmp_path):
    running = trainer(tmp_path, trainer_callback(action="raise", ratios={"embedding": 3.0}))
    with pytest.raises(VerificationError, match=r"embedding  rate  0\.333"):
        running.train()


def test_a_callback_refuses_an_action_that_is_none():
    with pytest.raises(ValueError, match="'warn' or 'raise', not 'stop'"):
        trainer_callback(action="stop")


def fit(callback, *, steps_of_scheduler=1):
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Decoder()

        def training_step(self, batch, index):
            logits = self.model(batch[:, :-1])
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(groups(self))
            self.scheduler = LambdaLR(optimizer, lambda t: 0.9**t)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler, "interval": "step"}}

        def on_train_batch_end(self, *batch):
            for _ in range(steps_of_scheduler - 1):
                self.scheduler.step()

    torch.manual_seed(0)
    module = Module()
    data = torch.utils.data.DataLoader(torch.randint(VOCAB, (16, 6)), batch_size=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*num_workers|.*[Cc]heckpoint|.*litlogger|.*pytree", append=False)
        warnings.filterwarnings("default")
        warnings.filterwarnings("error", message="(?s).*finding")
        lightning.Trainer(
            max_steps=5,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[callback] if callback else [],
        ).fit(module, data)
    return module


@pytest.mark.filterwarnings("default")
def test_the_lightning_callback_reports_after_its_steps_and_changes_nothing():
    callback = lightning_callback(steps=3)
    verified, plainly = fit(callback), fit(None)
    assert callback.report.ok, str(callback.report)
    assert callback.report.steps == 3
    for one, two in zip(verified.parameters(), plainly.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.filterwarnings("default")
def test_a_scheduler_that_the_module_steps_beside_lightning_goes_twice_the_pace():
    callback = lightning_callback(action="raise")
    with pytest.raises(VerificationError, match="LambdaLR goes 2 steps"):
        fit(callback, steps_of_scheduler=2)


def with_accelerate(*, own):
    """An Accelerate loop that accumulates 2 micro-batches; `own`: with our scheduler, else with prepare's."""
    from accelerate import Accelerator

    from rlrs.integrations.accelerate import prepare_scheduler

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = Decoder()
    optimizer = torch.optim.AdamW(groups(model))
    schedule = LambdaLR(optimizer, lambda t: 0.9**t)
    model, optimizer = accelerator.prepare(model, optimizer)
    if own:
        scheduler = prepare_scheduler(accelerator, optimizer, {"embedding": 5.0}, total_steps=20)
    else:
        scheduler = accelerator.prepare(schedule)
    tokens = torch.randint(VOCAB, (2, 6), generator=torch.Generator().manual_seed(accelerator.process_index))
    with rlrs.verify(model, optimizer, scheduler=scheduler) as check:
        for _ in range(8):
            with accelerator.accumulate(model):
                logits = model(tokens[:, :-1])
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    return check.report


def test_an_accelerate_loop_is_sound():
    report = with_accelerate(own=True)
    assert report.ok, str(report)
    assert report.steps == 3


def _verified(model, *, optimizer_of=torch.optim.AdamW):
    """Four steps with `verify`, four without, from one beginning: the report, and whether the ends are equal."""
    import copy

    ends = []
    rank = torch.distributed.get_rank()
    for verified in (True, False):
        torch.manual_seed(0)
        trained = model()
        optimizer = optimizer_of(groups(trained))
        scheduler = rlrs.RelativeLR(optimizer, {"embedding": 5.0}, total_steps=20)
        tokens = torch.randint(VOCAB, (2, 6), generator=torch.Generator().manual_seed(rank))

        def steps(trained=trained, optimizer=optimizer, scheduler=scheduler, tokens=tokens):
            for _ in range(4):
                logits = trained(tokens[:, :-1])
                torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()

        if verified:
            with rlrs.verify(trained, optimizer, scheduler=scheduler) as check:
                steps()
        else:
            steps()
        ends.append([copy.deepcopy(getattr(p, "_local_tensor", p).detach()) for p in trained.parameters()])
    return check.report, all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def _ddp():
    return torch.nn.parallel.DistributedDataParallel(Decoder())


def _fsdp2():
    from torch.distributed.fsdp import fully_shard

    model = Decoder()
    fully_shard(model.layers[0])
    return fully_shard(model)


def _rank(rank, port, queue):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    said = {}
    for name, model, optimizer_of in (
        ("ddp", _ddp, torch.optim.AdamW),
        ("fsdp2", _fsdp2, torch.optim.AdamW),
        ("fsdp2 sgd", _fsdp2, torch.optim.SGD),
    ):
        report, untouched = _verified(model, optimizer_of=optimizer_of)
        said[name] = (report.ok, untouched, report.components, str(report))
    said["accelerate"] = str(with_accelerate(own=False))
    queue.put((rank, said))
    torch.distributed.barrier()
    queue.close()
    queue.join_thread()
    os._exit(0)


@pytest.fixture(scope="module")
def two_ranks():
    """What two processes said, each of all its loops."""
    context = multiprocessing.get_context("spawn")
    queue, port = context.Queue(), free_port()
    processes = [context.Process(target=_rank, args=(rank, port, queue), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    said = dict(queue.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(30)
        process.kill()
    return said


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2", "fsdp2 sgd"])
def test_two_processes_are_sound_and_go_on_bit_for_bit(two_ranks, wrapper):
    for said in two_ranks.values():
        ok, untouched, components, text = said[wrapper]
        assert ok, text
        assert untouched
        assert set(components) == ALL


def test_a_prepared_scheduler_goes_a_step_per_process(two_ranks):  # huggingface/accelerate#1382, transformers#24088
    for said in two_ranks.values():
        assert "LambdaLR goes 2 steps per optimizer step" in said["accelerate"]
