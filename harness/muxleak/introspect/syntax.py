"""The syntax tree of a source text.

On CPython 3.11, `ast.parse` fails with "SystemError: AST constructor recursion depth mismatch" if
a collection during it runs a finalizer that parses as well (gh-106905). The finalizer of a task
does: it logs a traceback, whose carets are found by parsing the line. So nothing is collected
during it.
"""

from __future__ import annotations

import ast
import gc


def parse(source: str) -> ast.Module:
    """Return the syntax tree of a source text, without a collection of garbage meanwhile.

    Raises:
        SyntaxError: the text is no Python source.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        if enabled:
            gc.enable()
