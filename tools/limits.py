"""Hold the limits: 400 lines a file, 80 a function, no file named after nothing, no root of transformers.

`from transformers import X` has the type checker read and bind every model there is (4,400 files, not 1,800):
the package imports X from the module that defines it.
"""

import ast
import sys
from pathlib import Path

MAX_FILE, MAX_FUNCTION = 400, 80
ROOT = "transformers"
FORBIDDEN_NAMES = {"utils", "common", "helpers", "misc"}


def problems(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    found: list[str] = []
    lines = text.count("\n")
    if lines > MAX_FILE:
        found.append(f"{path}: {lines} lines, limit {MAX_FILE}")
    if path.stem in FORBIDDEN_NAMES:
        found.append(f"{path}: a file named {path.stem} says nothing of its content")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION:
                found.append(f"{path}:{node.lineno}: {node.name} has {length} lines, limit {MAX_FUNCTION}")
        if path.parts[0] == "src" and names_root(node):
            found.append(f"{path}:{node.lineno}: imports the root of {ROOT}; name the module inside it")
    return found


def names_root(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == ROOT and node.level == 0
    return isinstance(node, ast.Import) and any(name.name == ROOT for name in node.names)


if __name__ == "__main__":
    files = [
        path for root in ("src", "tools", "bench", "studies") for path in sorted(Path(root).rglob("*.py"))
    ]
    everything = [p for path in files for p in problems(path)]
    print("\n".join(everything) or "limits: held")
    sys.exit(bool(everything))
