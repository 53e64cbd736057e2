"""Sizes and names: a module fits in the head, a function on a screen, a name says what and never when."""

import ast
import re

from tests.architecture.source_tree import sources

MODULE_LINES = 400
FUNCTION_BODY_LINES = 80

DRAWER = re.compile(r"^(utils?|helpers?|common|misc|tools|stuff)$")
HISTORY = re.compile(r"(^|_)(v\d+|new|old|legacy|enhanced|improved|unified|final|fast|proper)(_|$)")


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function after its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


def test_modules_stay_short():
    """No module is longer than 400 lines; one that outgrows them becomes a folder."""
    lengths = {source.name: len(source.path.read_text().splitlines()) for source in sources()}
    assert not {name: length for name, length in lengths.items() if length > MODULE_LINES}


def test_functions_stay_short():
    """No function body is longer than 80 lines, docstring not counted."""
    long = {
        f"{source.name}:{node.lineno} {node.name}": body_lines(node)
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and body_lines(node) > FUNCTION_BODY_LINES
    }
    assert not long


def test_every_module_has_a_charter():
    """Each module opens with a docstring that says what belongs in it."""
    assert not [source.name for source in sources() if not ast.get_docstring(source.tree)]


def test_no_module_is_a_drawer():
    """A module or folder is named after its subject, not utils."""
    wrong = [source.name for source in sources() if any(DRAWER.match(part) for part in source.module.split("."))]
    assert not wrong


def test_names_say_what_and_not_when():
    """Modules, functions and classes carry no _v2, _new or _fast: a better version replaces the old one."""
    wrong = [
        f"{source.name} {name}"
        for source in sources()
        for name in [
            source.path.stem,
            *(
                node.name
                for node in ast.walk(source.tree)
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            ),
        ]
        if HISTORY.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    ]
    assert not wrong
