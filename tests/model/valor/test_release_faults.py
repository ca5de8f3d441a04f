"""Faults of the released VALOR (github.com/TXH-mercury/VALOR, commit 1b51e66), each with the test that shows that ours does not have it.
Names without a file are tests of this module.

- both pretraining configs lack their last brace:
    tests/config/test_load.py::test_every_json_in_config_loads
- no model without a pretrain_dir that has fineweight_type:
    test_no_setting_needs_a_pretrained_run
- fineweight_type none fails in pretraining:
    test_every_kind_of_weights_trains
- retrieval is tested in half precision alone:
    test_scores_in_every_precision
- a clip without questions fails:
    test_a_clip_without_questions
- tasks without vision need pixels:
    test_tasks_without_vision_need_no_frames
- --local-rank of today's launchers is refused:
    tests/config/test_flags.py::test_flags_set_typed_keys
- 33 frames fail in the first batch:
    tests/model/test_families.py::test_33_frames_in_configs_of_training_testing_and_labelling
- accumulating gradients steps after every batch:
    tests/training/test_loop.py::test_a_step_is_the_mean_over_its_batches_clipped
- accum and round-robin divide by zero steps:
    tests/data/test_mixture.py::test_every_corpus_gets_exactly_its_steps
- validation divides by zero, and the last steps are not saved:
    tests/training/test_loop.py::test_spread
- means of losses begin anew in every step (ours takes none; each step's own losses are kept, over restarts too):
    tests/training/test_loop.py::test_a_resumed_run_is_bit_identical
- old checkpoints are deleted before the new one is written:
    tests/training/checkpoints/test_checkpoint.py::test_killed_between_any_two_writes_the_old_one_stays_usable
- no scaler is saved:
    tests/training/test_loop.py::test_fp16_resumes_with_its_scale
- no generators and no position in the data are saved:
    tests/e2e/test_valor.py::test_resumed_it_ends_the_same
- hps.json overrides flags in silence:
    tests/config/test_load.py::test_inherited_keys_win_over_default_files_only
- flags that nothing reads:
    test_every_setting_is_read
- wav becomes mkv anywhere in a path:
    test_folders_may_be_called_as_endings_are
- names of frames are sorted wrongly above 9,999:
    tests/data/media/test_media.py::test_frame_folders_are_read_in_natural_order
- metrics through Java on every rank at once:
    test_metrics_are_computed_by_one_process
- checkpoints are unpickled:
    tests/model/weights/test_weights.py::test_a_malicious_pickle_is_refused_and_not_executed
- checkpoints are not read strictly:
    tests/model/weights/test_weights.py::test_missing_names_are_refused_unless_allowed
- masks are made in double loops of Python:
    test_masks_of_many_texts_take_as_many_calls_as_those_of_few
- generation keeps nothing of the words before:
    tests/model/text/test_generate.py::test_cached_steps_equal_recomputing_everything
- a tensor of texts x clips x tokens x slots:
    test_nothing_is_as_large_as_all_products
- CUDA, NCCL and apex are needed:
    tests/e2e/test_valor.py::test_valor_trains_and_is_tested
- its script for one's own clips: tv asks for sound; 1 slice, 8 frames, 224 pixels:
    test_labelling_reads_what_the_training_read
- images cannot be read:
    test_images_in_files_are_learnt_from
- merge attention ends in an error:
    tests/model/valor/test_valor_merged.py::test_states_and_gradients_are_those_of_one_sequence
- two BERTs end in an error:
    tests/model/valor/test_valor_parts.py::test_two_berts
- learning from a reward fails with beams, and teaches nothing without:
    test_captions_are_learnt_from_a_reward
- questions about one's own clips are not cleaned:
    tests/model/valor/test_valor.py::test_texts_are_cleaned_as_released
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from omnivast.config.fields import LISTS, SECTIONS, section_keys
from omnivast.config.schema import DatasetConfig
from omnivast.config.tasks import CaptionKind, Group, Modality
from omnivast.data.batch import collate
from omnivast.data.dataset import IndexedDataset
from omnivast.data.media.folders import MediaFolder
from omnivast.data.spec import InputSpec
from omnivast.evaluation import label
from omnivast.evaluation.captions import evaluator
from omnivast.evaluation.captions.evaluator import CaptionEvaluator, ScoredCaptions
from omnivast.model.build import build_model
from omnivast.model.interface import Rows
from omnivast.model.objectives.generation import mask_tokens
from omnivast.model.text.bert import attention_mask
from omnivast.model.text.layout import Layout
from omnivast.model.text.plan import plan_texts
from omnivast.model.valor.alignment import Slots, grouped_scores
from omnivast.model.valor.prompts import CAPTION, layout_of
from omnivast.utils import distributed
from omnivast.utils.random import StepRandom
from omnivast.utils.transfer import send
from tests.media_factory import write_image, write_json
from tests.model.tiny import batch, task
from tests.model.valor.test_valor_processes import CONFIG, TASK, valor

ROOT = Path(__file__).parents[3]


def test_every_test_of_the_list_is_there():
    lines = (__doc__ or "").splitlines()
    places = [following.strip() for line, following in zip(lines, lines[1:]) if line.startswith("- ")]
    for place in places:
        file, _, name = place.rpartition("::")
        text = (ROOT / file).read_text() if file else Path(__file__).read_text()
        assert re.search(rf"^ *def {name}\(", text, re.MULTILINE), place
    assert len(places) == 32


def losses(model, own, text=TASK):
    found = model(own, task(text), StepRandom(7, 3, 0, 4))
    found["loss"].backward()
    return found


def test_no_setting_needs_a_pretrained_run():
    """A model is built from its config alone, whatever that leaves out."""
    settings = {name for name, setting in section_keys("model_cfg").items() if "valor" in setting.metadata.get("of", ())}
    bare = type(CONFIG)(**{name: value for name, value in vars(CONFIG).items() if name not in settings})
    assert build_model(bare).alignment.weighted


@pytest.mark.parametrize("changes", [{"fineweight_type": "none"}, {"late_fusion": True}, {"contra_type": "coarse"}])
def test_every_kind_of_weights_trains(changes):
    model = valor(**changes)
    found = losses(model, batch(CONFIG))
    assert all(value.isfinite() for value in found.values()) and {"ret", "cap", "mlm", "qa"} <= found.keys()
    assert model.contra_head_v.linear.weight.grad.abs().sum() > 0 and model.contra_head_t.linear.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("search", ["sample", "beam"])
def test_captions_are_learnt_from_a_reward(search):
    model = valor()
    model.learn_from_reward(lambda corpus, kind, clip_ids, captions: [[float(n) for n, _ in enumerate(own)] for own in captions],
                            candidates=3, search=search, baseline="mean")
    found = losses(model, batch(CONFIG), "cap%tv")
    assert found["cap"].isfinite() and found["cap"] != 0
    assert sum(p.grad.abs().sum() for p in model.multimodal_encoder.parameters() if p.grad is not None) > 0


@torch.no_grad()
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_scores_in_every_precision(precision):
    """Float32 throughout, under autocast, and from vectors that were kept as float16."""
    exact, model, own = valor().eval(), valor().eval(), batch(CONFIG)
    model.precision = precision
    group = Group.parse("tva")

    def rows(of):
        return of.index_texts(own.captions[CaptionKind.OMNI]), of.index_clips(of.encode(own, group.modalities), group)

    wanted = exact.similarity(group, *rows(exact))
    texts, clips = rows(model)
    kept = [Rows({name: x.half() for name, x in part.tensors.items()}) for part in (texts, clips)]
    for found in (model.similarity(group, texts, clips), model.similarity(group, *kept)):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.02)


def without(texts, clip):
    """The texts but for those of one clip."""
    left = texts.clip != clip
    return dataclasses.replace(texts, ids=texts.ids[left], mask=texts.mask[left], clip=texts.clip[left],
                               raw=[text for text, kept in zip(texts.raw, left.tolist()) if kept])


def test_a_clip_without_questions():
    own = batch(CONFIG)
    fewer = dataclasses.replace(own, questions=without(own.questions, 1), answers=without(own.answers, 1))
    assert losses(valor(), fewer, "qa%tva%tv")["qa"].isfinite()
    model = valor().eval()
    answers = model.answer(model.memory(model.encode(own, (Modality.VISION,))), Group.parse("tv"), fewer.questions, beam_size=1)
    assert len(answers) == 3


def test_tasks_without_vision_need_no_frames():
    own = dataclasses.replace(batch(CONFIG), frames=None)
    found = losses(valor(), own, "ret%ta_cap%ta_mlm%ta_qa%ta")
    assert {"ret.ta", "cap.ta", "mlm.ta", "qa.ta"} <= found.keys()
    model = valor().eval()
    features = model.encode(own, (Modality.AUDIO,))
    assert len(model.index_clips(features, Group.parse("ta"))) == 4
    assert len(model.caption(model.memory(features), Group.parse("ta"), beam_size=1, max_length=4)) == 4
    with pytest.raises(ValueError, match="the batch has no frames, but the task needs them"):
        model.encode(own, (Modality.VISION,))


def test_every_setting_is_read():
    """As an attribute or by its name; those that are accepted without effect say so."""
    rooms = ("config", "data", "model", "training", "evaluation", "utils", "omnivast")
    code = "\n".join(path.read_text() for room in rooms for path in (ROOT / room).rglob("*.py"))
    unread = [f"{section}.{name}" for section in (*SECTIONS, "data_cfg") for name, setting in section_keys(section).items()
              if not setting.metadata.keys() & {"obsolete", "older"} and not re.search(rf"[.\"']{name}\b", code)]
    assert unread == []


def test_folders_may_be_called_as_endings_are(tmp_path):
    folder = tmp_path / "audio.wav.mkv" / "wav"
    folder.mkdir(parents=True)
    for name in ("wav_1.wav", "mkv_wav.mkv"):
        (folder / name).touch()
        assert MediaFolder(folder).find(Path(name).stem) == str(folder / name)


def test_metrics_are_computed_by_one_process(monkeypatch):
    """Others take its result, and start nothing."""
    given = ScoredCaptions({"tv": {"cider": 1.0}}, {}, [])
    monkeypatch.setattr(distributed, "computed_once", lambda compute: given)
    monkeypatch.setattr(evaluator, "score_captions", lambda *_: pytest.fail("computed here too"))
    assert CaptionEvaluator(valor().eval(), [Group.parse("tv")], {}, beam_size=1, max_length=4).finish().metrics == given.metrics


class _Largest(TorchDispatchMode):
    """The most elements of any tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


def test_nothing_is_as_large_as_all_products():
    """Nor in the backward pass."""
    texts, clips, tokens, slots, width = 160, 128, 32, 32, 8
    features = [torch.nn.functional.normalize(torch.randn(*shape, width), dim=-1).requires_grad_() for shape in
                ((texts, tokens), (clips, slots // 2), (clips, slots // 2))]
    logits = [torch.randn(x.shape[:2], requires_grad=True) for x in features]
    text, *tracks = (Slots(x, own) for x, own in zip(features, logits))
    with _Largest() as largest:
        sum(scores.sum() for scores in grouped_scores(text, tracks, [(0,), (1,), (0, 1)])).backward()
    assert 0 < largest.elements <= texts * clips * tokens * slots / 4
    assert all(x.grad.isfinite().all() for x in (*features, *logits))


def calls(work):
    """How many functions ``work`` calls, of Python and of C, at its second time."""
    found = []

    def seen(frame, event, called):
        if event in ("call", "c_call"):
            found.append(event)

    work()
    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(before)
    return len(found)


def test_masks_of_many_texts_take_as_many_calls_as_those_of_few():
    """Those of words to be predicted, and of what each token sees."""
    model = valor()

    def masks_of(rows, length):
        ids, draws = torch.full((rows, length), 120), torch.rand(rows, length, 3)

        def work():
            hidden, _ = mask_tokens(ids, model.mask_ids, 0.6, draws)
            behind, _ = layout_of(model.prompts.task(CAPTION, rows), hidden, ids > 0, causal=True)
            plan = plan_texts(Layout.stack([behind, Layout.stepwise(ids, ids > 0, 101, 103)]))
            return attention_mask(*send((plan.visible, plan.reach), torch.device("cpu")))

        assert work().shape[0] == 2 * rows
        return work

    assert calls(masks_of(2, 4)) == calls(masks_of(32, 12)) > 0


def test_images_in_files_are_learnt_from(tmp_path):
    model = valor()
    for number in range(3):
        write_image(tmp_path / "images" / f"{number}.jpg", (50, 40), level=60 * number)
    dataset = DatasetConfig(
        name="pictures", type="valor", ids_path=str(write_json(tmp_path / "ids.json", ["0", "1", "2"])), vision=str(tmp_path / "images"),
        txt=str(write_json(tmp_path / "txt.json", {str(number): f"a red car {number}" for number in range(3)})),
        vision_format="image_rawimage", vision_sample_num=1, task="ret%tv_cap%tv_mlm%tv")
    spec = InputSpec.of(CONFIG, model.audio_frontend, frame_resize=model.frame_resize, one_caption_length=model.one_caption_length)
    read = IndexedDataset(dataset, spec, seed=1, training=True)
    own = collate([read.read(row, row) for row in range(3)], corpus="pictures", tokenizer=model.tokenizer, lengths=read.lengths,
                  task=read.task)
    assert own.frames.shape == (3, 1, 3, 32, 32) and (own.frames[0] != own.frames[1]).any()
    found = losses(model, own, "ret%tv_cap%tv_mlm%tv")
    assert all(value.isfinite() for value in found.values()) and {"ret", "cap", "mlm"} <= found.keys()
    assert model.vision_encoder.visual.patch_embed.proj.weight.grad.abs().sum() > 0


def test_labelling_reads_what_the_training_read(tmp_path):
    trained = [{"name": "a", "task": "ret%tv_cap%tv", "vision_sample_num": 5, "vision_transforms": "crop_flip"},
               {"name": "b", "task": "cap%tva", "vision_sample_num": 6, "audio_sample_num": 3}]
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "hps.json").write_text(json.dumps({"model_cfg": {"model_type": "valor"}, "data_cfg": {"train": trained}}))
    model = label.read_model(tmp_path)
    state = label.State("clips", [], {"seen": {"kind": "video", "task": "cap%tv"}, "both": {"kind": "video", "task": "cap%tva"}})
    config = label.config_of(model, state, tmp_path / "out", 1)
    seen, both = config["data_cfg"][LISTS[1]]
    assert not any("audio" in key for key in seen) and (seen["vision_sample_num"], seen["vision_transforms"]) == (5, "crop_flip")
    assert (both["vision_sample_num"], both["audio_sample_num"]) == (6, 3)
    assert {"vision_resolution", "audio_melbins", "audio_target_length", "model_type"} <= set(config["model_cfg"]["inherit_keys"])
