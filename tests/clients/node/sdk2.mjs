// The TypeScript SDK 2.x as a client: URL TOKEN TOOL [JSON-ARGUMENTS] [legacy|auto]. `auto` tries the stateless
// era first, `legacy` (the SDK's default) makes the handshake.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

import { report } from "./outcome.mjs";

await report("typescript-2", async (url, requestInit, mode = "legacy") => {
  const client = new Client(
    { name: "minimcp-test", version: "1" },
    { versionNegotiation: { mode } },
  );
  await client.connect(new StreamableHTTPClientTransport(url, { requestInit }));
  return { client, protocol: () => client.getNegotiatedProtocolVersion() };
});
