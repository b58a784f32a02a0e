"""What is said to people, in English and Japanese: one catalogue for each language, the same keys in both."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from rlrs.yaml_files import load_yaml

Language = Literal["en", "ja"]
LANGUAGES: tuple[Language, ...] = get_args(Language)


class Words:
    """The sentences of one language, by key.

    A sentence has places in braces for values. Where English has a singular, the catalogue has both, `{n} seed|{n}
    seeds`, and the value `n` decides.

    Args:
        language: `en` or `ja`.

    Raises:
        ValueError: another language.

    Examples:
        >>> Words("en")("count.seed", n=1), Words("en")("count.seed", n=4)
        ('1 paired seed', '4 paired seeds')
    """

    def __init__(self, language: str = "en") -> None:
        if language not in LANGUAGES:
            raise ValueError(f"{language=} should be {' or '.join(LANGUAGES)}")
        self.language: Language = language
        self._sentences = _catalogue(language)

    def __call__(self, key: str, **values: Any) -> str:
        """The sentence of a key, with its values put in.

        Raises:
            KeyError: there is no such key, or a value is missing.
        """
        text = self._sentences[key]
        if "|" in text:
            one, many = text.split("|")
            text = one if values["n"] == 1 else many
        if isinstance(values.get("n"), int):
            values["n"] = f"{values['n']:,}"
        return text.format(**values)

    def get(self, key: str) -> str | None:
        """The sentence of a key as it stands; None where there is none."""
        return self._sentences.get(key)

    def list(self, parts: list[str]) -> str:
        """Several things in a row, as in "a, b and c"."""
        if len(parts) < 2:
            return "".join(parts)
        return self("list.last", before=self("list.between").join(parts[:-1]), last=parts[-1])

    def recorded(self, text: str) -> str:
        """What a search wrote down in English (why it ended, what a trial moved), in this language."""
        return _translated(self.language, text)


@functools.cache
def _catalogue(language: Language) -> Mapping[str, str]:
    return dict(_flat(_loaded(language)))


def _loaded(language: Language) -> dict[str, Any]:
    """All files of a language: `decision.yaml`, `page.yaml`, and `recorded.yaml` where it is not English."""
    folder = Path(__file__).parent / language
    return {key: value for path in sorted(folder.glob("*.yaml")) for key, value in load_yaml(path).items()}


def _flat(plain: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, str]]:
    for key, value in plain.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{at}{key}.")
        elif isinstance(value, str):
            yield f"{at}{key}", value


@functools.cache
def _patterns(language: Language) -> list[tuple[re.Pattern[str], str]]:
    pairs = _loaded(language).get("recorded", [])
    return [(re.compile(pattern), text) for pattern, text in pairs]


def _translated(language: Language, text: str) -> str:
    for pattern, replacement in _patterns(language):
        if found := pattern.fullmatch(text):
            return replacement.format(*(_translated(language, group or "") for group in found.groups()))
    return text
