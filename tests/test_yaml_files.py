"""YAML 1.2, read with a line for what is wrong, and written so that both versions read it back."""

import math

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from rlrs.ratios import Ratios, RatiosError
from rlrs.settings import ConfigError, load_study
from rlrs.yaml_files import DEPTH, YAMLError, dump_yaml, load_yaml, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("0b", "0b"),
        ("1_000", "1_000"),
        ("1e-3", 0.001),
        ("8e3", 8000.0),
        ("-.5", -0.5),
        ("2.", 2.0),
        ("-.inf", -math.inf),
        ("yes", "yes"),
        ("off", "off"),
        ("True", True),
        ("2024-02-31", "2024-02-31"),
        ("~", None),
        ("", None),
        ("'12'", "12"),
        ("=", "="),
        ("!!str 12", "12"),
        ("!!float 12", 12.0),
    ],
)
def test_a_plain_word_is_what_yaml_1_2_says(text, value):
    read = parse_yaml(f"a: {text}")["a"]
    assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", ", line 3: the key 'a' is there twice: first at line 1"),
        ("x:\n  c: {a: 1, a: 2}", ", line 2: the key 'a' is there twice: first at line 2"),
        ("1: x\n1.0: y", ", line 2: the key 1.0 is there twice: first at line 1"),
        ("? [a]\n: 1", ", line 1: a list or a mapping as a key"),
        ("[" * 1000, f", line 1: more than {DEPTH} levels of lists and mappings"),
        ("{" * 1000, f", line 1: more than {DEPTH} levels"),
        ("- " * 1000, f", line 1: more than {DEPTH} levels"),
        ("a: " + "9" * 5000, ", line 1: a number of 5,000 characters; should be at most 60"),
        ("a: 0x" + "f" * 5000, ", line 1: a number of 5,002 characters"),
        ("a: 1e400", ", line 1: '1e400' is no float that can be held"),
        ("a: !!int abc", ", line 1: 'abc' is no int that can be held"),
        ("a: !!timestamp 2024-99-99", "timestamp', where plain data should be"),
        ("a: !!python/object:os.system 1", "where plain data should be"),
        ("a: !!set {x}", "where plain data should be"),
        ("a: &a [*a]", ", line 1: an alias within what it stands for"),
        ("a: *b", "undefined alias 'b'"),
        ("a: 1\n---\nb: 2", ", line 2: not valid YAML: but found another document"),
        ("a:\n\tb: 1", ", line 2: not valid YAML: found character '\\t'"),
        ("a: 1\nb: \x07", ", line 2: not valid YAML: there is the character '\\x07'"),
        (r'a: "\UFFFFFFFF"', "not valid YAML: an escape"),
        (r'"cut off \ud83d": 1', r"line 1: 'cut off \ud83d' has half of a surrogate pair"),
        (r'a: "\U00110000"', "not valid YAML: an escape"),
        ("<<: 3", "<< should take over a mapping, or a list of mappings"),
        ("a: [", "not valid YAML"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_its_number(text, message):
    with pytest.raises(YAMLError) as caught:
        parse_yaml(text)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_aliases_that_grow_to_more_than_any_file_holds_are_refused():
    bomb = "x: &x0 [1, 1, 1, 1, 1, 1, 1, 1]\n"
    bomb += "".join(f"y{i}: &x{i + 1} [{', '.join([f'*x{i}'] * 8)}]\n" for i in range(8))
    with pytest.raises(YAMLError, match="more than 200,000 values"):
        parse_yaml(bomb)


def test_aliases_and_merged_mappings_are_copies_and_own_keys_go_first():
    read = parse_yaml("base: &b {x: [1], y: 2}\nc: {<<: *b, y: 3}\nd: *b")
    assert read == {"base": {"x": [1], "y": 2}, "c": {"x": [1], "y": 3}, "d": {"x": [1], "y": 2}}
    assert read["c"]["x"] is not read["base"]["x"]


def test_files_of_other_encodings_and_byte_order_marks(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1")
    assert load_yaml(path) == {"a": 1}
    path.write_bytes("a: é".encode("latin-1"))
    with pytest.raises(YAMLError, match=r"a.yaml: cannot be read: not UTF-8 text \(byte 3\)"):
        load_yaml(path)
    with pytest.raises(YAMLError, match=r"cannot be read: Is a directory"):
        load_yaml(tmp_path)


def test_every_file_that_we_read_goes_through_it(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("schema: 1\nratios:\n  norm: 1\n  norm: 2\n")
    for read, error in ((Ratios.load, RatiosError), (load_study, ConfigError)):
        with pytest.raises(error, match=r"twice.yaml, line 4: the key 'norm' is there twice: first at line 3"):
            read(path)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN)
@example({"\x85": "a\u2028b\u2029"})
def test_what_is_written_is_read_back(data):
    assert parse_yaml(dump_yaml(data)) == data


@pytest.mark.parametrize("text", ["1e-3", "1:30", "yes", "0o17", "010", "1_000", "2024-01-05", "0b1", "<<", "~", "12"])
def test_text_that_either_version_would_read_as_something_else_is_quoted(text):
    written = dump_yaml({"a": text})
    assert parse_yaml(written) == yaml.safe_load(written) == {"a": text}
