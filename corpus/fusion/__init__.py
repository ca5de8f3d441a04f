"""Captions of picture and sound, and what is said, become one caption by a language model, which is checked against them."""
