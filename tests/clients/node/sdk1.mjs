// The TypeScript SDK 1.x as a client: URL TOKEN TOOL [JSON-ARGUMENTS]. Speaks the eras with a handshake.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

import { report } from "./outcome.mjs";

await report("typescript-1", async (url, requestInit) => {
  const client = new Client({ name: "minimcp-test", version: "1" });
  const transport = new StreamableHTTPClientTransport(url, { requestInit });
  await client.connect(transport);
  return { client, protocol: () => transport.protocolVersion };
});
