"""Docstrings as they are written here, for Sphinx: code in single backticks, arguments as `name: what it is`."""

import dataclasses
import inspect
import re
from collections.abc import Collection
from importlib import import_module
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

CODE = re.compile(r"`([^`]+)`")
ARGUMENTS = re.compile(r"(\w+(?:, \w+)*): (.*)")
INHERITED = re.compile(r"set_\w+_request")  # scikit-learn's metadata routing


def explained(described: Any) -> set[str]:
    """The names that a docstring may explain: parameters and fields."""
    try:
        names = set(inspect.signature(described).parameters)
    except (TypeError, ValueError):  # a module, a property
        names = set()
    if dataclasses.is_dataclass(described):
        names |= {field.name for field in dataclasses.fields(described)}
    return names


def restructured(text: str) -> str:
    """Text in which only code is marked, as reStructuredText."""
    parts = CODE.split(text)
    parts[::2] = [re.sub(r"([\\*_|])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"``{part}``" for part in parts[1::2]]
    return "".join(parts)


def block(text: str, names: Collection[str]) -> list[str]:
    """The lines of one block of a docstring; its arguments become a list of definitions."""
    if text.lstrip().startswith(">>>"):
        return text.split("\n")
    lines: list[str] = []
    within = False
    given = text.split("\n")
    for line, after in zip(given, [*given[1:], ""], strict=True):
        found = ARGUMENTS.match(line)
        if found and (set(found[1].split(", ")) <= set(names) or after.startswith("    ")):
            lines += ["", f"`{found[1]}`", f"    {found[2]}"]
            within = True
        elif within and not line.startswith(("Raises ", "Source: ")):
            lines.append(f"    {line.strip()}")
        else:
            lines += ["", line] if within else [line]
            within = False
    return restructured("\n".join(lines)).split("\n")


def rewrite(app: Sphinx, what: str, name: str, described: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the lines of a docstring in place."""
    names = explained(described)
    blocks = "\n".join(lines).split("\n\n")
    lines[:] = [line for each in blocks for line in [*block(each, names), ""]]


def readable(
    app: Sphinx, what: str, name: str, described: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """A signature that Sphinx can parse: a default that is made anew each time is shown as "..."."""
    return signature and signature.replace("<factory>", "..."), returned


def leave_out(app: Sphinx, what: str, name: str, described: Any, skip: bool, options: Any) -> bool | None:
    """Leave out methods that scikit-learn adds to every estimator."""
    return True if INHERITED.fullmatch(name) else None


def public(app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.TextElement) -> nodes.Node | None:
    """Link a type, which annotations call by the module that defines it, to where its room offers it."""
    module, _, name = node.get("reftarget", "").rpartition(".")
    if not module.startswith("loadbearing."):
        return None
    room = ".".join(module.split(".")[:2])
    if getattr(getattr(import_module(room), name, None), "__module__", None) != module:
        return None
    domain = env.domains["py"]
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], f"{room}.{name}", node, shown)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", rewrite)
    app.connect("autodoc-process-signature", readable)
    app.connect("autodoc-skip-member", leave_out)
    app.connect("missing-reference", public)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
