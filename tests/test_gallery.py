"""The examples: each runs from a question to a figure, and opens as a notebook."""

import json
import runpy
from pathlib import Path

import pytest
from matplotlib import pyplot as plt
from sphinx_gallery.gen_gallery import DEFAULT_GALLERY_CONF
from sphinx_gallery.notebook import jupyter_notebook
from sphinx_gallery.py_source_parser import split_code_and_text_blocks

GALLERY = sorted((Path(__file__).parents[1] / "examples" / "gallery").glob("plot_*.py"))


def test_there_are_six() -> None:
    assert len(GALLERY) == 6


@pytest.mark.parametrize("script", GALLERY, ids=lambda path: path.stem)
def test_each_goes_from_a_question_to_a_figure(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    plt.close("all")
    (figure,) = tmp_path.glob("*.pdf")
    assert figure.read_bytes().startswith(b"%PDF")
    assert " of " in capsys.readouterr().out  # a result says what it is


@pytest.mark.parametrize("script", GALLERY, ids=lambda path: path.stem)
def test_each_opens_as_a_notebook(script: Path, tmp_path: Path) -> None:
    _, blocks, _ = split_code_and_text_blocks(str(script), return_node=True)
    book = json.loads(json.dumps(jupyter_notebook(blocks, {**DEFAULT_GALLERY_CONF}, str(tmp_path))))
    kinds = [cell["cell_type"] for cell in book["cells"]]
    assert kinds[0] == "markdown" and kinds.count("code") >= 2
    title = "".join(book["cells"][0]["source"])
    assert title.strip().startswith("#")
