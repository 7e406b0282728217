"""XLA compilations: counted, so that a loop that should not compile can prove it, and kept.

What one start compiled the next one reads (`keep`). jax's own variables go before ours:
JAX_COMPILATION_CACHE_DIR names another folder (a bucket too, for many hosts),
JAX_COMPILATION_CACHE_MAX_SIZE bounds it, JAX_ENABLE_COMPILATION_CACHE=false keeps nothing.
"""

import hashlib
import os
import platform
import sys
from pathlib import Path

import jax

EVENT = "/jax/core/compile/backend_compile_duration"
SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


class Counter:
    """Compilations and their seconds since this counter was made, process-wide.

    What is read from where programs are kept counts too: the loop has waited for it.
    """

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **_: object) -> None:
        if event == EVENT:
            self.count += 1
            self.seconds += duration_secs


def keep() -> None:
    """From here on what is compiled is kept, in the user's cache folder where nothing else is said.

    A folder that cannot be written is told on stderr, and nothing is kept.
    """
    if not jax.config.values["jax_enable_compilation_cache"]:
        return
    if jax.config.values["jax_compilation_cache_dir"] is None:
        try:
            place = folder()
            place.mkdir(parents=True, exist_ok=True)
            if not os.access(place, os.W_OK | os.X_OK):
                raise PermissionError(f"{place} cannot be written")
        except (OSError, RuntimeError) as error:  # the second: no home is known
            print(f"compiled programs are not kept: {error}", file=sys.stderr)
            return
        jax.config.update("jax_compilation_cache_dir", str(place))
    if SECONDS not in os.environ:
        # jax keeps what took a second or more; a start has dozens of shorter ones.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def folder() -> Path:
    """Where programs are kept by default: one folder for each kind of processor.

    jax tells versions and accelerators apart, but not processors, and one's machine code is
    not another's.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    kind = hashlib.sha256(processor().encode()).hexdigest()[:12]
    return Path(caches) / "torl_jax" / "programs" / kind


def processor() -> str:
    """What tells this processor's machine code from another's: its name and its features."""
    words = [platform.machine(), platform.processor()]
    facts = Path("/proc/cpuinfo")
    if facts.exists():  # of the first processor; the lines of both names, x86's and Arm's
        first = facts.read_text("utf-8").split("\n\n", 1)[0].splitlines()
        names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
        words += [line for line in first if line.startswith(names)]
    return "\n".join(words)
