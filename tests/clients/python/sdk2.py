"""The Python SDK 2.x as a client: URL TOKEN TOOL [JSON-ARGUMENTS] [auto|legacy]; prints one line of JSON.

`auto` (the SDK's default) tries the stateless era first, `legacy` makes the handshake.
"""

import asyncio
import json
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client


async def main(url: str, token: str, tool: str, arguments: str = "{}", mode: str = "auto") -> None:
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            tools = await client.list_tools()
            result = await client.call_tool(tool, json.loads(arguments))
            protocol = client.protocol_version
    outcome = {
        "sdk": "python-2",
        "protocol": protocol,
        "tools": [each.name for each in tools.tools],
        "result": result.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    print(json.dumps(outcome))


asyncio.run(main(*sys.argv[1:]))
