"""A Whisper of random weights, small enough to be made by a test, in a folder as transformers writes it."""

from __future__ import annotations

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizerFast,
)


def make_whisper(folder):
    """The folder."""
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    marks = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>",
             "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    times = [f"<|{step / 50:.2f}|>" for step in range(1501)]
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    tokenizer.add_tokens([AddedToken(time) for time in times])
    fast = WhisperTokenizerFast(tokenizer_object=tokenizer, eos_token=marks[0], bos_token=marks[0], unk_token=marks[0],
                                pad_token=marks[0])
    ids = {mark: fast.convert_tokens_to_ids(mark) for mark in (*marks, times[0])}
    extractor = WhisperFeatureExtractor(feature_size=8, sampling_rate=16000, hop_length=160, chunk_length=30, n_fft=400)
    WhisperProcessor(extractor, fast).save_pretrained(folder)
    special = {"decoder_start_token_id": ids[marks[1]], "eos_token_id": ids[marks[0]], "pad_token_id": ids[marks[0]],
               "bos_token_id": ids[marks[0]]}
    config = WhisperConfig(vocab_size=len(fast), num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                           decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_source_positions=1500,
                           max_target_positions=64, **special)
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        **special, lang_to_id={"<|en|>": ids["<|en|>"], "<|de|>": ids["<|de|>"]}, is_multilingual=True,
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]}, no_timestamps_token_id=ids["<|notimestamps|>"],
        max_initial_timestamp_index=50, max_length=24, suppress_tokens=[], begin_suppress_tokens=[ids[marks[0]]],
        prev_sot_token_id=ids["<|startofprev|>"])
    model.save_pretrained(folder)
    return folder
