"""A page for a Hugging Face Space, or for oneself: ``python examples/gradio_app.py MODEL VIDEOS`` searches a folder and captions clips."""

import sys

try:
    import gradio
except ImportError:
    sys.exit("gradio is not installed: pip install gradio")
import omnivast

model = omnivast.load(sys.argv[1])
index = omnivast.Index(sys.argv[2], model)


def search(text: str, seen: float, heard: float, said: float) -> list:
    found = index.search(text, top=6, weights={"seen": seen, "heard": heard, "said": said})
    return [(str(index.root / one.path), f"{one.path}, {one.start:.0f} to {one.end:.0f} s") for one in found]


def caption(clip: str) -> str:
    return model.caption(clip).text


sliders = [gradio.Slider(0, 1, 1, label=track) for track in ("seen", "heard", "said")]
find = gradio.Interface(search, [gradio.Textbox(label="What are you looking for?"), *sliders], gradio.Gallery(label="Moments"))
tell = gradio.Interface(caption, gradio.Video(label="A clip"), gradio.Textbox(label="What it shows"))
gradio.TabbedInterface([find, tell], ["Search", "Caption"], title="OmniVAST").launch(allowed_paths=[sys.argv[2]])
