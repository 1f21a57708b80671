"""The pages of docs/: links, navigation, generated pages, and the settings of the how-tos."""

import importlib.util
import re
from typing import NamedTuple

import pytest
import yaml

from benchmarks import costs
from cnnClassifier.config.configuration import ConfigurationManager
from tests.project import FILES, ROOT, write_project

DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path for path in sorted(DOCS.rglob("*.md"))}
HOW_TOS = [name for name in PAGES if name.startswith("how-to/")]
FENCE = re.compile(r'^```(\w+) title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


class Edit(NamedTuple):
    """A block of code with the file that it belongs to."""

    language: str
    file: str
    text: str


def edits_of(name):
    return [Edit(*match) for match in FENCE.findall(PAGES[name].read_text(encoding="utf-8"))]


def nav_pages(items):
    pages = []
    for item in items:
        if isinstance(item, str):
            pages.append(item)
        else:
            for inner in item.values():
                pages += nav_pages(inner)
    return pages


def test_the_tables_of_what_growth_costs_are_current():
    """`python -m benchmarks.costs` prints them."""
    text = PAGES["scaling.md"].read_text(encoding="utf-8")
    for table in (costs.disk_table(), costs.step_table(1_000_000), costs.total_table()):
        assert table in text


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").replace("!!python/name:", "")
    assert sorted(nav_pages(yaml.safe_load(text)["nav"])) == sorted(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_links_stay_in_docs_and_lead_to_files(name):
    text = PAGES[name].read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith("https://"):
            path = (PAGES[name].parent / target).resolve()
            assert path.is_relative_to(DOCS), f"{target}: write a path of the repository as code"
            assert path.is_file(), target
    for line in text.splitlines():  # scripts/new_project.py finds them by line
        if re.search("<!-- (begin|end):", line):
            assert re.fullmatch(r"<!-- (begin|end): [a-z ]+ -->", line.strip()), line


def test_the_import_graph_is_current():
    spec = importlib.util.spec_from_file_location("graph", ROOT / "scripts/import_graph.py")
    graph = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(graph)
    stored = PAGES["architecture-imports.md"].read_text(encoding="utf-8")
    assert stored == graph.render(), "run `make docs-config`"


@pytest.mark.parametrize("name", HOW_TOS)
def test_the_settings_of_a_how_to_are_valid(name, tmp_path):
    changes = {"config": {}, "params": {}}
    for edit in edits_of(name):
        if edit.language == "yaml":
            kind = next(key for key, path in FILES.items() if path.as_posix() == edit.file)
            for key, value in yaml.safe_load(edit.text).items():
                is_section = kind == "config"
                values = {f"{key}.{inner}": value[inner] for inner in value} if is_section else {}
                changes[kind] |= values or {key: value}
    if changes["params"].get("BACKBONE"):
        del changes["params"]["BACKBONE"]  # of the page that adds it
    write_project(tmp_path, **changes)
    ConfigurationManager(tmp_path / FILES["config"], tmp_path / FILES["params"])
