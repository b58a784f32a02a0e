"""The catalogues of sentences: one key, one sentence in each language, with the same values."""

import re
import string
from pathlib import Path

import pytest

from rlrs.monitoring import CHECKS
from rlrs.words import LANGUAGES, Words, _catalogue
from rlrs.yaml_files import load_yaml

SOURCE = Path(__file__).parents[1] / "src" / "rlrs"
TEXT = "\n".join(path.read_text() for kind in ("*.py", "*.j2", "*.js") for path in sorted(SOURCE.rglob(kind)))


def places(text):
    return sorted(name for _, name, _, _ in string.Formatter().parse(text.partition("|")[0]) if name)


def test_every_key_is_in_every_language_with_the_same_values():
    english, *others = (_catalogue(language) for language in LANGUAGES)
    for other in others:
        assert sorted(other) == sorted(english)
        different = [key for key in english if set(places(english[key])) != set(places(other[key]))]
        # A language without a singular may leave out the number that English counts with.
        assert [key for key in different if set(places(english[key])) - {"n"} != set(places(other[key])) - {"n"}] == []


def test_both_forms_of_a_count_take_the_same_values():
    for key, text in _catalogue("en").items():
        if "|" in text:
            one, many = text.split("|")
            assert set(places(one)) <= set(places(many)) | {"n"}, key


def test_no_sentence_is_left_that_nothing_says():
    """A key is used as it stands, or by a part of it that is put together (`arm.name.` and so on)."""
    used = set(re.findall(r"[\"']([a-z_]+(?:\.[a-z_]+)+)[\"'.]", TEXT))
    used |= set(re.findall(r"t\(\"([a-z_]+)\"\)", TEXT))
    parts = set(re.findall(r"[\"']([a-z_]+(?:\.[a-z_]+)*\.?)(?:\{|[\"'] ~)", TEXT))
    unused = [
        key
        for key in _catalogue("en")
        if key not in used and not any(key.startswith(part.rstrip(".")) for part in parts if "." in part)
    ]
    assert unused == []


def test_values_are_put_in_and_a_missing_one_is_an_error():
    assert Words("en")("count.trial", n=1) == "1 trial"
    assert Words("en")("count.trial", n=1200) == "1,200 trials"
    assert Words("ja")("count.trial", n=1) == "試行1回"
    with pytest.raises(KeyError):
        Words("en")("verdict.saved", mean="3%")
    with pytest.raises(KeyError):
        Words("en")("no.such.key")


def test_another_language_is_refused():
    with pytest.raises(ValueError, match="language='fr' should be en or ja"):
        Words("fr")


@pytest.mark.parametrize(
    ("english", "japanese"),
    [
        ("the budget of 36 runs is spent", "試行36回の予算を使い切りました"),
        ("start", "開始点"),
        ("lr 0.01 -> 0.02", "lr 0.01→0.02"),
        ("best 2 of the cheap runs", "安価な試行の上位2番目"),
        (
            "the budget of 32 runs is spent; best of 2 points on 3 seeds, 0.0166 nats below the search's own best",
            "試行32回の予算を使い切りました。上位2点を3個のシードで比べ、探索の最良点を0.0166 nat下回る点を選択",
        ),
        ("nothing better was found within a factor of 1.1 of the best point", "最良点から1.1倍以内に改善が見つかりませんでした"),  # noqa: E501
        ("what a sampler calls itself", "what a sampler calls itself"),
    ],
)  # fmt: skip
def test_what_searches_write_down_is_translated(english, japanese):
    assert Words("ja").recorded(english) == japanese
    assert Words("en").recorded(english) == english


def test_every_reason_and_move_of_the_methods_has_a_translation():
    """Words of the methods, as their source has them, with numbers and names put in."""
    source = "\n".join(p.read_text() for p in sorted((SOURCE / "search").rglob("*.py")))
    said = re.findall(r"(?:move=|reason=|result\(history, |stop\(early or |self\._finish\()f?\"([^\"]+)\"", source)
    said += re.findall(r"(?:edge|reason) = f\"([^\"]+)\"", source) + re.findall(
        r"return f?\"(the surface[^\"]+)\"", source
    )
    said = [re.sub(r"\{[^}]+\}", "7", text) for text in said]
    skipped = (
        "so far",
        "stopped",
        "shorter",
        "given up after",
        "its loss was",
        "training loss",
        "7",
        "77",
        "7 ",
        "should have",
    )
    missing = [t for t in said if Words("ja").recorded(t) == t and not t.startswith(skipped)]
    assert len(said) > 10
    assert missing == []


def test_every_cause_and_remedy_of_an_alarm_has_a_translation():
    ja = Words("ja")
    said = [text for check in CHECKS.values() for text in (check.cause, check.remedy)]
    said += [
        "attention moves at 6.2 times its usual update: its rate is too high",
        "all components move further than usual: the base rate is too high",
        "gradients of all components are up, and no update is: the data are another",
        "no component moves further than usual: the data are another, or the loss is",
        "the last update of attention was 3.67 times what it may be: its rate is too high",
        "stopped: 3 actions were taken before",
        "back to step 8, ratios of embedding: 4 -> 2 at the start, 4 -> 2 at the end",
        "back to step 8, batches from 8 to 13 left out, base peak rates times 0.5",
        "ratios of embedding to the power 0.5: 4 -> 2 at the start, 4 -> 2 at the end",
        "stopped: no checkpoint of step 10 or before",
        "all ratios are 1 from here on",
        "nothing to pull: every component has the ratio 1",
        f"training loss nan nats per token is not a finite number: {CHECKS['non_finite'].cause}",
        f"training loss 7.1 nats per token is above the limit of 6.2: {CHECKS['non_finite'].cause}",
    ]
    assert [
        text for text in said if ja.recorded(text) == text or re.search("[a-z]{5}", _names_left_out(ja, text))
    ] == []


def _names_left_out(words, text):
    said = words.recorded(text)
    for name in ("attention", "embedding", "requires_grad=False", "rlrs.verify", "bfloat16", "tokens", "nats"):
        said = said.replace(name, "")
    return said


def test_patterns_are_pairs():
    for path in sorted((SOURCE / "words").glob("*/*.yaml")):
        for pair in load_yaml(path).get("recorded", []):
            assert len(pair) == 2
