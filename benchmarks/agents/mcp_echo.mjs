// A tiny MCP server on stdio: one tool, `echo`, and a few megabytes of state as real ones have.
import { createInterface } from "node:readline";

const state = Array.from({ length: 20_000 }, (_, number) => `entry ${number} of a server's state`);
const tool = {
  name: "echo",
  description: "Gives back the text, and how many calls there were before.",
  inputSchema: { type: "object", properties: { text: { type: "string" } }, required: ["text"] },
};
let calls = 0;

const methods = {
  initialize: ({ protocolVersion = "2025-06-18" }) => ({
    protocolVersion,
    capabilities: { tools: {} },
    serverInfo: { name: "echo", version: "1" },
  }),
  ping: () => ({}),
  "tools/list": () => ({ tools: [tool] }),
  "tools/call": ({ arguments: { text } }) => {
    calls += 1;
    return { content: [{ type: "text", text: `${calls} ${state[calls % state.length]}: ${text}` }] };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, params = {} } = JSON.parse(line);
  if (id === undefined || method === undefined) continue;
  const answer = { jsonrpc: "2.0", id };
  if (Object.hasOwn(methods, method)) answer.result = methods[method](params);
  else answer.error = { code: -32601, message: "no such method" };
  process.stdout.write(JSON.stringify(answer) + "\n");
}
