"""A conversation as OpenAI's API writes it: two calls at once, an answer, one more call."""

from typing import Any

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"The {name} of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("weather", "time")
]


def said(content: Any, role: str = "assistant", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def calls(*asked: tuple[str, Any]) -> list[dict[str, Any]]:
    return [
        {"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": given}}
        for n, (name, given) in enumerate(asked)
    ]


OSLO = '{"city": "Oslo"}'
TRIP: dict[str, Any] = {
    "tools": TOOLS,
    "messages": [
        said("Be brief.", "system"),
        said("Weather and time in Oslo?", "user"),
        said(None, tool_calls=calls(("weather", OSLO), ("time", OSLO)), reasoning_content="Both."),
        said('{"sky": "clear"}', "tool", tool_call_id="c0"),
        said("noon", "tool", tool_call_id="c1"),
        said("Clear, at noon."),
        said("And in Rome?", "user"),
        said("I look.", tool_calls=calls(("weather", {"city": "Rome"}))),
    ],
}
