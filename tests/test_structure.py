"""What holds for the package as a whole: its size, its imports, its documentation."""

import ast
import doctest
import inspect
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import minigrad as mg
from minigrad.core.op import Op, registry

ROOT = Path(__file__).parent.parent
PACKAGE = Path(mg.__file__).parent
SOURCES = sorted(path for folder in ("minigrad", "models", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def docstring_lines(tree: ast.AST) -> set[int]:
    """The lines of docstrings, and of strings that stand alone to document what is above them."""
    alone = (n for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))
    return {line for n in alone if isinstance(n.value.value, str) for line in range(n.lineno, n.end_lineno + 1)}


def lines_of_code(source: str) -> int:
    """How many lines have code on them: docstrings, comments and blank lines apart."""
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = {line for t in tokens if t.type not in nothing for line in range(t.start[0], t.end[0] + 1)}
    return len(code - docstring_lines(ast.parse(source)))


def test_lines_of_code_are_counted():
    source = '"""Doc\nof two lines."""\n\n# why\nx = (  # a comment\n    1\n)\n'
    source += 'def f():\n    """Doc."""\n    return """a\nb"""\n'
    assert lines_of_code(source) == 6


def test_the_core_can_be_read_in_one_sitting():
    counts = {path.name: lines_of_code(path.read_text()) for path in (PACKAGE / "core").glob("*.py")}
    assert sum(counts.values()) <= 500, counts


def test_import_loads_only_numpy():
    """Whatever is heavy waits until it is needed."""
    code = "import sys, numpy; before = set(sys.modules); import minigrad; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.split()} - {"minigrad", "numpy"}
    assert loaded <= set(sys.stdlib_module_names), loaded - set(sys.stdlib_module_names)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports, with its line; `from minigrad import ops` is minigrad.ops."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "minigrad":
            for name in (alias.name for alias in node.names):
                is_module = (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()
                yield node.lineno, f"minigrad.{name}" if is_module else "minigrad"
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports(path):
    """No pickle; inside the package nobody imports the top, which imports everybody."""
    for line, module in imports(path):
        assert module.partition(".")[0] not in {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle"}, line
        assert module != "minigrad" or PACKAGE not in path.parents, f"{path}:{line}: import the module that is meant"
    assert "allow_pickle=True" not in path.read_text()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_says_what_lives_there(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


def public_names() -> Iterator[tuple[str, object]]:
    """The functions, classes and operations of minigrad, and the public methods and properties of its classes."""
    for name in sorted(n for n in dir(mg) if not n.startswith("_")):
        thing = getattr(mg, name)
        if inspect.ismodule(thing) or not callable(thing):
            continue
        yield name, thing
        if inspect.isclass(thing) and thing.__module__.startswith("minigrad"):
            for member, value in vars(thing).items():
                if not member.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
                    yield f"{name}.{member}", value


@pytest.mark.parametrize(("name", "thing"), [pytest.param(n, t, id=n) for n, t in public_names()])
def test_public_names_are_documented(name, thing):
    doc = inspect.getdoc(thing) or ""
    assert doc.strip(), f"{name} has no docstring"
    assert not isinstance(thing, Op) or doc != thing.name, f"the Op {name} has neither doc nor formula"


@pytest.mark.parametrize("op", [pytest.param(op, id=name) for name, op in sorted(registry.items())])
def test_every_op_has_a_formula(op):
    assert op.formula.strip()


def run_examples(text: str, name: str, names: dict[str, object]) -> None:
    """Run a text's examples; those of one text share their names."""
    test = doctest.DocTestParser().get_doctest(text, names, name, name, 0)
    assert test.examples, f"{name} has no examples"
    report = io.StringIO()
    failed = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.write).failed
    assert not failed, report.getvalue()


def test_examples_of_ops():
    """pytest collects the docstrings of functions and classes; those of Op records run here."""
    for op in list(registry.values()):
        if ">>>" in (op.__doc__ or ""):
            run_examples(inspect.cleandoc(op.__doc__), op.name, {})


def test_the_readme_shows_the_two_commands():
    """.ci/run takes the line with pytest in it from the code blocks, so there is one."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    lines = "".join(blocks).splitlines()
    assert [line for line in lines if "pytest" in line] == ["pip install -e '.[test]' && pytest"]
    assert "pip install -e '.[models]' && python -m models.autoencoder" in lines
