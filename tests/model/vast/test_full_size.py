"""The full-size model of the released config: names and shapes without memory for them, and one clip captioned on the CPU.

The second takes a few minutes and 6 GB, and runs when asked for: OMNIVAST_FULL_SIZE=1 pytest -s tests/model/vast/test_full_size.py
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from omnivast.config.schema import ModelConfig
from omnivast.config.tasks import CaptionKind, Group, Modality
from omnivast.data.batch import Batch, Captions, make_texts
from omnivast.model.build import build_model
from omnivast.model.weights import load_weights
from omnivast.model.weights.load import split_unused
from tests.model.tiny import GOLDENS, VAST_TINY
from tests.model.weights.test_weights_convert import read, script  # noqa: F401 (a fixture)

ROOT = Path(__file__).parents[3]
MEMORY, SECONDS = 8e9, 60.0
VOCABULARY = 30522


def released_config(vocabulary: Path, **changes) -> ModelConfig:
    """config/vast/default_model_cfg.json, with a text encoder of BERT-base's sizes, all weights random."""
    written = json.loads((ROOT / "config" / "vast" / "default_model_cfg.json").read_text())
    keys = {key: value for key, value in written.items() if key in ModelConfig.__dataclass_fields__}
    return ModelConfig(**{**keys, "pretrained": False, "text_encoder_type": "bert", "text_encoder_cfg": {"vocab_size": VOCABULARY},
                          "tokenizer": str(vocabulary), "max_vision_sample_num": 8, "max_audio_sample_num": 2, **changes})


def test_the_released_parameters_are_read_and_saved(script, tmp_path):  # noqa: F811
    """Through a checkpoint of every released name and shape whose tensors repeat one number, so that it takes no space."""
    shapes = json.loads((GOLDENS / "vast_released_parameters.json").read_text())
    torch.save({name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}, tmp_path / "released.pt")
    assert len(shapes) == 1287 and (tmp_path / "released.pt").stat().st_size < 1e6
    with torch.device("meta"):
        model = build_model(released_config(VAST_TINY / "vocab.txt"))
    own = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert own == {name: shapes[name] for name in split_unused(dict.fromkeys(shapes), model.names)[0]}
    with pytest.warns(UserWarning, match="no-op"):  # nothing is copied into a model without memory
        report = load_weights(model, tmp_path / "released.pt")
    assert (report.missing, report.unexpected, report.interpolated) == ((), (), ()) and len(report.dropped) == 1287 - len(own)
    ours, back = tmp_path / "ours.pt", tmp_path / "back.pt"
    assert script.main([str(tmp_path / "released.pt"), str(ours)]) == 0
    assert {name: list(tensor.shape) for name, tensor in read(ours).items()} == own
    assert script.main([str(ours), str(back), "--to", "released", "--unused", str(tmp_path / "released.pt")]) == 0
    assert {name: list(tensor.shape) for name, tensor in read(back).items()} == shapes


def caption_one_clip(vocabulary: Path) -> dict[str, float]:
    """8 frames of 224 pixels, a slice of sound and a subtitle → global features and a caption of 40 tokens; float32, one thread."""
    torch.set_num_threads(1)
    start, cpu = time.perf_counter(), time.process_time()
    cfg = released_config(vocabulary, max_audio_sample_num=1)
    model = build_model(cfg).eval()
    with torch.no_grad():
        model.multimodal_encoder.cls["predictions"].bias[model.tokenizer.sep] = -100.0  # the longest caption: it never ends
    built = {"build": time.perf_counter() - start, "build_cpu": time.process_time() - cpu}
    noise = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (1, 8, 3, 224, 224), dtype=torch.uint8, generator=noise)
    subtitle = make_texts([["hello welcome today we will show how to play"]], model.tokenizer, cfg.max_subtitle_len)
    batch = Batch("clip", ["one"], torch.zeros(1, dtype=torch.long), frames, torch.randn(1, 1, 1024, 64, generator=noise), subtitle,
                  Captions({CaptionKind.OMNI: subtitle}))
    start, cpu = time.perf_counter(), time.process_time()
    group = Group.parse("vas")
    with torch.no_grad():
        features = model.encode(batch, list(Modality))
        embedded = model.embed_clips(features, group)
        encoded = time.process_time() - cpu
        caption = model.caption(model.memory(features), group, beam_size=3, max_length=cfg.max_caption_len)[0]
    assert embedded.shape == (1, 512) and bool(embedded.isfinite().all())
    return {**built, "encode_cpu": encoded, "clip_cpu": time.process_time() - cpu, "clip": time.perf_counter() - start,
            "words": len(caption.split()), "parameters": sum(p.numel() for p in model.parameters()),
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("OMNIVAST_FULL_SIZE"), reason="takes minutes and 6 GB; set OMNIVAST_FULL_SIZE=1 to run it")
def test_a_clip_within_8_gb_and_a_minute(tmp_path):
    """Seconds are of one processor core, so that other work on the machine does not count."""
    words = (VAST_TINY / "vocab.txt").read_text().splitlines()
    (tmp_path / "vocab.txt").write_text("\n".join([*words, *(f"word{i}" for i in range(VOCABULARY - len(words)))]) + "\n")
    program = "import json, pathlib, sys; from tests.model.vast.test_full_size import caption_one_clip as run\n" \
              "print(json.dumps(run(pathlib.Path(sys.argv[1]))))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", program, tmp_path / "vocab.txt"], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    print(run.stdout)  # noqa: T201 (the figures; pytest -s shows them)
    figures = json.loads(run.stdout.splitlines()[-1])
    assert figures["words"] == 40 and figures["parameters"] > 1.2e9
    assert figures["peak"] < MEMORY and figures["clip_cpu"] < SECONDS
