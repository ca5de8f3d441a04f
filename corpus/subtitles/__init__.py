"""What is said in a source, and when: from a file beside it, from a track inside it, or by recognising its speech."""
