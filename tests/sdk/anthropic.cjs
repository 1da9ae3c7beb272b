// Messages by Anthropic's JavaScript SDK: streaming, tools, signed thinking.
const assert = require("node:assert/strict");
const Anthropic = require("@anthropic-ai/sdk");

const urls = process.argv.slice(2, 4);
const clients = (conversation) =>
  urls.map((baseURL) => new Anthropic({
    baseURL, apiKey: "k", maxRetries: 0,
    defaultHeaders: { "x-user-id": "ada", "x-conversation-id": conversation },
  }));
const user = (content) => ({ role: "user", content });
const text = (message) => message.content.filter((block) => block.type === "text").map((block) => block.text).join("");
const base = { model: "m", max_tokens: 2000 };
const thinking = { type: "enabled", budget_tokens: 1024 };
const tools = [{ name: "weather", input_schema: { type: "object", properties: { city: { type: "string" } } } }];

async function main() {
  let [a, b] = clients("js-messages");
  assert.equal(text(await a.messages.create({ ...base, messages: [user("one")] })), "You said: one.");
  assert.equal(await b.messages.stream({ ...base, messages: [user("two")] }).finalText(), "You said: one | two.");

  for (const stream of [false, true]) {
    [a, b] = clients(`js-thinking-${stream}`);
    const ask = (client, messages) => {
      const body = { ...base, thinking, tools, messages };
      return stream ? client.messages.stream(body).finalMessage() : client.messages.create(body);
    };
    const hello = await ask(a, [user("hello")]);
    assert.equal(hello.content[0].type, "thinking");
    const uses = (await ask(b, [user("weather in Paris and Rome")])).content.filter((block) => block.type === "tool_use");
    assert.deepEqual(uses.map((use) => use.input.city), ["Paris", "Rome"]);
    const results = uses.map((use) => ({ type: "tool_result", tool_use_id: use.id, content: `sun ${use.input.city}` }));
    assert.equal(text(await ask(a, [user(results)])), "The tools say: sun Paris and sun Rome.");
    assert.equal(text(await ask(b, [user("bye")])), "You said: hello | weather in Paris and Rome | bye.");
  }

  [a, b] = clients("js-messages-loop");
  const messages = [];
  for (const [number, client] of [a, b, a].entries()) {
    messages.push(user(String(number)));
    const reply = await client.messages.create({ ...base, thinking, messages });
    messages.push({ role: "assistant", content: reply.content });
  }
  assert.equal(text(messages.at(-1)), "You said: 0 | 1 | 2.");
  console.log("ok");
}

main().catch((error) => { console.error(error); process.exit(1); });
