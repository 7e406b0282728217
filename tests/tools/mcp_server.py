"""A tiny MCP server, written with the official SDK: on stdin and stdout, or as an HTTP app."""

import os
import sys
import time

from mcp.server.mcpserver import MCPServer

server = MCPServer("tiny")


@server.tool()
def add(a: int, b: int = 1) -> int:
    """Adds two
    numbers."""
    print("not for the client", file=sys.stderr)
    return a + b


@server.tool(structured_output=False)
def text(said: str) -> str:
    """Says it again."""
    return said


@server.tool(structured_output=False)
def parts() -> list:
    """Two texts."""
    return ["one", "two"]


@server.tool()
def big() -> str:
    """Says a lot."""
    return "x" * 10_000_000


@server.tool()
def fail() -> str:
    """Fails."""
    raise ValueError("no")


@server.tool()
def die() -> str:
    """Ends the server."""
    print("the last thing that I say", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
def hang() -> str:
    """Holds up the server."""
    time.sleep(600)
    return ""


@server.tool()
async def wait(seconds: float) -> str:
    """Waits without holding up the server."""
    import anyio

    await anyio.sleep(seconds)
    return "waited"


@server.tool()
def pid() -> int:
    """The server's process."""
    return os.getpid()


@server.tool()
def variable(name: str) -> str | None:
    """A variable of its environment."""
    return os.environ.get(name)


if __name__ == "__main__":
    server.run()
