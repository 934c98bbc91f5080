"""The registry: pairs are found where they stand, and unknown names are answered helpfully."""

from pathlib import Path

import pytest

import muxleak_vless.bugs
from muxleak_scenarios import find_pair, load_pairs
from muxleak_scenarios.pairs.registry import FLAGSHIP, AmbiguousPairError, UnknownPairError
from muxleak_scenarios.pairs.replay import find_version
from muxleak_vless import Lifecycle

FOLDER = Path(muxleak_vless.bugs.__path__[0])


def test_registry_loads_every_folder_and_nothing_else() -> None:
    """A folder with the four files is a pair."""
    folders = {path.name for path in FOLDER.iterdir() if (path / "__init__.py").exists()}

    assert set(load_pairs()) == folders
    for folder in folders:
        files = {path.name for path in (FOLDER / folder).iterdir()}
        assert {"__init__.py", "buggy.py", "fixed.py", "README.md"} <= files


def test_registry_puts_the_flagship_first() -> None:
    """The others follow in order of name."""
    first, *others = load_pairs()

    assert first == FLAGSHIP
    assert others == sorted(others)


def test_registry_variants_are_lifecycles() -> None:
    """A variant is selected by name."""
    pair = find_pair(FLAGSHIP)

    assert pair.variant("buggy") is pair.buggy
    assert pair.variant("fixed") is pair.fixed
    assert issubclass(pair.buggy, Lifecycle)
    assert pair.slug == FLAGSHIP


def test_registry_finds_wrong_fixes_where_they_stand() -> None:
    """Every module ``wrong_*`` of a pair's folder is one more variant, and nothing else is."""
    for slug, pair in load_pairs().items():
        files = sorted(path.stem for path in (FOLDER / slug).glob("wrong_*.py"))

        assert [each.name for each in pair.wrong] == files
        assert pair.variants == ("buggy", "fixed", *files)
        assert [pair.variant(each.name) for each in pair.wrong] == [
            each.lifecycle for each in pair.wrong
        ]
    assert len(find_pair(FLAGSHIP).wrong) >= 3


def test_registry_half_of_no_name_is_an_error() -> None:
    """It is not taken for the fixed one."""
    with pytest.raises(KeyError, match="wrong_guess"):
        find_pair(FLAGSHIP).variant("wrong_guess")


def test_registry_says_what_a_wrong_fix_answers_wrongly() -> None:
    """As it is composed, in the order of the questions."""
    answered = {each.name: each.questions for each in find_pair(FLAGSHIP).wrong}

    assert answered == {
        "wrong_cleanup_in_watcher": ("receive_ended", "may_clean_up", "admit"),
        "wrong_deferred_cancel": ("may_clean_up",),
        "wrong_no_watcher": ("watched_context", "may_clean_up"),
    }


def test_registry_reads_source_and_diff() -> None:
    """The diff turns one variant's source into the other's."""
    pair = find_pair(FLAGSHIP)

    assert "-        return session.parent\n" in pair.diff()
    assert "+        return session.context\n" in pair.diff()
    assert "return session.parent" in pair.source("buggy")
    assert "return session.parent" not in pair.source("fixed")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        (
            "wacher_outlives_connection",
            f"got 'wacher_outlives_connection'; did you mean '{FLAGSHIP}'",
        ),
        ("wacher", f"did you mean '{FLAGSHIP}'"),
        ("zzz", "got 'zzz'$"),
        ("", "got ''$"),
    ],
)
def test_registry_error_names_what_there_is(name: str, hint: str) -> None:
    """An unknown name is answered with the pairs there are, and the nearest."""
    with pytest.raises(UnknownPairError, match=hint) as caught:
        find_pair(name)

    assert all(slug in str(caught.value) for slug in load_pairs())


@pytest.mark.parametrize(
    ("word", "slug"),
    [
        ("w", None),
        ("watcher", FLAGSHIP),
        ("Watcher-outlives", FLAGSHIP),
        ("2421", FLAGSHIP),
        ("#2421", FLAGSHIP),
        ("flagship", FLAGSHIP),
        ("5110", "silent_peer"),
        ("live_id", "live_id_reused"),
        ("live_id_reused", "live_id_reused"),
    ],
)
def test_registry_finds_a_pair_by_its_beginning_or_alias(word: str, slug: str | None) -> None:
    """One word that begins several names lists exactly those."""
    if slug is not None:
        assert find_pair(word).slug == slug
        return
    with pytest.raises(AmbiguousPairError, match="which begins ") as caught:
        find_pair(word)

    begun = {each for each in load_pairs() if each.startswith(word)}
    assert {each for each in load_pairs() if each in str(caught.value)} == begun


def test_registry_aliases_are_unambiguous() -> None:
    """No alias is that of two pairs, the beginning of a pair's name, or a version."""
    aliases = [alias for pair in load_pairs().values() for alias in pair.facts.aliases]

    assert len(set(aliases)) == len(aliases)
    for alias in aliases:
        assert not any(slug.startswith(alias) for slug in load_pairs())
        assert find_version(alias) is None
        assert alias == alias.lower().replace("-", "_")
