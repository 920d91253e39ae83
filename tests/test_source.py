"""What the source may not contain, and where the exceptions are: read from the syntax tree, not from habit."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from functools import cache
from pathlib import Path

import pytest

import trainkit

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "trainkit").rglob("*.py"), *(ROOT / "callbacks").glob("*.py")])
NAMES = [str(p.relative_to(ROOT)) for p in SOURCES]
OURS = [n for n in NAMES if not n.startswith("trainkit/interop/")]  # that package is for torch's modules and autograd

# what may be called where: everything else is closed to what a stranger's file could name
ONLY_IN = {
    "torch.load": {"trainkit/checkpoint/file.py"},
    "torch.save": {"trainkit/checkpoint/file.py"},
    "exec_module": {"trainkit/app/config/registry.py"},  # the user's own file, by path
    "import_module": {  # names that stand in the code, and no others
        "trainkit/__init__.py",
        "trainkit/callbacks/__init__.py",
        "trainkit/app/cli/main.py",
        "trainkit/data/sources/fetch.py",
        "trainkit/interop/__init__.py",
    },
    "__import__": set(),
    "eval": set(),
    "exec": set(),
    "compile": set(),
    "yaml.load": set(),
    "pickle.load": set(),
    "pickle.loads": set(),
    "os.system": set(),
    # This very Python, on trainkit's own modules; and the C++ compiler, on trainkit's own code.
    "subprocess.run": {"trainkit/app/verify_resume/verify.py", "trainkit/trainer/engines/native/compiler.py"},
    "subprocess.Popen": {"trainkit/trainer/engines/native/compiler.py"},
    "input": set(),
}


@cache
def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a name or an attribute; `.c` of an attribute of something else."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@cache
def calls(name: str) -> set[str]:
    return {dotted(node.func) for node in ast.walk(tree(name)) if isinstance(node, ast.Call)}


@cache
def imports(name: str) -> set[str]:
    """Full names of what is imported: `torch.optim.lr_scheduler`."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("call", ONLY_IN)
def test_a_dangerous_call_stands_in_its_one_place(call: str) -> None:
    def made_in(name: str) -> bool:
        bare = "." not in call and call not in ("exec_module", "import_module")
        return any(c == call or (not bare and c.endswith(f".{call}")) for c in calls(name))

    assert {name for name in NAMES if made_in(name)} == ONLY_IN[call]


def test_pickle_is_not_imported() -> None:
    forbidden = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "ctypes"}
    found = {n: i for n in NAMES for i in imports(n) if i.split(".")[0] in forbidden}
    assert found == {"trainkit/trainer/engines/native/engine.py": "ctypes"}  # calls the library of trainkit's own code


def test_every_torch_load_says_weights_only() -> None:
    for node in ast.walk(tree("trainkit/checkpoint/file.py")):
        if isinstance(node, ast.Call) and dotted(node.func) == "torch.load":
            said = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            assert (said["weights_only"], said["map_location"]) == (True, "cpu")


@pytest.mark.parametrize("name", OURS)
def test_nothing_is_differentiated_by_torch(name: str) -> None:
    for node in ast.walk(tree(name)):
        said = dotted(node) if isinstance(node, ast.Attribute) else ""
        assert not said.startswith(("torch.autograd", "torch.func", "torch.enable_grad")), f"line {node.lineno}: {said}"  # type: ignore[attr-defined]
        if isinstance(node, ast.Call):
            last = dotted(node.func).rsplit(".", 1)[-1]
            assert last not in ("requires_grad_", "retain_grad", "register_hook"), f"line {node.lineno}"
            assert not any(k.arg == "requires_grad" for k in node.keywords), f"line {node.lineno}"
            if last == "backward":  # the textbooks' own pair, on modules and losses
                assert not dotted(node.func).startswith("torch."), f"line {node.lineno}"
                assert name.startswith("trainkit/nn/"), f"line {node.lineno}"


@pytest.mark.parametrize("name", OURS)
def test_no_module_and_no_optimizer_is_torch_s(name: str) -> None:
    used = {i for i in imports(name) if i.startswith("torch.")}
    used |= {dotted(n) for n in ast.walk(tree(name)) if isinstance(n, ast.Attribute) and dotted(n).startswith("torch.")}
    assert {u for u in used if u.startswith(("torch.nn", "torch.optim", "torch.autograd"))} == set()


@pytest.mark.parametrize("name", [n for n in trainkit.__all__ if n != "__version__"])
def test_a_public_name_is_there_and_has_a_docstring(name: str) -> None:
    value = getattr(trainkit, name)
    assert not inspect.ismodule(value)
    assert inspect.getdoc(value), f"{name} has no docstring"
    if inspect.isclass(value):
        assert "__doc__" in vars(value), f"{name}'s docstring is its base's"


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'trainkit' has no attribute 'Lineer'"):
        _ = trainkit.Lineer
    assert set(dir(trainkit)) >= set(trainkit.__all__)


def test_every_submodule_is_imported_without_hiding_a_public_name() -> None:
    for name in NAMES:
        if name.startswith("trainkit/") and "__main__" not in name and "trainkit/callbacks" not in name:
            importlib.import_module(name.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    assert [n for n in trainkit.__all__ if inspect.ismodule(getattr(trainkit, n))] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_file_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(tree(name)), "no docstring"
    if name.startswith("callbacks/"):
        classes = [n for n in tree(name).body if isinstance(n, ast.ClassDef)]
        assert all(ast.get_docstring(c) for c in classes)


CONFS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "conf").rglob("*.yaml"))


@pytest.mark.parametrize("name", CONFS)
def test_a_configuration_gives_its_reasons(name: str) -> None:
    """The first line says what it is for, and at least half of the values have their reason behind or above them."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("#")
    keys = [i for i, line in enumerate(lines) if re.match(r"\s*-?\s*\w+:\s*[^\s#{]", line)]
    bare = [lines[i].strip() for i in keys if "#" not in lines[i] and not lines[i - 1].lstrip().startswith("#")]
    assert 2 * len(bare) <= len(keys), f"without a reason: {', '.join(bare)}"
