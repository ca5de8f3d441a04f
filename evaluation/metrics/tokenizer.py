def tokenize(s): return s.lower()
