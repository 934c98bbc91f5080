"""Measures the words of the source, and fails where they are hard to read.

Usage: python .ci/words.py [--list]

Prints four figures for each package, beside their limits: uses of "what" in docstrings, docstrings
that begin with a question word, class names that are defined more than once, and lines of comments.
``--list`` names each place. Exits with 1 if a limit is exceeded.

A docstring is any string that stands alone as a statement: of a module, class, function or
attribute. A buggy and a fixed variant have the same class name on purpose, so the folders of pairs
count for words and comments, but not for class names; nor do private classes, which only their own
file can name.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("harness/muxleak", "vless/muxleak_vless", "scenarios/muxleak_scenarios")
QUESTIONS = {"what", "who", "whose", "where", "which", "whether"}
MOST_WHAT = 2.0  # per 1,000 words of docstrings
FEWEST_COMMENTS = 6.0  # per cent of lines
PAIRS = re.compile("/bugs/|/corpus/[^/]+/")


class Words:
    """The figures of one package.

    Attributes:
        words: words in docstrings.
        what: places of "what" in docstrings.
        questions: places of docstrings that begin with a question word.
        lines: lines of source.
        comments: lines that hold nothing but a comment.
    """

    def __init__(self) -> None:
        self.words = self.lines = self.comments = 0
        self.what: list[str] = []
        self.questions: list[str] = []

    def add(self, name: str, text: str) -> None:
        """Count one file."""
        lines = text.splitlines()
        self.lines += len(lines)
        self.comments += sum(line.lstrip().startswith("#") for line in lines)
        for number, docstring in docstrings(ast.parse(text)):
            found = re.findall(r"[a-z']+", docstring.lower())
            self.words += len(found)
            self.what += [f"{name}:{number}"] * found.count("what")
            if found and found[0] in QUESTIONS:
                self.questions.append(f"{name}:{number}")

    @property
    def what_per_thousand(self) -> float:
        """Uses of "what" per 1,000 words of docstrings."""
        return 1000 * len(self.what) / max(self.words, 1)

    @property
    def comments_per_cent(self) -> float:
        """Lines of comments per 100 lines."""
        return 100 * self.comments / max(self.lines, 1)


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each string that is a statement of its own."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text


def main() -> int:
    """Print the figures and return the exit code."""
    classes: dict[str, list[str]] = defaultdict(list)
    failed = False
    print(f"{'':<29}{'what':>14}{'questions':>11}{'comments':>10}")
    print(f"{'limit':<29}{f'{MOST_WHAT} / 1,000':>14}{0:>11}{f'{FEWEST_COMMENTS} %':>10}")
    for package in PACKAGES:
        words = Words()
        for path in sorted((ROOT / package).rglob("*.py")):
            name, text = path.relative_to(ROOT).as_posix(), path.read_text("utf-8")
            words.add(name, text)
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    classes[node.name] += [] if PAIRS.search(name) else [f"{name}:{node.lineno}"]
        print(
            f"{package:<29}{f'{words.what_per_thousand:.1f} / 1,000':>14}"
            f"{len(words.questions):>11}{f'{words.comments_per_cent:.1f} %':>10}"
        )
        failed |= words.what_per_thousand > MOST_WHAT or bool(words.questions)
        failed |= words.comments_per_cent < FEWEST_COMMENTS
        if "--list" in sys.argv:
            print("  what:", *words.what, sep="\n    ")
            print("  questions:", *words.questions, sep="\n    ")
    for name, places in sorted(classes.items()):
        if len(places) > 1:
            failed = True
            print(f"class {name} is defined {len(places)} times: {', '.join(places)}")
    print("words: a limit is exceeded" if failed else "words: all within their limits")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
