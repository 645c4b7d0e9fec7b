"""The Python SDK 2.x as a client that is asked back: URL [legacy|auto] TOOL..., prints each tool's text as a JSON list.

`auto` (the SDK's default) tries the stateless era first, `legacy` makes the handshake.
"""

import asyncio
import json
import sys

from mcp import types
from mcp.client import Client


async def elicit(_context, params):
    wanted = next(iter(params.requested_schema["properties"]))
    return types.ElicitResult(action="accept", content={wanted: "Ada"})


async def main(url, *tools):
    texts = []
    mode, tools = (tools[0], tools[1:]) if tools[0] in ("auto", "legacy") else ("auto", tools)
    async with Client(url, mode=mode, elicitation_callback=elicit) as client:
        for tool in tools:
            result = await client.call_tool(tool, {})
            texts.append(result.content[0].text)
    print(json.dumps(texts))


asyncio.run(main(*sys.argv[1:]))
