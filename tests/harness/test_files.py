"""The bounded reader: what a file may be, and one message for each reason that it is refused."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from muxleak import files
from muxleak.files import FileError

DEEP = "[" * 33 + "]" * 33


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected JSON, got something else"),
        ("[1,]", "expected JSON, got something else"),
        ("\ufeff{}", "expected JSON, got something else"),
        (DEEP, "expected at most 32 brackets inside each other, got more"),
        ("[" * 1_000, "expected at most 32 brackets inside each other, got more"),
        ('{"a":' * 1_000, "expected at most 32 brackets inside each other, got more"),
        ("NaN", "expected a finite number, got 'NaN'"),
        ("[-Infinity]", "expected a finite number, got '-Infinity'"),
        ("1e999", "expected a finite number, got '1e999'"),
        ("9" * 5000, "expected a whole number of at most 20 digits, got 5,000"),
        ('{"a": 1, "b": 2, "a": 1}', "expected every key once, got 'a' twice"),
        ('["\\ud800"]', "half of a surrogate pair"),
        ('{"\\udc80": 1}', "half of a surrogate pair"),
        ('"' * 1_000_001, "expected JSON, got something else"),
        ('"' + '\\"' * 40, "expected JSON, got something else"),
    ],
)
def test_json_is_refused_with_its_reason(text: str, message: str) -> None:
    """Whatever the parser would do with it, there is one kind of error."""
    with pytest.raises(FileError, match=message):
        files.from_json(text)


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, -2.5, None, True, "[[[" * 40, '"\\', "\U0001f600"]},
        json.loads("[" * 32 + "]" * 32),
        18_446_744_073_709_551_615,
    ],
)
def test_json_within_the_bounds_is_read(value: Any) -> None:
    """Brackets in strings are text, and both halves of a pair are one character."""
    assert files.from_json(json.dumps(value)) == value
    assert files.from_json(json.dumps(value, ensure_ascii=False)) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = [", "expected TOML, got something else"),
        ("a = 1\na = 2", "expected TOML, got something else"),
        ("x = 1\na" + ".a" * 40 + " = 1", "line 2: expected at most 32 dots and brackets"),
        ("a = " + "[" * 40, "line 1: expected at most 32 dots and brackets"),
        ("a = " + "[\n" * 5_000, "expected at most 32 brackets inside each other"),
        ('a = """\n""", b' + ".b" * 40 + ' = 1, c = "', "expected strings that end in their line"),
        ("a = '''x'''", "line 1: expected strings that end in their line, got '''"),
        ("a." * 40, "line 1: expected at most 32 dots and brackets"),
        ('"' + '\\"' * 500_000, "expected TOML, got something else"),
    ],
)
def test_toml_is_refused_with_its_reason(text: str, message: str) -> None:
    """A line with more dots or brackets than a baseline needs is refused before it is parsed."""
    with pytest.raises(FileError, match=message):
        files.from_toml(text)


def test_toml_within_the_bounds_is_read() -> None:
    """Dots, brackets and quotes count outside of strings and comments only."""
    text = "# it's [[[ ...\n['" + "a.[" * 40 + "']\n\"'''" + '[.\\"' * 40 + '" = 1 # """\n'

    assert files.from_toml(text) == {"a.[" * 40: {"'''" + '[."' * 40: 1}}


def test_text_is_bounded_and_utf_8(tmp_path: Path) -> None:
    """The limit is the size that is still read."""
    file = tmp_path / "file"
    file.write_bytes(b"x" * 10)
    assert files.read_text(file, 10) == "x" * 10
    with pytest.raises(FileError, match="expected at most 9 bytes, got more"):
        files.read_text(file, 9)
    file.write_bytes(b"abc\xff")
    with pytest.raises(FileError, match="expected UTF-8, got the byte 0xff at offset 3"):
        files.read_text(file, 10)
    with pytest.raises(FileError, match="expected at most 1,000 bytes, got more"):
        files.read_text("/dev/zero", 1000)
    with pytest.raises(OSError, match="No such file"):
        files.read_text(tmp_path / "none", 10)


def test_inflate_is_bounded_and_takes_one_stream() -> None:
    """A bomb is refused without its content; so is a stream that was cut or has a tail."""
    packed = zlib.compress(b"x" * 1000)
    assert files.inflate(packed, 1000) == b"x" * 1000
    for data, message in (
        (packed[:-1], "expected the end of the compressed bytes, got none"),
        (packed + b"x", "got more bytes after its end"),
        (b"junk", "expected compressed bytes, got others"),
        (b"", "got none"),
        (zlib.compress(bytes(1 << 26)), "expected at most 1,000 bytes when decompressed"),
    ):
        with pytest.raises(FileError, match=message):
            files.inflate(data, 1000)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        ([], str, "the content: expected an object, got a list of 0"),
        ({}, str, "expected a field 'it', got none"),
        ({"it": 1}, str, "'it': expected text, got 1"),
        ({"it": True}, int, "'it': expected a whole number, got true"),
        ({"it": 1.5}, int, "'it': expected a whole number, got 1.5"),
        ({"it": "1"}, float, "'it': expected a number, got '1'"),
        ({"it": None}, list, "'it': expected a list, got null"),
        ({"it": {"a": 1}}, bool, "'it': expected true or false, got an object of 1"),
        ({"it": "x" * 1000}, dict, r"'it': expected an object, got 'x{59}'…"),
    ],
)
def test_field_has_the_expected_type(data: object, kind: type[object], message: str) -> None:
    """The message names the field, the type expected and the value found."""
    with pytest.raises(FileError, match=f"^{message}$"):
        files.field(data, "it", kind)


def test_field_of_a_number_may_be_whole() -> None:
    """JSON writes 1.0 as 1."""
    assert files.field({"it": 1}, "it", float) == 1.0
    assert files.field({"it": False}, "it", bool) is False
