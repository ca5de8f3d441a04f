"""Small tokenizers as those of the families of language models, with their chat templates, trained on a few sentences."""

from __future__ import annotations

from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = ["What is it? A dog barks in the yard, and a cat sleeps.", "Is there a red square? Yes, there is. No, there is none.",
             "system user assistant human model USER: ASSISTANT: INST SYS", "A chat between a curious user and an artificial assistant.",
             "Subtitle: the number is seven. I cannot tell from what is given. Describe the clip."]

CHATML = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe "
          "kind.<|im_end|>\\n' }}"
          "{% endif %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
LLAMA_3 = ("{% if not date_string is defined %}{{ raise_exception('the date of the day') }}{% endif %}{% for message in messages %}{{ "
           "(bos_token if loop.first else '') + '<|start_header_id|>' + message['role'] + "
           "'<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
           "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}")
LLAMA_2 = ("{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
           "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{% for message in messages %}"
           "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'].strip() + "
           "' [/INST]' }}"
           "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}")
GEMMA = ("{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
         "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must "
         "alternate') }}"
         "{% endif %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\\n' + message['content'] | trim + "
         "'<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}")
THINKING = CHATML.replace("message['role'] + '\\n' +", "message['role'] + '\\n' + ('<think>\\n\\n</think>\\n\\n' if loop.last and "
                          "message['role'] == 'assistant' else '') +"
                          ).replace("assistant\\n' }}{% endif %}", "assistant\\n' }}{% if enable_thinking is defined and not "
                                                                   "enable_thinking %}"
                                    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}")
"""As Qwen 3 writes what it did not think."""


def byte_level(template, special, bos=None, eos=None):
    """As GPT-2, Llama 3, Qwen and SmolLM2: bytes; no blank is put anywhere."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return _wrapped(tokenizer, template, bos, eos)


def sentencepiece(template, more=(), legacy=False, bos="<s>", eos="</s>", prefix=True, all_letters=True):
    """As Llama 2, Vicuna and, without ``prefix``, Gemma: blanks are ▁, one is put before a text, unknown letters are bytes or, without
    ``all_letters``, <unk>. ``legacy``: a blank is also put behind each special token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=all_letters, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    special = ["<unk>", bos, eos, *more]
    letters = [f"<0x{number:02X}>" for number in range(256)] if all_letters else []
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=[*special, *letters], show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.pre_tokenizer = None if legacy or not prefix else pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    replaced = normalizers.Replace(" ", "▁")
    if legacy or not prefix:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replaced]) if prefix else replaced
    end = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *end])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])
    return _wrapped(tokenizer, template, bos, eos, unk="<unk>", more=more)


def _wrapped(tokenizer, template, bos, eos, unk=None, more=()):
    if more:
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in more])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, unk_token=unk,
                                      clean_up_tokenization_spaces=False)
    wrapped.chat_template = template
    return wrapped


@cache
def tokenizer_like(family):
    """``chatml``, ``llama3``, ``llama2``, ``llama2_legacy``, ``gemma``, ``thinking``; ``vicuna``, ``vicuna_legacy``: without template."""
    if family in ("chatml", "thinking"):
        return byte_level(CHATML if family == "chatml" else THINKING, ["<|im_start|>", "<|im_end|>"], "<|im_start|>", "<|im_end|>")
    if family == "llama3":
        names = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
        return byte_level(LLAMA_3, names, names[0], names[3])
    if family == "gemma":
        return sentencepiece(GEMMA, ("<start_of_turn>", "<end_of_turn>"), bos="<bos>", eos="<eos>", prefix=False)
    return sentencepiece(LLAMA_2 if family.startswith("llama2") else None, legacy=family.endswith("legacy"))
