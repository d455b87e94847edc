"""The site: every page of docs/, the notebooks, and the reference out of the docstrings; warnings are errors.

    python -m sphinx -W --keep-going -q -c docs . build/site

The pages are plain Markdown that GitHub shows as well. So the source folder is the whole repository, and links between pages,
to the notebooks, to code and to the README are those that GitHub follows. The first page is docs/README.md.
"""

import dataclasses
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, get_origin

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the reference is of this clone, whatever is installed

from augment.marks import Mark, OneOf, chosen_from  # noqa: E402 (found by the line above)

# What objectives and configs have for the trainer and for older files, not for their users.
UNSHOWN = ("before", "gone", "choices", "divides", "divisible", "shares", "compute_part", "on_share", "extra_repr")

project = "simclr-pipeline"
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton"]
root_doc = "docs/README"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/**", "notebooks/*.ipynb"]
exclude_patterns = [".*", "build", "runs", "data", "docs/templates"]

myst_heading_anchors = 4  # links to headings are GitHub's
nb_execution_mode = "off"  # shown as they were committed; tests/test_notebooks.py runs them
highlight_language = "none"  # an indented block is a command, or what one prints
smartquotes = False  # would make one dash of the two before a flag
default_role = "code"  # a docstring's `name`

autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "exclude-members": ", ".join(UNSHOWN),
}
autodoc_inherit_docstrings = False  # or every module would repeat torch's
autodoc_preserve_defaults = True
maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "simclr-pipeline"
html_show_copyright = False
html_copy_source = False
html_additional_pages = {"index": "start.html"}
templates_path = ["templates"]


def google_style(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Sections such as ``Args:``. Of attributes there are none, and napoleon takes what is before a colon there for a type."""
    if what not in ("attribute", "property"):
        lines[:] = GoogleDocstring(lines, Config(napoleon_use_rtype=False), app, what, name, thing).lines()


def fields_below(
    app: Sphinx, what: str, name: str, thing: object, options: object, signature: str, returns: str
) -> Any:
    """A dataclass has each of its fields with its docstring below, so not all of them once more in one line."""
    if dataclasses.is_dataclass(thing) and len(dataclasses.fields(thing)) > 4:
        return "", returns
    return None


def without_marks(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: object) -> None:
    """``Rare[int]`` is shown as ``int``, a choice of words as these words, in fields and in signatures."""
    for owner in (thing, getattr(thing, "__init__", None)):
        for name, hint in getattr(owner, "__annotations__", {}).items():
            if get_origin(hint) is Annotated and isinstance(hint.__metadata__[0], Mark | OneOf):
                chosen = chosen_from(hint)
                owner.__annotations__[name] = chosen if chosen is not hint else hint.__origin__


def with_contents(app: Sphinx, page: str, text: list[str]) -> None:
    """The order of the pages at the side, which would be a block of code where GitHub shows the first page."""
    if page == root_doc:
        text[0] += f"\n{(ROOT / 'docs' / 'templates' / 'contents.md').read_text()}"


def setup(app: Sphinx) -> None:
    app.connect("source-read", with_contents)
    app.connect("autodoc-process-docstring", google_style)
    app.connect("autodoc-process-signature", fields_below)
    app.connect("autodoc-skip-member", without_marks)
