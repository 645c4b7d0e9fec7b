"""The Python SDK 1.x as a client: URL TOKEN TOOL [JSON-ARGUMENTS] [sse]; prints one line of JSON.

`sse` is HTTP+SSE, the transport of revision 2024-11-05, with a client that answers elicitations.
"""

import asyncio
import json
import sys
from contextlib import asynccontextmanager

import httpx
from mcp import ClientSession, types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client


async def elicit(_context, _params):
    return types.ElicitResult(action="accept", content={"username": "Ada", "email": "ada@example.com"})


@asynccontextmanager
async def connected(url, headers, mode):
    if mode == "sse":
        async with sse_client(url, headers=headers) as (reader, writer):
            async with ClientSession(reader, writer, elicitation_callback=elicit) as session:
                yield session, await session.initialize()
        return
    async with httpx.AsyncClient(headers=headers, timeout=60) as http:
        async with streamable_http_client(url, http_client=http) as (reader, writer, _):
            async with ClientSession(reader, writer) as session:
                yield session, await session.initialize()


async def main(url: str, token: str, tool: str, arguments: str = "{}", mode: str = "") -> None:
    headers = {"Authorization": f"Bearer {token}"}
    progress = []

    async def on_progress(done, _total, _message):
        progress.append(done)

    if mode == "sse":
        # A client that comes back finds a session of its own again.
        async with connected(url, headers, mode) as (session, _):
            await session.list_tools()
    async with connected(url, headers, mode) as (session, greeting):
        tools = await session.list_tools()
        result = await session.call_tool(tool, json.loads(arguments), progress_callback=on_progress)
    outcome = {
        "sdk": "python-1",
        "protocol": greeting.protocolVersion,
        "tools": [each.name for each in tools.tools],
        "result": result.model_dump(mode="json", by_alias=True, exclude_none=True),
        "progress": progress,
    }
    print(json.dumps(outcome))


asyncio.run(main(*sys.argv[1:]))
