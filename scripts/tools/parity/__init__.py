"""``omnivast parity``: does a model, or its data side, compute what a public release computed?"""
