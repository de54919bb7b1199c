"""What the pages link to exists, and is in the archive of the sources."""

import re
from pathlib import Path

import pytest
from setuptools.command.egg_info import FileList

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (ROOT, ROOT / "docs", ROOT / "benchmarks")
    for path in folder.glob("*.md")
)


@pytest.fixture
def archive(monkeypatch):
    """The files that MANIFEST.in adds to those of the package."""
    monkeypatch.chdir(ROOT)
    files = FileList()
    for line in (ROOT / "MANIFEST.in").read_text().splitlines():
        files.process_template_line(line)
    return {Path(name) for name in files.files}


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_links_to_exists_and_is_in_the_source_archive(archive, page):
    text = (ROOT / page).read_text()
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    for target in targets:
        name, _, heading = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        relative = path.resolve().relative_to(ROOT)
        assert relative in archive or any(file.is_relative_to(relative) for file in archive), target
        if heading:
            assert heading in anchors(path.read_text()), target


def anchors(text):
    """The names by which the headings of a page are linked to."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_source_archive_has_the_files_that_the_pages_name_in_their_text(archive):
    folders = ("benchmarks/", "configs/", "docs/", "examples/", "tests/", ".ci/", "csrc/", "cmake/")
    for page in PAGES:
        for name in re.findall(r"`([\w./-]+)`", (ROOT / page).read_text()):
            if name.startswith(folders) and (ROOT / name).exists():
                assert any(file.is_relative_to(name) for file in archive), (page, name)
