"""torchtitan's own model, optimizers and distributed checkpoints, on CPU; only the attention kernel is another one."""

import pytest
import torch
from running import largest_error, needs
from torch import nn

needs("torchtitan", extra="torchtitan")
needs("triton", "tyro", "datasets", "torchdata", extra="torchtitan")  # without which torchtitan cannot be imported
pytestmark = pytest.mark.filterwarnings(
    "ignore:torch.distributed is disabled:UserWarning",
    "ignore:To get the last learning rate:UserWarning",  # torchtitan calls get_lr() when it loads
    "ignore:`torch.jit:DeprecationWarning",  # of what torchtitan imports
)

STEPS, WARMUP = 8, 2


class CausalAttention(nn.Module):
    def forward(self, q_BLNH, k_BLNH, v_BLNH, **_):
        q, k, v = (x.transpose(1, 2) for x in (q_BLNH, k_BLNH, v_BLNH))
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def build(ratios="paper-dense", groups=None, partial=False, **settings):
    from torchtitan.components.optimizer import OptimizersContainer, default_adamw
    from torchtitan.models.llama3 import model_registry

    from rlrs.integrations.torchtitan import RelativeLRSchedulers

    torch.manual_seed(0)
    spec = model_registry("debugmodel").model
    spec.layers = spec.layers[:1]
    model = spec.build()
    model.init_states()
    for block in model.layers.values():
        block.attention.inner_attention = CausalAttention()
    config = default_adamw(lr=3e-3) if groups is None else OptimizersContainer.Config(param_groups=groups)
    config.implementation = "for-loop"
    optimizers = config.build(model_parts=[model])
    defaults = {"warmup_steps": WARMUP, "decay_type": "cosine", "min_lr_factor": 0.1}
    config = RelativeLRSchedulers.Config(ratios=ratios, partial=partial, **{**defaults, **settings})
    return model, optimizers, config.build(optimizers=optimizers, training_steps=STEPS)


def train(model, optimizers, schedulers, first=0, stop=STEPS):
    lines = []
    for step in range(first, stop):
        tokens_BL = torch.randint(2048, (1, 16), generator=torch.Generator().manual_seed(step))
        logits = model(tokens_BL[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens_BL[:, 1:].flatten())
        loss.backward()
        optimizers.step()
        rates = {key.removeprefix("lr/"): rate for key, rate in schedulers.get_metrics().items()}
        used = {g["lr"] for optimizer in optimizers for g in optimizer.param_groups}
        assert used == set(rates.values())
        lines.append({"step": step, "loss": loss.item(), "rates": rates})
        schedulers.step()
        optimizers.zero_grad()
    return lines


def test_every_rate_is_the_formulas(record_property):
    lines = train(*build())
    error = largest_error(lines, warmup=WARMUP, steps=STEPS)
    record_property("measured", f"largest relative error {error:.1g}")
    assert error < 1e-12


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, record_property):
    import torch.distributed.checkpoint as dcp

    def state(model, optimizers, schedulers):
        return {"model": model, "optimizer": optimizers, "lr_scheduler": schedulers}

    parts = build()
    train(*parts, stop=STEPS // 2)
    dcp.save(state(*parts), checkpoint_id=tmp_path, no_dist=True)
    whole = train(*parts, first=STEPS // 2)
    resumed = build()
    dcp.load(state(*resumed), checkpoint_id=tmp_path, no_dist=True)
    lines = train(*resumed, first=STEPS // 2)
    record_property("measured", f"{sum(a != b for a, b in zip(lines, whole, strict=True))} steps differ")
    assert lines == whole


def test_the_log_has_components(record_property):
    shown = list(build()[2].get_metrics())
    assert shown == ["lr/embedding", "lr/attention", "lr/feed_forward", "lr/norm", "lr/unembedding"]
    record_property("measured", ", ".join(f"`{key}`" for key in shown[:2]) + ", ...")


def test_groups_keep_their_settings_and_names_when_they_are_split():
    from torchtitan.components.optimizer import ParamGroupConfig

    plain = ParamGroupConfig(pattern=r"norm", optimizer_name="AdamW", optimizer_kwargs={"lr": 0.1, "weight_decay": 0.0})
    rest = ParamGroupConfig(pattern=r".*", optimizer_name="AdamW", optimizer_kwargs={"lr": 0.2, "weight_decay": 0.3})
    model, optimizers, schedulers = build("uniform", groups=[plain, rest], warmup_steps=0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    assert schedulers.components == [["norm", "embedding", "attention", "feed_forward", "unembedding"]]
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(0.1, 0.0), *[(0.2, 0.3)] * 4]
    for group in groups:
        assert group["param_names"] == [names[id(parameter)] for parameter in group["params"]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay_type": "sqrt"}, "decay_type='sqrt' with decay_ratio=None has no relative form"),
        ({"decay_ratio": 0.5}, "decay_type='cosine' with decay_ratio=0.5 has no relative form"),
        ({"min_lr_factor": 0.0}, "min_lr_factor=0 ends at 0, where the end ratio of embedding, attention"),
        ({"ratios": "paper-moe"}, "name router, experts, which the model does not have"),
    ],
)
def test_what_cannot_follow_the_ratios_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_a_stage_of_a_pipeline_may_lack_components():
    assert "lr/router" not in build("paper-moe", partial=True)[2].get_metrics()
