"""How the site is built: `make docs`. Nothing here needs the network."""

import logging
import shutil
import sys
from pathlib import Path

import loadbearing

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "loadbearing"
author = "The loadbearing authors"
copyright = author
version = release = loadbearing.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_gallery.gen_gallery",
    "plain_docstrings",
    "commands",
    "run_blocks",
]
exclude_patterns = ["_build"]
smartquotes = False  # they make dashes of "--model"

myst_enable_extensions = ["attrs_inline"]  # the width of an image
myst_heading_anchors = 3

autodoc_member_order = "groupwise"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88

# Every reference must be found. Other libraries' pages are on the network, so that their names are not looked up.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!loadbearing\b).*")]

# The examples run here. They write into the folder that they stand in: that of a copy.
examples = shutil.copytree(HERE.parent / "examples" / "gallery", HERE / "_build" / "examples", dirs_exist_ok=True)
sphinx_gallery_conf = {
    "examples_dirs": str(examples),
    "gallery_dirs": "gallery",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,
}
logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells every letter that it puts into a PDF

html_theme = "furo"
html_title = f"loadbearing {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
