"""The Python SDK 1.x as a client: URL TOKEN TOOL [JSON-ARGUMENTS]; prints one line of JSON."""

import asyncio
import json
import sys

import httpx
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client


async def main(url: str, token: str, tool: str, arguments: str = "{}") -> None:
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(headers=headers, timeout=60) as http:
        async with streamable_http_client(url, http_client=http) as (reader, writer, _):
            async with ClientSession(reader, writer) as session:
                greeting = await session.initialize()
                tools = await session.list_tools()
                result = await session.call_tool(tool, json.loads(arguments))
    outcome = {
        "sdk": "python-1",
        "protocol": greeting.protocolVersion,
        "tools": [each.name for each in tools.tools],
        "result": result.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    print(json.dumps(outcome))


asyncio.run(main(*sys.argv[1:]))
