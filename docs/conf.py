"""Sphinx configuration: the pages are Markdown, the API reference comes from docstrings."""

from __future__ import annotations

from ckptlab import __version__

project = "ckptlab"
author = "the ckptlab developers"
project_copyright = author
release = version = __version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["templates"]
nitpicky = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_show_class_members = False

html_theme = "furo"
html_title = f"ckptlab {release}"
html_theme_options = {
    "source_repository": "https://github.com/ckptlab/ckptlab",
    "source_branch": "main",
    "source_directory": "docs/",
}
