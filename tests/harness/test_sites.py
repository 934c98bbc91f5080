"""Creation sites: the frames that are captured, interning, and the text."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from muxleak.introspect.sites import MAX_FRAMES, Site, capture, short_path


def here() -> Site:
    """Return the caller's site."""
    return capture(2)


def nest(depth: int, action: Callable[[], Site]) -> Site:
    """Call `action` from so many frames further down."""
    return action() if depth == 0 else nest(depth - 1, action)


def test_capture_names_file_line_and_function() -> None:
    """A site reads as file:line in function, with no absolute path."""
    site = here()

    line = test_capture_names_file_line_and_function.__code__.co_firstlineno + 2
    name = "test_capture_names_file_line_and_function"
    assert str(site) == f"tests/harness/test_sites.py:{line} in {name}"
    assert site.frames[0].filename == __file__
    assert repr(site) == f"<Site {site}>"


def test_capture_interns_equal_sites() -> None:
    """The same lines give the same object; another line gives another."""
    first, second = here(), here()
    other = here()

    assert first is second
    assert other is not first


def test_capture_keeps_few_frames_innermost_first() -> None:
    """However deep the stack, a site has at most four frames."""
    site = nest(30, here)

    assert len(site.frames) == MAX_FRAMES
    assert [frame.function for frame in site.frames] == ["nest"] * MAX_FRAMES
    assert site is nest(30, here)


def test_capture_skips_asyncio_and_stops_at_the_loop() -> None:
    """Inside a loop the site holds neither asyncio's frames nor those that started the loop."""
    found: list[Site] = []

    async def outer() -> None:
        await asyncio.wait_for(inner(), 1)

    async def inner() -> None:
        found.append(here())

    asyncio.run(outer())

    functions = [frame.function for frame in found[0].frames]
    assert functions[0].endswith("inner")
    assert all("test_capture_skips" in function for function in functions)
    assert {frame.filename for frame in found[0].frames} == {__file__}
    assert test_capture_skips_asyncio_and_stops_at_the_loop.__name__ not in functions


def test_capture_without_a_caller_of_its_own_reads_as_unknown() -> None:
    """A site without frames still has a text."""
    assert str(Site(())) == "unknown"


def test_short_path_is_relative_to_directory_or_package() -> None:
    """Paths below the working directory are relative to it, others to their package."""
    assert short_path(str(Path.cwd() / "some" / "file.py")) == "some/file.py"
    assert short_path(asyncio.__file__) == "asyncio/__init__.py"
    assert short_path(ExitStack.__enter__.__code__.co_filename) == "contextlib.py"
    assert short_path("<string>") == "<string>"
