"""Who listens to a batch in tests, and waits."""

import threading

from torl_jax.serving.batch import Broken, Done, Piece

WAIT = 120  # seconds that nothing here takes


class Heard:
    """What a request is told."""

    def __init__(self, choices=1):
        self.texts = [""] * choices
        self.done = {}
        self.broken = None
        self.pieces = 0
        self.over = threading.Event()

    def __call__(self, event):
        match event:
            case Piece(index, text):
                assert index not in self.done
                self.texts[index] += text
                self.pieces += 1
            case Done():
                self.done[event.index] = event
            case Broken():
                self.broken = event
        if self.broken or len(self.done) == len(self.texts):
            self.over.set()

    def wait(self):
        assert self.over.wait(WAIT)
        return self
