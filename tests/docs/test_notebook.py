"""The notebook: it runs, in a kernel of Jupyter's, and begins with the step-through."""

from html import unescape

import pytest

from docs.loading import DOCS

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")


def test_it_runs_and_begins_with_the_step_through() -> None:
    notebook = nbformat.read(DOCS / "pages" / "step-through.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # they are made where it is opened
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    first, trained, text = (cell for cell in notebook.cells if cell.cell_type == "code")
    for cell in (first, trained):
        shown = cell.outputs[-1]["data"]["text/html"]
        assert shown.startswith('<iframe sandbox="allow-scripts"')
        assert "y = mg.sigmoid(decoder(code))" in unescape(unescape(shown))
    before, after = (float(word) for word in trained.outputs[0]["text"].split() if word[0].isdigit())
    assert after < before / 2
    assert "backward" in text.outputs[0]["text"]
