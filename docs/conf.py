"""How Sphinx builds the documentation: ``nox -s docs`` calls it."""

from samemap import __version__ as release  # noqa: F401  (Sphinx reads it)

project = "samemap"
author = "the samemap developers"
copyright = "2026, the samemap developers"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
default_role = "autolink"

# Types stand in the docstrings, in words.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_validation_checks = {"all", "SA01", "ES01", "EX01", "YD01", "GL02"}
numpydoc_validation_exclude = {
    # A parameter `cls` is taken for that of a class method.
    r"^samemap\.register$",
    # Made as their base class, which has the arguments.
    r"^samemap\.Backing(NotFound|Replaced|Truncated|Permission)Error$",
}

myst_heading_anchors = 3

# Objects of other projects have no page here.
nitpick_ignore_regex = [
    ("py:.*", r"(numpy|np|joblib|mmap|pickle|collections|multiprocessing)\..*"),
    ("py:.*", r"(concurrent|distributed|torch)\..*|multiprocessing"),
    ("py:.*", r"(dict|OSError|ImportError|ValueError|UserWarning|Exception|bool|type)"),
    ("py:.*", r"(array|pickle)"),  # modules by name, words of ours in fact
    ("py:.*", r"(FileNotFoundError|PermissionError)"),
]

html_theme = "pydata_sphinx_theme"
html_title = "samemap"
html_static_path = ["_static"]
html_css_files = ["samemap.css"]
html_show_sourcelink = False
# Those without pages below them.
html_sidebars = {name: [] for name in ("index", "start", "changes")}
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "navigation_with_keys": False,
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
}
