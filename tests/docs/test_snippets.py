"""What checks the snippets of the documentation does find mistakes in them."""

from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from tools import snippets


def block(text):
    return SimpleNamespace(parsed=text)


def test_commands_are_found_in_a_block_of_shell_lines():
    text = "pip install -e .\nrlrs run a.yaml \\\n  --dry-run  # nothing trained\ntorchrun -m rlrs.cli train a.yaml\n"
    assert snippets.commands(text) == [["rlrs", "run", "a.yaml", "--dry-run"], ["rlrs", "train", "a.yaml"]]


@pytest.mark.parametrize(
    "line", ["rlrs rum a.yaml", "rlrs run a.yaml --dryrun", "rlrs run", "rlrs train a.yaml --seed x"]
)
def test_a_command_that_is_none_is_an_error(line):
    with pytest.raises(ValueError, match=r"rlrs|missing"):
        snippets.check_commands(block(line))


def test_output_that_is_not_printed_is_an_error():
    with pytest.raises(AssertionError, match="does not print"):
        snippets.check_output(block("$ rlrs ladder configs/demo.yaml 1\nasked\n 7 7 7\n"))


@pytest.mark.parametrize("text", ["search: {trails: 3}", "data: {source: stdlib}\ndata: {source: none}"])
def test_keys_of_a_study_that_are_none_are_an_error(text):
    with pytest.raises(ValidationError):
        snippets.check_yaml(block(text))
