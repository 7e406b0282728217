"""Counts XLA compilations, so that a loop that should not compile can prove it."""

import jax

EVENT = "/jax/core/compile/backend_compile_duration"


class Counter:
    """Compilations and their seconds since this counter was made, process-wide."""

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: object) -> None:
        if event == EVENT:
            self.count += 1
            self.seconds += duration_secs
