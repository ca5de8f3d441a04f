"""Instruction data from captions: conversations, detailed descriptions and reasoning, written by a language model and checked."""
