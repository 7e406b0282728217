"""`python -m torl_jax.serve` as a process of a test's own, on a free port, and how it is asked."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import openai

ROOT = Path(__file__).resolve().parents[2]
MODEL = "tiny"
TINY = (
    "--checkpoint=assets/tiny-base",
    "--config=configs/quickstart.py",
    "--slots=4",
    "--segment=2",
)
NAMED = (*TINY, f"--name={MODEL}")
# Runs the command after a change to what a test cannot wait for, or to make it fail.
CHANGED = """
import runpy, sys
exec(sys.argv.pop(1))
runpy.run_module("torl_jax.serve", run_name="__main__", alter_sys=True)
"""


class Server:
    """One server; a context manager that ends it."""

    def __init__(self, *flags: str, token: str = "", change: str = "", cache: str = "") -> None:
        command = ["-c", CHANGED, change] if change else ["-m", "torl_jax.serve"]
        environment = os.environ | {"XLA_FLAGS": "", "TORL_SERVE_TOKEN": token}
        if cache:
            environment |= {
                "JAX_COMPILATION_CACHE_DIR": cache,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            }
        self.process = subprocess.Popen(
            [sys.executable, *command, "--port=0", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        self.url = self.line.removeprefix("serve: ").partition(",")[0]
        if not self.url:
            raise RuntimeError(self.process.communicate()[1])
        self.token = token

    def client(self, **more: Any) -> openai.OpenAI:
        more = {"api_key": self.token or "none", "max_retries": 0, "timeout": 120} | more
        return openai.OpenAI(base_url=self.url, **more)

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.url.removesuffix("/v1") + path, timeout=60, trust_env=False)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit code and stderr."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def ask(client, question="What is 347*28+91?", **more):
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(model=MODEL, messages=messages, **more)


def plain(client, prompt="User: What is 12+25?\nAssistant:\n", **more):
    return client.completions.create(model=MODEL, prompt=prompt, **more)


def streamed(stream):
    """Texts, finish reasons and stop strings by choice, and the usage if it came."""
    texts, reasons, usage = {}, {}, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert choice.index not in reasons
            said = choice.delta.content if hasattr(choice, "delta") else choice.text
            texts.setdefault(choice.index, []).extend([said] if said else [])
            if choice.finish_reason:
                reasons[choice.index] = (choice.finish_reason, choice.stop_reason)
    return texts, reasons, usage
