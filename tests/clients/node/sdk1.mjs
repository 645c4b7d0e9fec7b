// The TypeScript SDK 1.x as a client: URL TOKEN TOOL [JSON-ARGUMENTS] [sse]. Speaks the eras with a handshake; `sse`
// is HTTP+SSE, the transport of revision 2024-11-05, with a client that answers elicitations.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { ElicitRequestSchema } from "@modelcontextprotocol/sdk/types.js";

import { report } from "./outcome.mjs";

const info = { name: "minimcp-test", version: "1" };

async function overSse(url, requestInit) {
  const client = new Client(info, { capabilities: { elicitation: {} } });
  client.setRequestHandler(ElicitRequestSchema, () => ({
    action: "accept",
    content: { username: "Ada", email: "ada@example.com" },
  }));
  const transport = new SSEClientTransport(url, { requestInit });
  const progress = [];
  await client.connect(transport);
  const version = transport._protocolVersion;
  const call = (request) =>
    client.callTool(request, undefined, { onprogress: (each) => progress.push(each.progress) });
  return { client, protocol: () => version, call, progress };
}

await report("typescript-1", async (url, requestInit, mode) => {
  if (mode === "sse") {
    // A client that comes back finds a session of its own again.
    const first = await overSse(url, requestInit);
    await first.client.listTools();
    await first.client.close();
    return overSse(url, requestInit);
  }
  const client = new Client(info);
  const transport = new StreamableHTTPClientTransport(url, { requestInit });
  await client.connect(transport);
  return { client, protocol: () => transport.protocolVersion };
});
