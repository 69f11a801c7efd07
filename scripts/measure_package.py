#!/usr/bin/env python3
"""Size and structure of a package's source code: lines, functions, classes, import chains. Imports nothing.

python scripts/measure_package.py recon_worker
"""

import argparse
import ast
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of a package, optionally without some subpackages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("package", type=Path, help="folder of the package")
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME", help="subpackages to exclude")
    parser.add_argument("--list", action="store_true", help="list the forwarding functions and the import chain")
    arguments = parser.parse_args(argv)
    trees = _parsed(arguments.package, set(arguments.without))
    functions = {f"{name}:{f.lineno} {f.name}": f for name, tree in trees.items() for f in _functions(tree)}
    sizes = sorted(_length(function) for function in functions.values())
    forwarding = [where for where, function in functions.items() if _only_forwards(function)]
    lengths = {name: len(_path(arguments.package, name).read_text("utf-8").splitlines()) for name in trees}
    chain = _longest_chain(trees)
    largest = max(lengths, key=lambda name: lengths[name])
    rows = {
        "modules": len(trees),
        "modules in the largest folder": max(Counter(name.rpartition(".")[0] for name in trees).values()),
        "longest import chain, modules": len(chain),
        "lines": sum(lengths.values()),
        "functions": len(functions),
        "classes": sum(isinstance(node, ast.ClassDef) for tree in trees.values() for node in ast.walk(tree)),
        "functions that only forward": len(forwarding),
        "longest file, lines": f"{lengths[largest]} ({largest})",
        "file median, lines": statistics.median(lengths.values()),
        "function p90 / longest, lines": f"{sizes[int(0.9 * (len(sizes) - 1))]} / {sizes[-1]}",
    }
    for what, value in rows.items():
        print(f"| {what} | {value} |")
    if arguments.list:
        print("\nThe longest import chain:", *chain, sep="\n  ")
        print("\nFunctions that only forward:", *forwarding, sep="\n  ")
    return 0


def _parsed(package: Path, without: set[str]) -> dict[str, ast.Module]:
    """Modules by dotted name; an `__init__` counts if it contains more than a docstring."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package).with_suffix("")
        tree = ast.parse(path.read_text("utf-8"))
        if inside.parts[0] in without or (inside.name == "__init__" and len(tree.body) <= 1):
            continue
        found[".".join((package.name, *inside.parts))] = tree
    return found


def _path(package: Path, name: str) -> Path:
    return package.parent.joinpath(*name.split(".")).with_suffix(".py")


def _functions(tree: ast.Module) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def _length(function: Function) -> int:
    """Lines from `def` to the end, without the docstring."""
    body = function.body
    doc = body[0] if ast.get_docstring(function) is not None else None
    of_doc = 0 if doc is None or doc.end_lineno is None else doc.end_lineno - doc.lineno + 1
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1 - of_doc


def _only_forwards(function: Function) -> bool:
    """Whether the body is a single call or attribute, possibly inside a `with`."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    while len(body) == 1 and isinstance(body[0], ast.With):
        body = body[0].body
    if len(body) != 1 or not isinstance(body[0], ast.Return | ast.Expr):
        return False
    return isinstance(body[0].value, ast.Call | ast.Attribute)


def _longest_chain(trees: dict[str, ast.Module]) -> list[str]:
    """Longest chain of modules that import each other at module level."""
    imports = {name: _imported(name, tree, set(trees)) for name, tree in trees.items()}

    @cache
    def below(name: str) -> list[str]:
        chains = [below(other) for other in sorted(imports[name] - {name})]
        return [name, *max(chains, key=len, default=[])]

    return max([below(name) for name in sorted(trees)], key=len)


def _imported(module: str, tree: ast.Module, known: set[str]) -> set[str]:
    named = set[str]()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            source = ".".join([*package, *([node.module] if node.module else [])])
            named |= {source, f"{source}.__init__"} | {f"{source}.{one.name}" for one in node.names}
        elif isinstance(node, ast.Import):
            named |= {one.name for one in node.names}
    return named & known


if __name__ == "__main__":
    raise SystemExit(main())
