// What every client program prints: one line of JSON.
export async function report(sdk, connect) {
  const [url, token, tool, json = "{}", mode] = process.argv.slice(2);
  if (!url || !token || !tool) {
    console.error("usage: URL TOKEN TOOL [JSON-ARGUMENTS] [MODE]");
    process.exit(2);
  }
  const requestInit = { headers: { Authorization: `Bearer ${token}` } };
  const { client, protocol, call, progress } = await connect(new URL(url), requestInit, mode);
  try {
    const { tools } = await client.listTools();
    const request = { name: tool, arguments: JSON.parse(json) };
    const result = await (call ? call(request) : client.callTool(request));
    const names = tools.map((each) => each.name);
    console.log(JSON.stringify({ sdk, protocol: protocol(), tools: names, result, progress }));
  } finally {
    await client.close();
  }
}
