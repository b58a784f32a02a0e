"""Do stored ratios still hold? What has changed since they were found: model, data, length, settings, code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from pydantic import ValidationError

import rlrs
from rlrs.data import vocabulary_size
from rlrs.inspection import describe
from rlrs.messages import printable, shown
from rlrs.models import concrete
from rlrs.ratios import Ratios
from rlrs.records import Provenance, Recipe, RecordError
from rlrs.records.frozen import first_problem
from rlrs.settings import ModelConfig, StudyConfig

GROWN = 2.0
"""Parameters, or tokens for each of them, so many times those that the ratios were seen on: further than was measured.
Chosen here, not studied: ratios of the demo were carried over a factor of 9 and measured there."""
_WIDTH = "the best embedding ratio grows about as the square root of the width (arXiv:2506.15025)"
_EXPERTS = "the ratios of experts and router were found for other experts"
_MEANS = {
    "d_model": _WIDTH,
    "hidden_size": _WIDTH,
    "n_experts": _EXPERTS,
    "top_k": _EXPERTS,
    "granularity": _EXPERTS,
    "n_shared_experts": _EXPERTS,
    "tie_embeddings": "a tied head has the embedding's rate, and its own ratio does nothing",
    "init_scale": "weights of another size take another rate",
}


@dataclass(frozen=True)
class Change:
    """One thing that is another than it was when the ratios were found.

    >>> print(Change("data.hash", "1f", "2a", "confirm", "the text is another"))
    confirm  data.hash: '1f' then, '2a' now: the text is another
    """

    what: str
    before: Any
    now: Any
    weight: Literal["search", "confirm", "note"]
    """What to do: search again; compare again on the target (`rlrs compare`); nothing, but to know it."""
    meaning: str

    def __str__(self) -> str:
        return f"{self.weight:<7}  {self.what}: {shown(self.before)} then, {shown(self.now)} now: {self.meaning}"


def drift(ratios: Ratios, study: StudyConfig, data_hash: str | None = None) -> list[Change]:
    """What has changed from the study that ratios came from to one that would use them, the gravest first.

    Compared with the target that they were confirmed on, or else with the proxy that they were found on.

    Args:
        ratios: with the provenance of a study.
        study: as it is now; its target is the model that would be trained.
        data_hash: of the tokens now, as `TokenData.hash`; None compares source and vocabulary alone.

    Raises:
        RecordError: ratios without provenance, or with one that cannot be read: nothing is known of them.
    """
    if "study_hash" not in ratios.provenance:
        raise RecordError("has no provenance of a study: where its ratios come from is not known, so neither is drift")
    try:
        provenance = Provenance.model_validate(ratios.provenance)
    except ValidationError as error:
        raise RecordError(f"provenance.{first_problem(error)}") from None
    found = [
        *_trust(provenance),
        *_model(ratios, provenance, study),
        *_data(provenance, study, data_hash),
        *_settings(ratios, provenance, study),
        *_code(provenance),
    ]
    return sorted(found, key=lambda change: ("search", "confirm", "note").index(change.weight))


def _trust(provenance: Provenance) -> Iterator[Change]:
    if provenance.unfinished_search:
        yield Change("search", provenance.unfinished_search, None, "search", "its best so far is not its end")
    elif provenance.decision is None:
        yield Change("comparison", None, None, "confirm", "these ratios were never compared on a target")


def _model(ratios: Ratios, provenance: Provenance, study: StudyConfig) -> Iterator[Change]:
    """Shape, components and size of the target against the largest model that the ratios were seen on."""
    seen = provenance.target or provenance.found_on
    if seen is None:
        return
    scale = concrete(study.target) if study.trainer is None else study.target
    now = dict(scale.set or {}) if study.trainer is not None else scale.model.model_dump(mode="json")
    for name in dict.fromkeys([*seen.model, *now]):
        before, after = seen.model.get(name), now.get(name)
        if before != after and name not in ("weights", "config", "content"):
            meaning = _MEANS.get(name, "ratios were not seen on a model of this shape")
            weight = "search" if meaning is _EXPERTS else "confirm"
            yield Change(f"model.{printable(name, 60)}", before, after, weight, meaning)
    if study.trainer is not None:
        return
    about = describe(scale.model, vocabulary_size(study.data))
    components = {row["component"] for row in about["components"]}
    for component in ratios:
        if component.partition("/")[0] not in components:
            # Those of a tied head are no error; RelativeLR says the same when it is made.
            tied = component == "unembedding" and isinstance(scale.model, ModelConfig) and scale.model.tie_embeddings
            if not tied:
                yield Change(
                    f"component {component}", "a ratio", "no such component", "search", "the ratio is for nothing"
                )
    yield from _size(provenance, seen.parameters, about["parameters"], scale.steps, scale.batch_size, study)


def _size(
    provenance: Provenance,
    before: Mapping[str, int],
    now: Mapping[str, int],
    steps: int,
    batch_size: int,
    study: StudyConfig,
) -> Iterator[Change]:
    old, new = before.get("non_embedding") or before.get("total"), now["non_embedding"] or now["total"]
    if not old:
        return
    if new > GROWN * old:
        meaning = f"{new / old:.1f} times what the ratios were seen on; confirm them on a size between"
        yield Change("parameters (embeddings apart)", old, new, "confirm", meaning)
    horizon, proxy, target = provenance.horizon, provenance.found_on, provenance.target
    if target is not None and target.tokens is not None:
        then = target.tokens / old
    elif horizon is not None and proxy is not None and (own := proxy.parameters.get("non_embedding")):
        then = horizon.tokens / own
    else:
        return
    tokens = steps * batch_size * study.data.sequence_length / new
    if not 1 / GROWN <= tokens / then <= GROWN:
        meaning = "ratios move from start to end of a run, and were found for a run of another length for its size"
        yield Change("tokens a parameter", float(f"{then:.3g}"), float(f"{tokens:.3g}"), "confirm", meaning)


def _data(provenance: Provenance, study: StudyConfig, data_hash: str | None) -> Iterator[Change]:
    before = provenance.data
    if data_hash is not None and before.get("hash") not in (None, data_hash):
        meaning = "text, tokenizer or length of sequences are others"
        yield Change("data.hash", before["hash"], data_hash, "confirm", meaning)
    if study.trainer is not None:
        return
    if (source := before.get("source")) is not None and source != study.data.source:
        yield Change("data.source", source, study.data.source, "confirm", "the text is another")
    size, now = before.get("vocab_size"), vocabulary_size(study.data)
    if isinstance(size, int) and not isinstance(size, bool) and now != size:
        meaning = "the rates of embedding and unembedding depend on how often a token comes"
        yield Change("data.vocab_size", size, now, "confirm", meaning)


def _settings(ratios: Ratios, provenance: Provenance, study: StudyConfig) -> Iterator[Change]:
    """What they were found with: `rlrs train` takes it from the file, a trainer of one's own has to."""
    recipe = Recipe.from_ratios(ratios, Recipe.from_settings(study.training, study.search.lr))
    used = study.training
    named = provenance.base
    for name in ("schedule", "warmup_fraction", "weight_decay", "component_weight_decay", "betas"):
        before, now = getattr(recipe, name), getattr(used, name)
        if name in named and before != now:
            meaning = "`rlrs train` takes the first; a trainer of your own has to as well"
            yield Change(f"training.{name}", before, now, "note", meaning)


def _code(provenance: Provenance) -> Iterator[Change]:
    before = {"rlrs": provenance.code.get("rlrs"), "torch": provenance.code.get("torch")}
    now = {"rlrs": rlrs.__version__, "torch": version("torch")}
    for name, old in before.items():
        if isinstance(old, str) and _minor(old) != _minor(now[name]):
            meaning = (
                "numbers may differ in the last digits" if name == "torch" else "see CHANGELOG.md for what changed"
            )
            yield Change(f"code.{name}", old, now[name], "note", meaning)


def _minor(text: str) -> list[str]:
    return text.partition("+")[0].split(".")[:2]
