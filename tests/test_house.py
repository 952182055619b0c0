"""The rules of the house: who may import whom, what an import may cost, and what the repository may not hold."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"datasets", "hybrid", "nas", "firmware_export"}
ALLOWED = {
    "datasets": {"datasets"},
    "hybrid": {"hybrid", "datasets"},
    "nas": {"nas", "hybrid", "datasets"},
    "firmware_export": {"firmware_export", "hybrid", "datasets"},
}
FRONT = ("hybrid/pipeline/", "hybrid/cli/", "hybrid/serve/")
MOST_LINES = 400
MODULES = sorted(
    path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "__pycache__" not in path.parts
)
SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in MODULES}
TREES = {name: ast.parse(source) for name, source in SOURCES.items()}


def imported(tree):
    """Top-level packages of ours that a module imports anywhere, within functions and for type checkers too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return {name.partition(".")[0] if not name.startswith(".") else "relative" for name in names}


def text_files():
    """Files of the repository that hold text: what git tracks, or everything that is no product where git is not."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
        paths = [ROOT / name for name in names if name]
    else:
        made = {".venv", "__pycache__", "runs", "build"}
        paths = [path for path in ROOT.rglob("*") if not made & set(path.parts)]
    for path in paths:
        if path.is_file() and path != Path(__file__):
            content = path.read_bytes()
            if b"\0" not in content:
                yield path.relative_to(ROOT).as_posix(), content.decode("utf-8")


def test_the_reader_of_imports_sees_every_kind():
    source = "import nas.space\nif True:\n    from hybrid.specs import RunSpec\ndef f():\n    import datasets as d\n"
    assert imported(ast.parse(source)) & PACKAGES == {"nas", "hybrid", "datasets"}
    assert imported(ast.parse("from . import x")) == {"relative"}


@pytest.mark.parametrize("name", SOURCES)
def test_import_rule(name):
    found = imported(TREES[name])
    assert "relative" not in found
    if not name.startswith(FRONT):
        assert found & PACKAGES <= ALLOWED[name.partition("/")[0]]


@pytest.mark.parametrize("name", SOURCES)
def test_modules_stay_short_without_asserts_and_bare_excepts(name):
    assert len(SOURCES[name].splitlines()) <= MOST_LINES
    nodes = list(ast.walk(TREES[name]))
    assert not [node.lineno for node in nodes if isinstance(node, ast.Assert)]
    bare = [node.lineno for node in nodes if isinstance(node, ast.ExceptHandler) and node.type is None]
    assert not bare


@pytest.mark.parametrize("name", SOURCES)
def test_every_module_says_what_it_is(name):
    assert ast.get_docstring(TREES[name])


@pytest.mark.parametrize(
    "module",
    ["datasets", "hybrid", "hybrid.cli", "hybrid.specs", "hybrid.configure", "hybrid.sweep", "nas", "firmware_export"],
)
def test_import_is_light(module):
    """Nothing heavy; and nothing of ours that the importing package may not know."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert module.partition(".")[0] in loaded
    assert not loaded & {"tensorflow", "keras", "tf_keras", "keras_tuner", "matplotlib", "tflite_micro", "PIL"}
    assert loaded & PACKAGES <= ALLOWED[module.partition(".")[0]]


REGISTRIES = re.compile(
    r"pypi\.org|pythonhosted|registry\.npmjs|yarnpkg\.com|rubygems\.org|crates\.io|proxy\.golang"
    r"|repo1?\.maven|conda\.anaconda|index-url|find-links|trusted-host|artifactory|deb\.debian\.org",
    re.IGNORECASE,
)
MACHINE = re.compile(r"""(?<![\w.])/(?:work|tmp|root|home|Users|mnt)/\w|\.\./shared""")
SECRETS = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY|\bgh[pousr]_\w{20}|\bAKIA[0-9A-Z]{16}\b|://[^/\s:@]+:[^/\s:@]+@")


@pytest.mark.parametrize("forbidden", [REGISTRIES, MACHINE, SECRETS], ids=["registries", "machine", "secrets"])
def test_repository_holds_no(forbidden):
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in text_files()
        for number, line in enumerate(text.splitlines(), 1)
        if forbidden.search(line)
    ]
    assert not found


def test_forbidden_patterns_find_what_they_are_for():
    assert REGISTRIES.search("https://files.pythonhosted.org/packages/x.whl")
    assert MACHINE.search("--out /home/someone/runs")
    assert MACHINE.search("'/work/shared'")
    assert not MACHINE.search("the framework/tmp/x")
    assert SECRETS.search("https://user:word@host/")


def test_lock_holds_names_versions_and_markers_alone():
    name = r"[a-z0-9]+(?:[-_.][a-z0-9]+)*(?:\[[a-z0-9,]+\])?"
    marker = r"(?: ; [a-z_]+ (?:[<>=!]=?|in) '[^']*'(?: (?:and|or) [a-z_]+ (?:[<>=!]=?|in) '[^']*')*)?"
    line = re.compile(rf"{name}==[0-9][\w.+!-]*{marker}")
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 50
    assert [text for text in lines if not line.fullmatch(text)] == []


def test_lock_has_every_dependency_of_the_project():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = re.findall(r"^(?:dependencies|dev) = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    asked = {re.match(r"\s*\"([\w.-]+)", line)[1] for part in lists for line in part.splitlines()}
    locked = {re.match(r"[\w.-]+", line)[0] for line in (ROOT / "requirements.lock").read_text().splitlines()}
    assert len(asked) > 20
    assert {name.lower().replace("_", "-") for name in asked} <= {name.replace("_", "-") for name in locked}
