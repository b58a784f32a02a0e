"""The page of a study whose gain was bought on general text says so, in both languages."""

import pytest
from sample import bought_by, write_sample

from rlrs.comparison import read_results
from rlrs.records import write_results
from rlrs.report import write_report


@pytest.mark.parametrize(
    ("bought", "english", "japanese"),
    [
        (("rlrs",), "Bought on general text: relative schedules", "一般テキストと引き換えの効果"),
        (("uniform",), "No saving can be given: the loss on general text", "一般テキストの損失が許容値を超えて"),
        (("uniform", "embedding_only", "rlrs"), "No decision: every arm", "学習する重みを減らすか"),
    ],
)
def test_what_was_bought_is_told(tmp_path, bought, english, japanese):
    folder = write_sample(tmp_path, "gain", schema=2)
    results = read_results(folder / "results.json")
    changed = bought_by(results.comparison, bought)
    write_results(folder / "results.json", results.model_copy(update={"comparison": changed}))
    for language, words in (("en", english), ("ja", japanese)):
        page = write_report(folder, language=language)
        assert words in page.read_text()
