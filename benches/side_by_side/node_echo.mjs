// A server with one tool on the official TypeScript SDK 1.x. Run as: node node_echo.mjs FOLDER, where FOLDER is the one
// whose node_modules holds the SDK.
import { createRequire } from "node:module";

const load = createRequire(`${process.argv[2]}/`);
const { McpServer } = load("@modelcontextprotocol/sdk/server/mcp.js");
const { StdioServerTransport } = load("@modelcontextprotocol/sdk/server/stdio.js");
const { z } = load("zod");

const server = new McpServer({ name: "node-echo", version: "1" });
server.registerTool(
  "echo",
  { description: "Gives back its text.", inputSchema: { text: z.string() } },
  ({ text }) => ({ content: [{ type: "text", text }] }),
);
await server.connect(new StdioServerTransport());
