// A server with one tool on the official TypeScript SDK 2.x over Streamable HTTP, at the port in PORT: of both eras, or,
// with STATELESS_ONLY=true, of the stateless one alone. It keeps no sessions: each request has a server of its own.
import { createServer } from "node:http";

import { localhostHostValidation, localhostOriginValidation, toNodeHandler } from "@modelcontextprotocol/node";
import { McpServer, createMcpHandler } from "@modelcontextprotocol/server";
import { z } from "zod";

const legacy = process.env.STATELESS_ONLY === "true" ? "reject" : "stateless";

function server() {
  const server = new McpServer({ name: "sdk", version: "1" });
  server.registerTool(
    "echo",
    { description: "Gives the text back.", inputSchema: z.object({ text: z.string() }) },
    ({ text }) => ({ content: [{ type: "text", text }] }),
  );
  return server;
}

const handle = toNodeHandler(createMcpHandler(server, { legacy }));
const validateHost = localhostHostValidation();
const validateOrigin = localhostOriginValidation();

createServer((request, response) => {
  if (validateHost(request, response) && validateOrigin(request, response)) {
    handle(request, response);
  }
}).listen(Number(process.env.PORT), "127.0.0.1");
