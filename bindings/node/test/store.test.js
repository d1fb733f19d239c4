"use strict";
/** What the suite of all languages does not say of the package for Node. */

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { agentmem, connected, opened } = require("./support");

for (const [kind, open] of [
  ["embedded", opened],
  ["connected", connected],
]) {
  test(`${kind}: what is put is viewed`, async (t) => {
    const store = await open(t);
    const agent = await store.agent("planner");
    const smu = agent.put("You plan.", { kind: "system_prompt", name: "base" });
    assert.equal(smu.kind, "system_prompt");
    const view = await smu.view();
    assert.equal(view.buffer.toString(), "You plan.");
    view.release();
  });
}
