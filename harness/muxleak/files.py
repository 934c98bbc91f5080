"""Reads files that others wrote, and writes files that others use at the same time.

Every file that a command or the plugin reads comes through here, so that a file which is broken,
foreign or hostile is refused with one kind of error and a message.
"""

# A file is refused for one of these reasons, each before it can cost time or memory:
#
# - It is larger than its reader's limit. No more than the limit and one byte are read, so that a
#   device or pipe without an end is refused as well.
# - It is not UTF-8.
# - It is nested deeper than `DEPTH`. Python's parsers recurse, and a file of opening brackets would
#   end in a RecursionError at a depth that depends on the caller. The scan comes before the parser.
# - It holds NaN, an infinite number (1e999 is one), an integer of more than 20 digits, half of a
#   surrogate pair (a text that can be neither printed nor written), or one key twice, where one
#   parser takes the first value and another the last.
# - Its compressed part grows beyond a limit, ends early, or is followed by other bytes.
# - A value has another type than its reader expects (`field`). In JSON true is no number.
#
# TOML needs one check more, since `tomllib` bounds neither its time nor its depth. A line has at
# most `DEPTH` dots and brackets outside of strings, and a string ends in its line: the scan would
# have to parse TOML otherwise.
#
# A file that several processes write is replaced as a whole (`replace_text`): each has a draft of
# its own, so that none writes into another's, and a reader finds the old file or a new one, never a
# part. To change a file, a process reads it and writes it under a lock (`locked`). The lock is that
# of the folder: a lock on the file itself would be lost when the file is replaced, and a file for
# the lock would stay behind. It ends with its process. Where the system has no such lock (Windows,
# some network file systems) there is none, and of two changes in one moment one can be lost.

import json
import math
import os
import re
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeVar

DEPTH = 32
"""Lists and objects inside each other, at most."""
_DIGITS = 20  # of an integer: 64 bits have 19 or 20
_SHOWN = 60  # characters of a value in a message
_PIECE = 1 << 16  # bytes
_LOCKED = 10.0  # seconds to wait for another writer, who needs some milliseconds
_PAUSE = 0.01  # seconds between two attempts
_NOUNS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
# A string without an end is a token, too, or a file of quotes would take quadratic time.
_JSON_TOKENS = re.compile(r'"(?:[^"\\]+|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_TOML_TOKENS = re.compile(r'#[^\n]*|"""|\'\'\'|"(?:[^"\\\n]+|\\.)*+"?|\'[^\'\n]*+\'?|[.\[{]|\n')

_T = TypeVar("_T")


class FileError(ValueError):
    """Content that cannot be used; the message says what was expected and found."""


def read_text(path: Path | str, limit: int) -> str:
    """Return the text of a file.

    Args:
        path: of the file.
        limit: bytes that the file may have.

    Raises:
        FileError: the file is larger, or not UTF-8.
        OSError: the file cannot be read.
        ValueError: the path holds a NUL.
    """
    data = first_bytes(path, limit + 1)
    if len(data) > limit:
        raise FileError(f"expected at most {limit:,} bytes, got more")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        found = f"the byte 0x{data[error.start]:02x} at offset {error.start:,}"
        raise FileError(f"expected UTF-8, got {found}") from None


def first_bytes(path: Path | str, count: int) -> bytes:
    """Return the first bytes of a file.

    Raises:
        OSError: the file cannot be read.
    """
    # A read allocates all bytes that it is asked for, so it is asked for no more than the file has.
    pieces: list[bytes] = []
    with Path(path).open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        size = size + 1 if size else _PIECE  # a pipe or device says 0
        while count > 0 and (piece := file.read(min(count, size))):
            pieces.append(piece)
            count -= len(piece)
    return b"".join(pieces)


def replace_text(path: Path, text: str) -> None:
    """Replace a file, or make it, as a whole; if that fails, the old file stays as it is.

    A symbolic link stays, and the file that it leads to is replaced. The new file has the
    permissions of the old one.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(os.path.realpath(path))
    draft = path.with_name(f".muxleak-{os.getpid()}-{token_hex(4)}.new")
    try:
        with draft.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            with suppress(FileNotFoundError):
                draft.chmod(path.stat().st_mode & 0o777)
            # The name must not lead to the draft before its content is on the disk.
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path, limit: float = _LOCKED) -> Iterator[None]:
    """For the length of a block, keep out all others who lock a file of the same folder.

    Args:
        path: the file, which need not exist; its folder must.
        limit: seconds to wait for others.

    Raises:
        TimeoutError: another process has held the lock for so long.
        OSError: the folder cannot be opened.
    """
    if sys.platform == "win32":
        yield
        return
    folder = os.open(os.path.dirname(os.path.realpath(path)), os.O_RDONLY)  # noqa: PTH120
    try:
        _lock(folder, path, limit)
        yield
    finally:
        os.close(folder)


def _lock(folder: int, path: Path, limit: float) -> None:
    import fcntl  # noqa: PLC0415 - there is none on Windows

    end = time.monotonic() + limit
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise TimeoutError(
                    f"expected to lock the folder of {path} within {limit:g} s, but another "
                    "process holds it; wait for it, or end it"
                ) from None
            time.sleep(_PAUSE)
        except OSError:
            return  # a file system without locks
        else:
            return


def inflate(data: bytes, limit: int) -> bytes:
    """Return the content of a zlib stream.

    Args:
        data: the stream, whole.
        limit: bytes that the content may have.

    Raises:
        FileError: the content is larger, or the data is not exactly one stream.
    """
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise FileError(f"expected compressed bytes, got others ({error})") from None
    if len(content) > limit:
        raise FileError(f"expected at most {limit:,} bytes when decompressed, got more")
    if not stream.eof or stream.unused_data:
        found = "more bytes after its end" if stream.eof else "none"
        raise FileError(f"expected the end of the compressed bytes, got {found}")
    return content


def from_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        FileError: the text is not JSON, or breaks a rule at the top of this module.
    """
    _check_depth(token[0] for token in _JSON_TOKENS.finditer(text))
    try:
        value = json.loads(
            text,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_finite,
            object_pairs_hook=_object,
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except FileError:
        raise
    except UnicodeEncodeError:
        raise FileError("expected text, got half of a surrogate pair") from None
    except ValueError as error:
        raise FileError(f"expected JSON, got something else ({error})") from None
    return value


def from_toml(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text; numbers are not checked.

    Raises:
        FileError: the text is not TOML, or breaks a rule at the top of this module.
    """
    import tomllib  # noqa: PLC0415 - only the reader of baselines pays for it

    line, nested = 1, 0
    for token in _TOML_TOKENS.finditer(text):
        match token[0]:
            case "\n":
                line, nested = line + 1, 0
            case '"""' | "'''":
                raise FileError(
                    f"line {line}: expected strings that end in their line, got {token[0]}"
                )
            case "." | "[" | "{":
                nested += 1
        if nested > DEPTH:
            raise FileError(f"line {line}: expected at most {DEPTH} dots and brackets, got more")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise FileError(f"expected at most {DEPTH} brackets inside each other, got more") from None
    except ValueError as error:
        raise FileError(f"expected TOML, got something else ({error})") from None


def field(data: object, name: str, kind: type[_T]) -> _T:
    """Return a field of a JSON object.

    Args:
        data: the object.
        name: of the field.
        kind: the type of the value: str, int, float, bool, list or dict. A float may be written
            as a whole number.

    Raises:
        FileError: `data` is no object, has no such field, or a value of another type.
    """
    found = checked(data, dict, "the content")
    if name not in found:
        raise FileError(f"expected a field {name!r}, got none")
    return checked(found[name], kind, repr(name))


def checked(value: object, kind: type[_T], name: str) -> _T:
    """Return a value of JSON if it has the expected type.

    Args:
        value: of any type.
        kind: as in `field`.
        name: of the value, for the message.

    Raises:
        FileError: it has another type.
    """
    if kind is float and type(value) is int:
        value = float(value)
    # By type and not by isinstance: true is an int.
    if type(value) is not kind:
        raise FileError(f"{name}: expected {_NOUNS[kind]}, got {shown(value)}")
    return value


def shown(value: object) -> str:
    """Return a value as a message shows it: short, whatever its size."""
    if isinstance(value, list | dict):
        return f"{_NOUNS[type(value)]} of {len(value):,}"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if not isinstance(value, str):
        return repr(value)[:_SHOWN]
    return repr(value) if len(value) <= _SHOWN else f"{value[: _SHOWN - 1]!r}…"


def _check_depth(tokens: Iterable[str]) -> None:
    depth = 0
    for each in tokens:
        depth += (each in "[{") - (each in "]}")
        if depth > DEPTH:
            raise FileError(f"expected at most {DEPTH} brackets inside each other, got more")


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise FileError(f"expected a whole number of at most {_DIGITS} digits, got {len(text):,}")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise FileError(f"expected a finite number, got {shown(text)}")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise FileError(f"expected every key once, got {shown(twice)} twice")
    return found
