"""What a message repeats of what a user gave."""

import pytest

from rlrs.messages import printable, shortened, shown


@pytest.mark.parametrize(
    "value",
    ["x" * 100_000, "\n" * 5000, list(range(100_000)), {str(k): k for k in range(5000)}, 10**20_000, [["y" * 9999]]],
    ids=["text", "lines", "list", "mapping", "number", "nested"],
)
def test_a_long_value_is_short_and_on_one_line(value):
    assert len(shown(value)) < 250
    assert "\n" not in shown(value)


def test_a_long_text_says_how_long_it_is():
    assert shown("ab" * 50_000, 20) == "'abababa'... (100,000 characters)"


def test_what_a_terminal_acts_on_is_escaped_and_letters_are_not():
    assert shown("a\u202eb\x1b[31m") == r"'a\u202eb\x1b[31m'"
    assert printable("caf\udce9/\u2066x\x1b[2J モデル é") == r"caf\xe9/\u2066x\x1b[2J モデル é"
    assert printable("a\r\nb\u2028c") == r"a\r\nb\u2028c"


def test_both_ends_of_what_is_shortened_stay():
    assert shortened("0123456789" * 10, 20) == "0123456789 ... 56789"
    assert shortened("short", 20) == "short"
