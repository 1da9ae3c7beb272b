// Chat Completions and Responses by OpenAI's JavaScript SDK.
const assert = require("node:assert/strict");
const OpenAI = require("openai");

const urls = process.argv.slice(2, 4);
const clients = (conversation) =>
  urls.map((url) => new OpenAI({
    baseURL: `${url}/v1`, apiKey: "k", maxRetries: 0,
    defaultHeaders: { "x-user-id": "ada", "x-conversation-id": conversation },
  }));
const user = (content) => ({ role: "user", content });

async function main() {
  let [a, b] = clients("js-chat");
  const one = await a.chat.completions.create({ model: "m", messages: [user("one")] });
  assert.equal(one.choices[0].message.content, "You said: one.");
  let said = "";
  for await (const chunk of await b.chat.completions.create({ model: "m", messages: [user("two")], stream: true })) {
    said += chunk.choices[0].delta.content ?? "";
  }
  assert.equal(said, "You said: one | two.");
  said = await a.chat.completions.stream({ model: "m", messages: [user("three")] }).finalContent();
  assert.equal(said, "You said: one | two | three.");

  [a, b] = clients("js-loop");
  const messages = [];
  for (const [number, client] of [a, b, a].entries()) {
    messages.push(user(String(number)));
    const reply = await client.chat.completions.create({ model: "m", messages });
    messages.push(reply.choices[0].message);
  }
  assert.equal(messages.at(-1).content, "You said: 0 | 1 | 2.");

  // The SDK's own tool runner: it calls the tool and sends everything again.
  [a, b] = clients("js-tools");
  const weather = ({ city }) => `sun ${city}`;
  const tools = [{ type: "function", function: { name: "weather", function: weather, parse: JSON.parse, parameters: { type: "object", properties: { city: { type: "string" } } } } }];
  for (const stream of [false, true]) {
    const runner = a.chat.completions.runTools({ model: "m", stream, messages: [user("weather in Paris and Rome")], tools });
    assert.equal(await runner.finalContent(), "The tools say: sun Paris and sun Rome.");
  }
  const after = await b.chat.completions.create({ model: "m", messages: [user("thanks")] });
  assert.equal(after.choices[0].message.content, "You said: weather in Paris and Rome | weather in Paris and Rome | thanks.");

  // By hand, with only what is new: the question, then the results, on the other gateway.
  for (const stream of [false, true]) {
    [a, b] = clients(`js-tools-new-${stream}`);
    const body = { model: "m", tools: [{ type: "function", function: { name: "weather", parameters: {} } }] };
    const question = [user("weather in Paris and Rome")];
    const reply = stream
      ? await a.chat.completions.stream({ ...body, messages: question }).finalMessage()
      : (await a.chat.completions.create({ ...body, messages: question })).choices[0].message;
    const messages = reply.tool_calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: weather(JSON.parse(call.function.arguments)) }));
    const told = await b.chat.completions.create({ ...body, messages });
    assert.equal(told.choices[0].message.content, "The tools say: sun Paris and sun Rome.");
  }

  [a, b] = clients("js-responses");
  const first = await a.responses.create({ model: "m", input: "one" });
  const second = await b.responses.create({ model: "m", input: "two", previous_response_id: first.id });
  assert.equal(second.output_text, "You said: one | two.");
  const final = await a.responses.stream({ model: "m", input: "three", previous_response_id: second.id }).finalResponse();
  assert.equal(final.output_text, "You said: one | two | three.");

  for (const stream of [false, true]) {
    [a, b] = clients(`js-responses-tools-${stream}`);
    const body = { model: "m", tools: [{ type: "function", name: "weather", parameters: {}, strict: false }] };
    const input = "weather in Paris and Rome";
    const asked = stream ? await a.responses.stream({ ...body, input }).finalResponse() : await a.responses.create({ ...body, input });
    const outputs = asked.output.filter((item) => item.type === "function_call")
      .map((call) => ({ type: "function_call_output", call_id: call.call_id, output: weather(JSON.parse(call.arguments)) }));
    const told = await b.responses.create({ ...body, input: outputs, previous_response_id: asked.id });
    assert.equal(told.output_text, "The tools say: sun Paris and sun Rome.");
  }
  console.log("ok");
}

main().catch((error) => { console.error(error); process.exit(1); });
