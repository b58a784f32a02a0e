"""A study made out and checked before anything runs: nothing is written, and nothing is trained, that cannot end."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rlrs.components import partition, refine
from rlrs.data import vocabulary_size
from rlrs.data.sources import HUB, find_files
from rlrs.inspection import meta_model, trainer_model
from rlrs.messages import shortened, shown
from rlrs.models import LanguageModel, at_width, concrete
from rlrs.models.hub_folders import folder_model_is_there
from rlrs.models.hub_weights import content_hash
from rlrs.ratios import PRESETS, Ratios
from rlrs.search import Commands, Processes, make_method
from rlrs.search.urls import check_url
from rlrs.settings import ConfigError, HubConfig, ModelConfig, ScaleConfig, SearchConfig, StudyConfig, settings_from
from rlrs.study.ladder import plan_ladder
from rlrs.study.prior import prior_from
from rlrs.study.run_guard import with_thresholds
from rlrs.study.spaces import (
    check_arms,
    check_made_out,
    finer_components,
    known_trials,
    search_spaces,
    start_ratios,
    trained_components,
)
from rlrs.study.trainer_checks import check_command, own_components
from rlrs.training import RunSpec
from rlrs.training.distributed import check_division

log = logging.getLogger("rlrs.study")


def resolve(study: StudyConfig) -> StudyConfig:
    """A study with everything that it names looked up, once, and all of it checked; this is what `--dry-run` does.

    `target.scale` becomes a model; a config.json that `hub` names, its content; a ratios.yaml that `search.start`
    names, its ratios; what `search.prior` names, its ratios or trials. So a study is known by what these files hold,
    and is another one when they are edited. A study that is resolved is given back as it is.

    Models are built without memory for their weights. Text is not read: what is wrong with it shows when the data are
    prepared.

    Raises:
        ConfigError: what is wrong, and where: a model that cannot be built, a ratio or a weight decay for a component
            that the model does not have, a space, a method, a fidelity or a budget that cannot be searched.
        EngineError: more GPUs asked for than this machine has.
        ImportError: the study needs an extra that is not installed.
    """
    if study.trainer is not None:
        return _with_own_trainer(study)
    study = with_thresholds(study)
    with _in("proxy.model"):
        proxy = concrete(study.proxy)
    with _in("target.model" if study.target.scale is None else "target"):
        target = concrete(study.target)
    study = study.model_copy(update={"proxy": proxy, "target": target})
    vocab_size = vocabulary_size(study.data)
    models = {name: _checked(study, name, scale, vocab_size) for name, scale in (("proxy", proxy), ("target", target))}
    parts = {name: partition(model) for name, model in models.items()}
    for name, own in parts.items():
        known = [*own, *own.tied_components]
        for component in study.training.component_weight_decay:
            if component not in known:
                raise ConfigError(
                    f"training.component_weight_decay: the {name} has no {shown(component)}; it has {', '.join(known)}"
                )
    study = _with_start(study, list(parts["proxy"]), parts["proxy"].tied_components)
    if study.search.fidelity is not None and study.search.fidelity.width is not None:
        with _in("search.fidelity"):
            narrow = at_width(study.proxy.model, study.search.fidelity.width)
        _built("search.fidelity.width", narrow, vocab_size)
    trained = trained_components(models["proxy"], parts["proxy"])
    for name, model in models.items():
        check_arms(study.comparison.arms, name, model, trained_components(model, parts[name]))
        check_made_out(study, trained, name, model)
    _check_search(study, trained)
    _check_ladder(study, list(parts["proxy"]))
    if study.engine.kind == "processes" and study.engine.gpus:
        Processes(Path(), study.processes, gpus=study.engine.gpus, ranks=study.engine.ranks)
    return study


def _with_own_trainer(study: StudyConfig) -> StudyConfig:
    """`resolve` for a study whose runs a trainer of the user's own makes."""
    assert study.trainer is not None
    if study.trainer.transformers is not None:
        study = _with_folders(study)
        assert study.trainer is not None
    components = {name: own_components(study.trainer, getattr(study, name), f"{name}.set") for name in _SIZES}
    for name, (known, tied) in components.items():
        for component in study.training.component_weight_decay:
            if component not in (*known, *tied):
                raise ConfigError(
                    f"training.component_weight_decay: the {name} has no {shown(component)}; it has {', '.join(known)}"
                )
    check_command(study, components["proxy"][0])
    known, tied = components["proxy"]
    study = _with_start(study, known, tied)
    trainer = study.trainer
    assert trainer is not None
    for name, (own, _) in components.items():
        model = None if trainer.components else trainer_model(trainer, getattr(study, name), f"{name}.set")
        check_arms(study.comparison.arms, name, model, own)
        check_made_out(study, known, name, model)
    _check_search(study, known)
    if study.ladder is not None:
        plan_ladder(study)
    if study.engine.gpus:
        Commands(Path(), study.processes, gpus=study.engine.gpus)
    return study


_SIZES = ("proxy", "target")


def _with_folders(study: StudyConfig) -> StudyConfig:
    """The study with the hashes of its models' folders in `set`, and the proxy's tokenizer where it names none."""
    assert study.trainer is not None
    assert study.trainer.transformers is not None
    loads = study.trainer.transformers.weights == "load"
    scales = {}
    for name in _SIZES:
        scale: ScaleConfig = getattr(study, name)
        values = dict(scale.set or {})
        with _in(f"{name}.set"):
            folder_model_is_there(study.trainer.transformers, str(values["model"]))
        values["content"] = content_hash(str(values["model"]), weights=loads)
        scales[name] = scale.model_copy(update={"set": values})
    data = study.data
    if data.tokenizer == "bpe" and study.trainer.transformers.trainer == "Trainer":
        data = data.model_copy(update={"tokenizer": str((study.proxy.set or {})["model"])})
    return study.model_copy(update={**scales, "data": data})


def _with_start(study: StudyConfig, components: Sequence[str], tied: Collection[str]) -> StudyConfig:
    """The study with what `search.prior` or `search.start` name, checked against the proxy's components."""
    if isinstance(study.search.prior, str):
        with _in("search.prior"):
            prior = prior_from(study.search.prior)
            search = {**study.search.model_dump(), "prior": prior.model_dump(), "start": prior.ratios or "uniform"}
            study = study.model_copy(update={"search": settings_from(SearchConfig, "search", **search)})
    where = "search.start" if study.search.prior is None else "search.prior"
    finer = finer_components(study.search.space, components)
    with _in(where):
        start = start_ratios(study)
        start.check_used([*components, *tied, *finer], "the proxy")
    kept = _without_tied(start, tied, where)
    if not isinstance(study.search.start, str) or study.search.start not in PRESETS or len(kept) < len(start):
        plain = {component: ratio.to_plain() for component, ratio in kept.items()}
        study = study.model_copy(update={"search": study.search.model_copy(update={"start": plain})})
    return study


def check_sources(study: StudyConfig) -> None:
    """See that the text which a study names is there; a data set of the hub is looked for when it is read.

    Not a part of `resolve`: tokens that were made once are used without their text.

    Raises:
        ConfigError: a glob that matches no file.
    """
    sources = [study.data.source] if isinstance(study.data.source, str) else study.data.source
    reads = study.trainer is None or study.trainer.transformers is not None
    if reads and not any(source.startswith(HUB) for source in sources):
        with _in("data"):
            find_files(study.data)
    general = study.data.of_general(study.data.tokenizer)
    if study.trainer is None and general is not None and not str(general.source).startswith(HUB):
        with _in("data.general"):
            find_files(general)


def check_places(study: StudyConfig) -> None:
    """See that a study's database and folder of tokens can be, before anything is written; no connection is made.

    Raises:
        ConfigError: `storage` that is no URL of a database, or `data.folder` where none can be made or written.
        ImportError: the database's driver is not installed.
    """
    if study.storage is not None:
        check_url(study.storage)
    if study.data.folder is not None:
        path = Path(study.data.folder).expanduser().absolute()
        there = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
        if not there.is_dir():
            raise ConfigError(f"data.folder: {shown(study.data.folder)}: {shown(str(there))} is no folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ConfigError(f"data.folder: {shown(study.data.folder)}: {shown(str(there))} cannot be written to")


def usable(ratios: Ratios, model: LanguageModel, where: str) -> Ratios:
    """The ratios that have an effect on a model; those of a tied component are left out, with a word in the log.

    Raises:
        RatiosError: a ratio for a component that the model does not have.
        PartitionError: one for layers or experts that it does not have.
    """
    parts = partition(model)
    ratios.check_used([*parts, *sorted(refine(model, parts, ratios).names - set(parts))], where)
    return _without_tied(ratios, parts.tied_components, where)


def _without_tied(ratios: Ratios, tied_components: Collection[str], where: str) -> Ratios:
    tied = [component for component in ratios if component in tied_components]
    if not tied:
        return ratios
    log.warning(
        "%s: the ratio of %s does nothing: it is tied to the embedding, whose ratio is that of both",
        *(where, ", ".join(tied)),
    )
    return Ratios({c: ratio for c, ratio in ratios.items() if c not in tied}, ratios.provenance)


def _checked(study: StudyConfig, name: str, scale: ScaleConfig, vocab_size: int) -> LanguageModel:
    """The model of a size, without memory for its weights, once everything about its runs is checked."""
    training = study.training
    model = _built(f"{name}.model", scale.model, vocab_size)
    tokens = scale.batch_size * study.data.sequence_length
    with _in(name):
        settled = training.model_copy(update={"dtype": "float32"}) if training.dtype == "auto" else training
        RunSpec(
            model=scale.model,
            training=settled,
            steps=scale.steps,
            batch_size=scale.batch_size,
            seed=study.search.seed,
            lr=study.search.lr,
            final_fraction=training.final_fraction,
            ratios={},
            data_hash="",
        )
        check_division(scale.batch_size, training.accumulate, study.engine.ranks)
    length, positions = study.data.sequence_length, _positions(scale.model)
    if positions is not None and positions < length and "position" in partition(model):
        raise ConfigError(f"{name}.model: has {positions} positions, fewer than data.sequence_length={length}")
    if name == "target" and tokens > training.eval_tokens:
        raise ConfigError(
            f"training.eval_tokens: {training.eval_tokens:,} should be a batch of the target or more, "
            f"{scale.batch_size} x {study.data.sequence_length} = {tokens:,} tokens"
        )
    return model


def _positions(config: ModelConfig | HubConfig) -> int | None:
    """The longest sequence of a model whose positions are in a table; ours have none."""
    if isinstance(config, HubConfig):
        from rlrs.models.hub_models import transformers_config

        return getattr(transformers_config(config), "max_position_embeddings", None)
    return None


def _built(where: str, config: ModelConfig | HubConfig, vocab_size: int) -> LanguageModel:
    with _in(where):
        try:
            return meta_model(config, vocab_size)
        except (RuntimeError, OverflowError) as error:  # sizes whose product no tensor can have
            raise ConfigError(f"cannot be built: {shown(str(error), 200)}") from None


def _check_search(study: StudyConfig, components: Sequence[str]) -> None:
    settings = study.search
    spaces = search_spaces(study, components)
    for arm, space in spaces.items():
        with _in("search"):
            known = known_trials(study, arm)
            make_method(space, settings, steps=study.proxy.steps, window=study.training.score_steps, known=known)
        shares = study.training.accumulate * study.engine.ranks
        if shares > 1 and any(parameter.name == "batch_size" for parameter in space.free):
            raise ConfigError(
                "search.space.batch_size: cannot be searched with training.accumulate or engine.ranks: "
                f"every size would have to be a multiple of {shares}"
            )


def _check_ladder(study: StudyConfig, components: Sequence[str]) -> None:
    """See that every rung can be trained, with the proxy's components, and that the cost is within the share."""
    if study.ladder is None:
        return
    for rung in plan_ladder(study).rungs:
        model = _built(f"ladder: {rung.name}", rung.scale.model, vocabulary_size(study.data))
        own = list(partition(model))
        if own != list(components):
            raise ConfigError(f"ladder: {rung.name} has {', '.join(own)}, and the proxy {', '.join(components)}")
        check_made_out(study, trained_components(model), f"ladder: {rung.name}", model)
    tokens, sample = study.proxy.batch_size * study.data.sequence_length, study.training.eval_tokens
    if tokens > sample:
        raise ConfigError(
            f"training.eval_tokens: {sample:,} should be a batch of the ladder or more, {tokens:,} tokens"
        )


@contextmanager
def _in(where: str) -> Iterator[None]:
    """Say which part of a study an error is about."""
    try:
        yield
    except ValueError as error:  # those of ratios and of settings are
        text = shortened(str(error), 800)
        raise ConfigError(text if text.startswith(where) else f"{where}: {text}") from None
