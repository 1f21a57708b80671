#!/usr/bin/env python3
"""Print docs/architecture-imports.md: which package of src imports which.

usage: python scripts/import_graph.py > docs/architecture-imports.md
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
PACKAGE = "cnnClassifier"
Graph = dict[str, set[str]]

PAGE = """# Imports between the packages

`make docs-config` generates this page from the imports in `src`, `app.py` and `main.py`.

An arrow means "imports". Where a longer path exists, the direct arrow is left out; the table has
all imports. The command line starts the stages of `pipeline` by their names. There is no cycle, and
no arrow goes upwards: `tests/test_architecture.py` checks that.

```mermaid
flowchart TD
    main["main.py"]
    app["app.py"]
    cli -. starts .-> pipeline
{arrows}
```

| package | modules | imports |
|---|---:|---|
{rows}
"""


def package_of(module: str) -> str:
    """Return the package of a module: the one below the project's own, or a generator's."""
    parts = module.split(".")
    if parts[0] != PACKAGE:
        return parts[0]
    return parts[1] if len(parts) > 1 else ""


def read_modules() -> dict[str, Path]:
    """Return the file of each module, by its dotted name."""
    modules = {"app.py": ROOT / "app.py", "main.py": ROOT / "main.py"}
    for path in sorted(SRC.glob("*/**/*.py")):
        if path.name != "__init__.py" or path.read_text(encoding="utf-8").count("import"):
            parts = path.relative_to(SRC).with_suffix("").parts
            modules[".".join(parts).removesuffix(".__init__")] = path
    return modules


def imported_packages(path: Path, own: set[str]) -> set[str]:
    """Return the packages that a file imports, at its top or inside of a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found.add(package_of(f"{node.module}.{alias.name}"))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                found.add(package_of(alias.name))
    return found & own


def build_graph(modules: dict[str, Path]) -> tuple[Graph, dict[str, int]]:
    """Return what each package imports, and its number of modules."""
    # app.py and main.py are no packages: they stand for themselves.
    packages = {name: name if name.endswith(".py") else package_of(name) for name in modules}
    own = {package for package in packages.values() if package}
    graph: Graph = {package: set() for package in own}
    counts = dict.fromkeys(own, 0)
    for name, path in modules.items():
        package = packages[name]
        if package:
            counts[package] += 1
            graph[package] |= imported_packages(path, own) - {package}
    return graph, counts


def reachable(graph: Graph, start: str) -> set[str]:
    """Return all packages that a package imports, directly or through others."""
    found: set[str] = set()
    pending = [start]
    while pending:
        new = graph[pending.pop()] - found
        found |= new
        pending += new
    return found


def render() -> str:
    """Return the page in Markdown."""
    graph, counts = build_graph(read_modules())
    arrows, rows = [], []
    # Those that import most come first: they are at the top of the drawing.
    order = sorted(graph, key=lambda package: (-len(reachable(graph, package)), package))
    for package in order:
        imported = sorted(graph[package], key=order.index)
        for other in imported:
            is_indirect = any(other in reachable(graph, between) for between in imported)
            if not is_indirect:
                arrows.append(f"    {package.removesuffix('.py')} --> {other}")
        names = ", ".join(f"`{other}`" for other in imported) or "nothing"
        rows.append(f"| `{package}` | {counts[package]} | {names} |")
    return PAGE.format(arrows="\n".join(arrows), rows="\n".join(rows))


if __name__ == "__main__":
    sys.stdout.write(render())
