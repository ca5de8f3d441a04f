"""Chat templates of the families of language models: ids, masks, and what cannot be used."""

from __future__ import annotations

import pickle
import re

import pytest

from omnivast.config.conversation import Conversation, Turn
from omnivast.config.tasks import Modality
from omnivast.model.avllm.template import MEDIA, ChatTemplate, TemplateError
from tests.model.avllm.tokenizers import CHATML, byte_level, sentencepiece, tokenizer_like

FAMILIES = {"chatml": "auto", "llama3": "auto", "llama2": "auto", "llama2_legacy": "auto", "vicuna": "vicuna_v1",
            "vicuna_legacy": "vicuna_v1", "gemma": "auto", "thinking": "auto"}
ENDS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "thinking": "<|im_end|>"}
"""What ends an answer, where it is not </s>."""


def conversation(*texts, system=None, tracks="v"):
    turns = tuple(Turn("assistant" if number % 2 else "user", text) for number, text in enumerate(texts))
    return Conversation(turns, frozenset(map(Modality, tracks)), system)


TALK = conversation("What is it? café", "A dog barks.", "And a cat?", "No, 日本 there is none.", system="Be kind.")


def template_of(family):
    return ChatTemplate(tokenizer_like(family), FAMILIES[family])


def learnt(encoded, tokenizer):
    """The runs of ids that are learnt, decoded."""
    runs, before = [], False
    for number, own in zip(encoded.ids, encoded.supervised):
        if own and not before:
            runs.append([])
        if own:
            runs[-1].append(number)
        before = own
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_and_their_ends_are_learnt_and_nothing_else(family):
    tokenizer, end = tokenizer_like(family), ENDS.get(family, "</s>")
    blank = " " if family.startswith("llama2") else ""  # Llama 2 writes one before its </s>
    encoded = template_of(family).encode(TALK, subtitle="seven")
    expected = [f"A dog barks.{blank}{end}", f"No, 日本 there is none.{blank}{end}"]
    assert [text.lstrip(" ") for text in learnt(encoded, tokenizer)] == expected
    assert len(encoded.ids) == len(encoded.supervised) and encoded.ids.count(MEDIA) == 1


@pytest.mark.parametrize("family", [family for family in FAMILIES if not family.startswith("vicuna")])
def test_ids_decode_to_the_string_of_the_tokenizers_own_template(family):
    """But for SentencePiece's own blank behind <s>."""
    tokenizer = tokenizer_like(family)
    texts = ["What is it?", "A dog barks.", "And a cat?", "There is none."]
    encoded = template_of(family).encode(conversation(*texts))
    messages = [{"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(texts)]
    string = tokenizer.apply_chat_template(messages, tokenize=False, date_string="")
    decoded = tokenizer.decode([number for number in encoded.ids if number != MEDIA])
    assert decoded.replace("<s> ", "<s>") == string


@pytest.mark.parametrize("family", ["chatml", "llama3", "gemma", "thinking", "llama2_legacy"])
def test_ids_are_those_of_the_tokenizers_own_template(family):
    """The legacy Llama 2 alone puts a blank behind each <s>, as Llama 2's own program does."""
    tokenizer = tokenizer_like(family)
    messages = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A dog barks."}]
    own = tokenizer.apply_chat_template(messages, return_dict=False, date_string="")
    assert [number for number in template_of(family).encode(conversation("What is it?", "A dog barks.")).ids if number != MEDIA] == own


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "thinking"])
def test_training_sees_what_is_before_an_answer_as_generation_does(family):
    template = template_of(family)
    encoded = template.encode(TALK, subtitle="seven")
    for answers in (0, 1):
        prompt = template.prompt(TALK.asking(answers), subtitle="seven")
        assert encoded.ids[: len(prompt)] == prompt and encoded.supervised[len(prompt)] and not encoded.supervised[len(prompt) - 1]


def test_a_model_that_thinks_is_asked_not_to():
    template = template_of("thinking")
    prompt, encoded = template.prompt(conversation("One?")), template.encode(conversation("One?", "1"))
    assert template.tokenizer.decode(prompt[-20:]).endswith("<think>\n\n</think>\n\n") and encoded.ids[: len(prompt)] == prompt


def test_media_stand_at_the_first_question():
    template = template_of("chatml")
    before, after = (template.tokenizer.decode(ids) for ids in _around(template.encode(TALK, "seven").ids))
    assert before == "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n" and after.startswith("Subtitle: seven\nWhat is it? café")
    assert MEDIA not in template.encode(conversation("One?", "1", tracks="s"), "seven").ids


def _around(ids):
    place = ids.index(MEDIA)
    return ids[:place], ids[place + 1 :]


def test_vicuna_is_written_as_fastchat_writes_it():
    template = template_of("vicuna")
    ids = [number for number in template.encode(conversation("One?", "1", "Two?", "2")).ids if number != MEDIA]
    system = ("A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
              "answers to the user's questions.")
    assert template.tokenizer.decode(ids).replace("<s> ", "<s>") == f"<s>{system} USER: One? ASSISTANT: 1</s>USER: Two? ASSISTANT: 2</s>"
    tokens = template.tokenizer.convert_ids_to_tokens(template.prompt(conversation("dog", tracks="")))
    assert tokens[0] == "<s>" and tokens[-3:] == ["▁USER:", "▁dog", "▁ASSISTANT:"]


def test_a_blank_before_a_text_is_the_tokenizers_not_one_more():
    """SentencePiece writes one before each text: of pieces it would be at every seam."""
    for family in ("llama2", "llama2_legacy", "vicuna", "vicuna_legacy"):
        template = template_of(family)
        text = template.tokenizer.decode([n for n in template.encode(TALK).ids if n != MEDIA])
        assert "  " not in text and "\n " not in text and "USER: What" in text or "[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nWhat" in text


def test_the_first_word_of_a_text_has_its_blank_also_without_a_token_before_it():
    tokenizer = sentencepiece(None)
    tokenizer.bos_token = None
    template = ChatTemplate(tokenizer, "vicuna_v1")
    tokens = tokenizer.convert_ids_to_tokens(template.prompt(conversation("dog", tracks="", system="dog")))
    assert tokens[:2] == ["▁dog", "▁USER:"]


def test_without_a_role_for_the_system_its_text_stands_before_the_first_question():
    text = template_of("gemma").tokenizer.decode([n for n in template_of("gemma").encode(TALK).ids if n != MEDIA])
    assert text.startswith("<bos><start_of_turn>user\nBe kind.\n\nWhat is it?")


def test_special_tokens_in_a_row_are_letters():
    template = template_of("chatml")
    encoded = template.encode(conversation("One? <|im_end|>", "1<|im_end|>2"))
    plain = template.encode(conversation("One?", "1"))
    assert encoded.ids.count(template.end) == plain.ids.count(template.end) == 3
    assert learnt(encoded, template.tokenizer) == ["1<|im_end|>2<|im_end|>"]


def test_plain_is_the_answer_behind_the_media():
    template = ChatTemplate(tokenizer_like("vicuna"), "plain")
    encoded = template.encode(conversation("Describe it.", "A dog barks."))
    assert template.tokenizer.convert_ids_to_tokens(encoded.ids[:1]) == ["<s>"] and encoded.ids[1] == MEDIA
    assert learnt(encoded, template.tokenizer) == ["A dog barks.</s>"] and template.prompt(conversation("Describe it.")) == encoded.ids[:2]
    with pytest.raises(TemplateError, match=r"^chat.json: row 3: model_cfg.llm_template plain writes one answer.*4 turns"):
        template.encode(TALK, where="chat.json: row 3")


def test_a_copy_in_a_worker_writes_the_same():
    template = template_of("llama2")
    assert pickle.loads(pickle.dumps(template)).encode(TALK) == template.encode(TALK)


def test_the_day_of_a_template_is_always_the_same():
    """Llama 3's templates write today's date: a training that goes on tomorrow would see other prompts."""
    template = tokenizer_like("llama3").chat_template
    dated = byte_level("{{ date_string }}" + template, ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
                       "<|begin_of_text|>", "<|eot_id|>")
    assert dated.decode(ChatTemplate(dated).prompt(conversation("One?", tracks=""))).startswith("26 Jul 2024")


# ------------------------------------------------------------------------------------------------------------------ bad input


def chatml_with(template):
    return byte_level(template, ["<|im_start|>", "<|im_end|>"], "<|im_start|>", "<|im_end|>")


@pytest.mark.parametrize("template, message", [
    (None, "the tokenizer has no chat_template; set model_cfg.llm_template to vicuna_v1 (for LLMs of that family) or plain"),
    (CHATML.split("{% if add_generation_prompt %}")[0], "its chat template has no generation prompt: behind a question it writes"),
    (CHATML.replace("<|im_end|>", ""), "its chat template has no end of an answer: behind one it writes '\\n'; expected a special "
                                       "token, such as "
                                       "<|im_end|>"),
    (CHATML.replace("message['content']", "'hello'"), "its chat template does not write each text once, in order"),
    ("{% for message in messages %}{{ message.contents.text }}{% endfor %}", "its chat template fails: "),
    (CHATML.replace("message['content'] +", "message['content'] | upper +"), "the ids do not decode to what the chat template writes"),
], ids=["none", "no generation prompt", "no end", "no texts", "fails", "changes texts"])
def test_a_template_that_cannot_be_used_says_why(template, message):
    with pytest.raises(TemplateError, match=re.escape(message)):
        ChatTemplate(chatml_with(template))


def test_a_tokenizer_without_an_end():
    tokenizer = sentencepiece(None)
    tokenizer.eos_token = None
    with pytest.raises(TemplateError, match="has no eos_token, by which an answer ends"):
        ChatTemplate(tokenizer, "plain")


def test_a_conversation_without_answer_and_a_prompt_with_one():
    template = template_of("chatml")
    with pytest.raises(TemplateError, match=r"^chat.json: row 3: nothing to learn: the conversation has no answer"):
        template.encode(conversation("One?"), where="chat.json: row 3")
    with pytest.raises(TemplateError, match="a prompt ends with a question"):
        template.prompt(conversation("One?", "1"))


def test_letters_that_the_tokenizer_does_not_know_are_let_through():
    template = ChatTemplate(sentencepiece(None, all_letters=False), "vicuna_v1")
    encoded = template.encode(conversation("Is it 日本?", "A dog barks."))
    assert template.tokenizer.unk_token_id in encoded.ids and learnt(encoded, template.tokenizer) == ["A dog barks.</s>"]
