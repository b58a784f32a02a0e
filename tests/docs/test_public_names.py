"""The list of public names is that of today."""

from tools import public_names


def test_the_list_of_public_names_is_that_of_today():
    assert public_names.DOCUMENT.read_text() == public_names.written(), "python -m tools.public_names"
