"""The model: what enters the language model, what it learns from, and what it answers."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from omnivast.config.conversation import asking
from omnivast.config.tasks import Group, Modality, Task
from omnivast.data.batch import make_texts
from omnivast.model.avllm.layout import lay_out, passes
from omnivast.model.avllm.model import AudioVisualLLM
from omnivast.model.avllm.template import MEDIA
from omnivast.model.interface import ModelError
from omnivast.utils.random import StepRandom
from tests.model.avllm.tiny import SAID, avllm, batch, make_llm
from tests.processes import assert_same_step, mean_over_processes, together

CHAT = Task.parse("chat%tva")


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return make_llm(tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="module")
def model(llm):
    return avllm(llm).eval()


def loss_of(model: AudioVisualLLM, own) -> torch.Tensor:
    return model(own, CHAT, StepRandom(0, 0, 0, 4))["loss"]


def inputs_of(model, own, row):
    """The input of the language model for one conversation, put together by hand."""
    features = model.encode(own, CHAT.modalities)
    project, ends = model.projectors.project, model.projectors.boundaries
    ids = own.chats.ids[row]
    modalities = own.chats.conversations[row].modalities
    place = ids.index(MEDIA) if MEDIA in ids else len(ids)
    words = model.llm.get_input_embeddings()
    parts = [words(torch.tensor(ids[:place], dtype=torch.int64))]
    for part, modality in (("temporal", Modality.VISION), ("spatial", Modality.VISION), ("auditory", Modality.AUDIO)):
        if modality in modalities:
            found = features.parts[part][row]
            found = (found - found.mean(-1, keepdim=True)) / (found.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
            parts += [ends[part][:1], project[part](found), ends[part][1:]]
    return torch.cat([*parts, words(torch.tensor(ids[place + 1 :], dtype=torch.int64))])


def test_what_towers_find_is_pooled_as_in_the_paper(model):
    own = batch(model)
    features = model.encode(own, CHAT.modalities)
    tokens = model.vision_tokens(own.frames[:1])
    assert torch.allclose(features.parts["temporal"][0], tokens[0].mean(1))  # this tower has no [CLS]
    assert torch.allclose(features.parts["spatial"][0], tokens[0].mean(0))
    assert features.parts["temporal"].shape[1:] == (2, 16) and features.parts["spatial"].shape[1:] == (4, 16)
    assert features.parts["auditory"].shape[1:] == (2, 16)
    assert not features.parts["auditory"][0].any() and not features.has(Modality.AUDIO, 0)


@torch.no_grad()
def test_the_input_is_what_one_puts_together_by_hand(model, monkeypatch):
    own, seen = batch(model), []
    monkeypatch.setattr(model, "_logits", lambda inputs, places: seen.append((inputs, places)) or torch.zeros(int(places.sum()), 400))
    loss_of(model, own)
    rows = {}
    for together_, (inputs, places) in zip(passes([len(inputs_of(model, own, row)) for row in range(4)]), seen, strict=True):
        rows |= {row: (inputs[place], places[place]) for place, row in enumerate(together_)}
    for row in range(4):
        wanted, learnt = inputs_of(model, own, row), []
        for number, is_learnt in zip(own.chats.ids[row], own.chats.supervised[row]):
            learnt += [False] * (len(wanted) - len(own.chats.ids[row]) + 1) if number == MEDIA else [is_learnt]
        assert torch.allclose(rows[row][0][: len(wanted)], wanted, atol=1e-6)
        assert rows[row][1].tolist() == [*learnt[1:], *[False] * (len(rows[row][1]) - len(learnt) + 1)]


@torch.no_grad()
def test_without_media_it_is_the_language_model(model):
    own = batch(model, rows=[3])
    ids, learnt = torch.tensor(own.chats.ids), torch.tensor(own.chats.supervised)
    assert MEDIA not in own.chats.ids[0]
    logits = model.llm(ids).logits
    wanted = F.cross_entropy(logits[:, :-1][learnt[:, 1:]], ids[:, 1:][learnt[:, 1:]])
    assert loss_of(model, own) == pytest.approx(float(wanted), rel=1e-5)


@torch.no_grad()
def test_each_conversation_alone_loses_what_it_does_among_others(model):
    whole = batch(model)
    each = [batch(model, rows=[row]) for row in range(4)]
    summed = sum(float(loss_of(model, one)) * one.chats.learnt for one in each)
    assert float(loss_of(model, whole)) * whole.chats.learnt == pytest.approx(summed, rel=1e-5)
    model.in_step = True  # all in one pass, whatever their lengths
    try:
        assert float(loss_of(model, whole)) * whole.chats.learnt == pytest.approx(summed, rel=1e-5)
    finally:
        model.in_step = False


@pytest.mark.parametrize("rows, silent", [([2], ("temporal", "spatial")), ([0], ("auditory",)), ([3], ("temporal", "spatial", "auditory"))])
def test_the_projector_of_a_track_that_is_not_given_has_a_gradient_of_zeros(llm, rows, silent):
    model = avllm(llm).train()
    loss_of(model, batch(model, rows=rows)).backward()
    for name, parameter in model.projectors.named_parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.any()) != any(part in name for part in silent), name


def test_only_what_is_to_be_trained_is(llm):
    trained = {}
    for tune in ("projectors", "lora", "full"):
        model = avllm(llm, llm_tune=tune).train()
        loss_of(model, batch(model)).backward()
        trained[tune] = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert trained[tune] == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert not any(name.startswith(("vision_encoder", "audio_encoder")) for name in trained[tune])
        assert not (model.vision_encoder.training or model.audio_encoder.training)
    assert {name.split(".")[0] for name in trained["projectors"]} == {"projectors"}
    assert all("lora_" in name or name.startswith("projectors.") for name in trained["lora"]) and "llm.lm_head.weight" in trained["full"]


def test_checkpointing_computes_the_same(llm):
    gradients = []
    for on in (False, True):
        model = avllm(llm, llm_tune="projectors", checkpointing=on).train()
        loss_of(model, batch(model)).backward()
        gradients.append([parameter.grad for parameter in model.projectors.parameters()])
        assert not model.llm.training and all(layer.training for layer in model.llm.model.layers)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*gradients))


def test_the_layer_before_the_last(llm):
    cfg = {"vision_encoder_cfg": {"width": 16, "depth": 2, "heads": 2, "stride": 8, "stem_width": 8, "stem_norm": "group"}}
    model = avllm(llm, llm_vision_layer=-2, **cfg).eval()
    frames, kept = batch(model).frames[:1], []
    model.vision_encoder.body.blocks[0].register_forward_hook(lambda block, given, output: kept.append(output))
    features = model.encode(batch(model), (Modality.VISION,))
    assert torch.allclose(features.parts["spatial"][0], kept[0][:2].mean(0)) and len(frames[0]) == 2
    with pytest.raises(ModelError, match="has no layer before its last; set it to -1"):
        avllm(llm, llm_vision_layer=-2)


# ------------------------------------------------------------------------------------------------------------------- answers


def recomputed(model, inputs, longest):
    """A greedy answer behind a prompt's input, everything computed anew for each word."""
    ids = []
    for _ in range(longest):
        word = int(model.llm(inputs_embeds=inputs[None], use_cache=False).logits[0, -1].argmax())
        if word == model.tokenizer.template.end:
            break
        ids.append(word)
        inputs = torch.cat([inputs, model.llm.get_input_embeddings()(torch.tensor([word]))])
    return model.tokenizer.decode(ids)


@torch.no_grad()
def test_answers_are_those_of_recomputing_every_word(model):
    """Of prompts of unequal lengths, searched together."""
    own = batch(model)
    features = model.encode(own, CHAT.modalities)
    questions = ["What is it?", "Is there a red square? Yes, or no?"]
    conversations = [asking(question, conversation.modalities) for question in questions for conversation in own.chats.conversations]
    clips = [*range(4), *range(4)]
    found = model.reply(features, conversations, clips, beam_size=1, max_length=6)
    for conversation, clip, answer in zip(conversations, clips, found, strict=True):
        prompt = dataclasses.replace(own, chats=dataclasses.replace(own.chats, ids=[[]] * 4, conversations=[conversation] * 4))
        prompt.chats.ids[clip] = model.tokenizer.template.prompt(conversation)
        assert answer == recomputed(model, inputs_of(model, prompt, clip), 6)
    assert len(set(found)) > 2


@torch.no_grad()
def test_beams_and_draws_do_not_depend_on_what_is_searched_beside(model):
    own, group = batch(model, said=[SAID[1]] * 4), Group.parse("tva")
    features = model.encode(own, CHAT.modalities)
    draws = torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(1))
    beams = model.best_captions(features, group, beam_size=2, max_length=5)
    drawn = model.sample_captions(features, group, draws=draws)
    assert [len(texts) for texts in beams] == [2] * 4 and [len(texts) for texts in drawn] == [3] * 4
    for clip in range(4):
        alone = features.rows(torch.tensor([clip]))
        assert model.best_captions(alone, group, beam_size=2, max_length=5) == [beams[clip]]
        assert model.sample_captions(alone, group, draws=draws[clip : clip + 1]) == [drawn[clip]]
    assert len({text for texts in drawn for text in texts}) > 4
    assert model.caption(features, group, beam_size=2, max_length=5) == [texts[0] for texts in beams]


@torch.no_grad()
def test_scores_are_the_loss_of_the_answer(model):
    own = batch(model)
    features = model.encode(own, CHAT.modalities)
    scores = model.reply_scores(features, own.chats.conversations, own.chats.clip.tolist())
    losses = [float(loss_of(model, batch(model, rows=[row]))) * sum(own.chats.supervised[row]) for row in range(4)]
    assert [scores[row] for row in (0, 2, 3)] == pytest.approx([-losses[row] for row in (0, 2, 3)], rel=1e-5)
    first = own.chats.conversations[1].asking(0)
    answered = dataclasses.replace(first, turns=own.chats.conversations[1].turns[:2])
    before = model.reply_scores(features, [answered], [1])[0]
    assert before + scores[1] == pytest.approx(-losses[1], rel=1e-5)  # of two answers, what each adds


@torch.no_grad()
def test_questions_are_answered_by_clip(model):
    own, group = batch(model), Group.parse("ta")
    features = model.encode(own, CHAT.modalities)
    asked = ["What is it?", "Is there a cat?", "What is it?"]
    questions = dataclasses.replace(make_texts([asked], model.tokenizer, 20), clip=torch.tensor([2, 2, 1]))
    wanted = model.reply(features, [asking(text, group) for text in asked], [2, 2, 1], beam_size=2, max_length=8)
    assert model.answer(features, group, questions, beam_size=2) == wanted and len(set(wanted)) > 1


# --------------------------------------------------------------------------------------------------------------- checkpoints


def test_a_frozen_language_model_is_left_out_of_checkpoints_which_say_which_it_was(llm, tmp_path):
    model = avllm(llm)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not any(name.startswith("llm.") for name in state) and "llm_mark.mark" in state
    other = avllm(llm, seed=1)
    other.load_state_dict(state)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in state.items())
    with pytest.raises(ModelError, match="trained with another language model than model_cfg.llm"):
        avllm(make_llm(tmp_path, seed=1)).load_state_dict(state)
    lora = avllm(llm, llm_tune="lora").state_dict()
    assert {name.rpartition("lora_")[2][0] for name in lora if name.startswith("llm.")} == {"A", "B"}
    assert any(name == "llm.lm_head.weight" for name in avllm(llm, llm_tune="full").state_dict())


# -------------------------------------------------------------------------------------------------------------- kept features


@torch.no_grad()
def test_kept_features_stand_for_frames_and_sound(model):
    own = batch(model)
    features = model.encode(own, CHAT.modalities)
    kept = dataclasses.replace(own, frames=None, spectrograms=None, features={name: x.half() for name, x in features.parts.items()})
    assert float(loss_of(model, kept)) == pytest.approx(float(loss_of(model, own)), rel=1e-3)
    found = model.tower_features(own, Modality.AUDIO)
    assert found.keys() == {"auditory"} and torch.allclose(found["auditory"][1:3], features.parts["auditory"][1:3], atol=1e-6)


def test_the_key_of_kept_features_names_weights_and_settings(llm, model):
    keys = model.tower_keys()
    assert avllm(llm).eval().tower_keys() == keys and avllm(llm, seed=1).tower_keys() != keys
    other = avllm(llm, llm_audio_pool="none").tower_keys()
    assert other[Modality.VISION] == keys[Modality.VISION] and other[Modality.AUDIO] != keys[Modality.AUDIO]


# -------------------------------------------------------------------------------------------------------------------- layout


def test_places_for_media_are_counted():
    with pytest.raises(ValueError, match="conversation 0 has 0 places for its media .auditory.; expected one"):
        lay_out([[1, 2]], [{"auditory": 3}])
    with pytest.raises(ValueError, match="conversation 1 has 2 places"):
        lay_out([[1], [MEDIA, 1, MEDIA]], [{}, {"auditory": 3}])
    assert lay_out([[1, MEDIA, 2], [5]], [{}, {}], left=True).ids.tolist() == [[1, 2], [0, 5]]


def test_conversations_of_like_lengths_pass_together():
    assert passes([10, 100, 95, 11, 50]) == [[1, 2], [4], [3, 0]] and passes([]) == []


def test_long_conversations_are_an_error_or_cut(llm):
    model = avllm(llm, llm_context=40)
    with pytest.raises(ValueError, match=r"the conversation has 69 tokens, 14 of them of its media, but the language model reads 40"):
        batch(model, rows=[1])
    with pytest.raises(ValueError, match="no answer left to learn"):
        batch(avllm(llm, llm_context=8, llm_cut_long_rows=True), rows=[1])
    model = avllm(llm, llm_context=60, llm_cut_long_rows=True)
    [cut], [whole] = batch(model, rows=[1]).chats.ids, batch(avllm(llm), rows=[1]).chats.ids
    assert len(cut) - 1 + 14 == 60 and cut == whole[: len(cut)]


# ----------------------------------------------------------------------------------------------------------------- processes


def step(llm, rank=0, processes=1):
    share = 4 // processes
    model = avllm(llm, llm_tune="lora").train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    own, whole = batch(model, rows=range(rank * share, (rank + 1) * share)), batch(model)
    loss = loss_of(model, own) * (model.loss_weight(own) * processes / model.loss_weight(whole))
    loss.backward()
    return {"loss": loss.detach()}, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def work(rank, llm):
    result = step(llm, rank, 2)
    mean_over_processes(result)
    return result


def test_two_processes_equal_one(llm):
    """The first has no sound in half of its conversations, the second no sight in any."""
    assert_same_step(together(work, 2, llm)[0], step(llm))
