"""The stubs of the two packages whose names are imported on first use: `python tests/public/stubs.py` writes them.

Type checkers and editors cannot follow `__getattr__`. A test compares the files with what this makes of the source.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAD = "# Written by tests/public/stubs.py: the public names for type checkers and editors.\n\n"


def public() -> str:
    """trainkit/__init__.pyi: each public name from its package."""
    import trainkit

    lines = [f"from trainkit.{home} import {name} as {name}" for home, names in trainkit._PUBLIC.items() for name in names]
    return HEAD + "\n".join(lines) + "\n\n__version__: str\n__all__: list[str]\n"


def callbacks() -> str:
    """trainkit/callbacks/__init__.pyi: the classes of `callbacks/`, whose files are elsewhere in a checkout than in a wheel."""
    imports: set[str] = set()
    classes: list[str] = []
    for path in sorted((ROOT / "callbacks").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        exported = next(n for n in tree.body if isinstance(n, ast.ClassDef) and "Callback" in map(ast.unparse, n.bases))
        own = {n.name for n in tree.body if isinstance(n, ast.ClassDef)}
        methods = [stub(n) for n in exported.body if isinstance(n, ast.FunctionDef) and is_public(n, own)]
        classes.append(f"class {exported.name}(Callback):\n" + ("\n".join(methods) or "    ..."))
        used = {n.id for n in ast.walk(ast.parse(classes[-1])) if isinstance(n, ast.Name)} | {"Callback"}
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module != "__future__":
                imports |= {f"from {node.module} import {a.name}" for a in node.names if a.name in used}
    table = "TABLE: dict[str, str]\n__all__: list[str]\n"
    return HEAD + "\n".join(sorted(imports)) + "\n\n" + table + "\n" + "\n\n".join(classes) + "\n"


def is_public(method: ast.FunctionDef, own: set[str]) -> bool:
    """Whether a method is for users; not where its signature needs a class that the stub does not have."""
    named = {
        n.id for part in (method.args, method.returns) if part is not None for n in ast.walk(part) if isinstance(n, ast.Name)
    }
    return (method.name == "__init__" or not method.name.startswith("_")) and not named & own


def stub(method: ast.FunctionDef) -> str:
    decorators = "".join(f"    @{ast.unparse(d)}\n" for d in method.decorator_list)
    returns = ast.unparse(method.returns) if method.returns is not None else "None"
    return f"{decorators}    def {method.name}({ast.unparse(method.args)}) -> {returns}: ..."


def formatted(text: str) -> str:
    """The text as ruff sorts its imports and formats it."""
    for command in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        arguments = [sys.executable, "-m", "ruff", *command, "--stdin-filename", "x.pyi", "-"]
        text = subprocess.run(arguments, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return text


STUBS = {"trainkit/__init__.pyi": public, "trainkit/callbacks/__init__.pyi": callbacks}

if __name__ == "__main__":
    for name, make in STUBS.items():
        (ROOT / name).write_text(formatted(make()), encoding="utf-8")
