"""The Python SDK 2.x as a stateless client that is asked back: URL TOOL..., prints each tool's text as a JSON list."""

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
    async with Client(url, elicitation_callback=elicit) as client:
        for tool in tools:
            result = await client.call_tool(tool, {})
            texts.append(result.content[0].text)
    print(json.dumps(texts))


asyncio.run(main(*sys.argv[1:]))
