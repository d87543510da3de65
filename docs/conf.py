"""The documentation site: Markdown pages, and a reference made from the docstrings. ``make docs`` builds it."""

import sys
import tomllib
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout, not another that is installed
warnings.filterwarnings("ignore", category=FutureWarning, module="arviz")

_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "l0bayes"
author = "the l0bayes authors"
version = release = _PROJECT["version"]
copyright = "the l0bayes authors; Apache-2.0"  # noqa: A001 (Sphinx calls it so)

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "tables"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
templates_path = ["_templates"]

# A public name that has no page is a warning, and warnings are errors. Names of other projects are not linked, since
# the build does without a network; nor are our internal ones, which annotations and docstrings name.
_PUBLIC = r"l0bayes(\.(inference|models|posterior(\.pictures)?|errors|extending|testing))?"
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", rf"(?!{_PUBLIC}\.([A-Z]\w*(\.\w+)?|[a-z]\w*)$).*"), (r"py:mod", r"l0bayes.*")]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
suppress_warnings = ["myst.strikethrough"]

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_preprocess_types = False
python_maximum_signature_line_length = 88
add_module_names = False

html_theme = "furo"
html_title = f"l0bayes {version}"
html_static_path = ["_static"]
html_css_files = ["l0bayes.css"]
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1b6ca8", "color-brand-content": "#1b6ca8"},
    "dark_css_variables": {"color-brand-primary": "#6db3e8", "color-brand-content": "#6db3e8"},
}
copybutton_prompt_text = r">>> |\$ "
copybutton_prompt_is_regexp = True
