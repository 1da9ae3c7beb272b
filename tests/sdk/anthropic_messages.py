"""Messages by Anthropic's Python SDK: streaming, tools, signed thinking."""
import asyncio
import sys

from anthropic import Anthropic, AsyncAnthropic

urls = sys.argv[1:3]
thinking = {"type": "enabled", "budget_tokens": 1024}
tools = [{"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}]


def clients(conversation, kind=Anthropic):
    headers = {"x-user-id": "ada", "x-conversation-id": conversation}
    return [kind(base_url=url, api_key="k", default_headers=headers, max_retries=0) for url in urls]


def user(content):
    return {"role": "user", "content": content}


def text(message):
    return "".join(block.text for block in message.content if block.type == "text")


a, b = clients("py-messages")
said = text(a.messages.create(model="m", max_tokens=2000, system="Be brief.", messages=[user("one")]))
assert said == "You said: one.", said
with b.messages.stream(model="m", max_tokens=2000, messages=[user("two")]) as stream:
    said = "".join(stream.text_stream)
assert said == "You said: one | two.", said

# Thinking: the model checks the signature of every thought that it is shown again.
for stream in [False, True]:
    a, b = clients(f"py-thinking-{stream}")

    def ask(client, messages):
        if stream:
            with client.messages.stream(model="m", max_tokens=2000, thinking=thinking, tools=tools, messages=messages) as events:
                return events.get_final_message()
        return client.messages.create(model="m", max_tokens=2000, thinking=thinking, tools=tools, messages=messages)

    message = ask(a, [user("hello")])
    assert message.content[0].type == "thinking" and message.content[0].signature, message
    message = ask(b, [user("weather in Paris and Rome")])
    uses = [block for block in message.content if block.type == "tool_use"]
    assert [use.input["city"] for use in uses] == ["Paris", "Rome"], message
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": f"sun {use.input['city']}"} for use in uses]
    said = text(ask(a, [user(results)]))
    assert said == "The tools say: sun Paris and sun Rome.", said
    said = text(ask(b, [user("bye")]))
    assert said == "You said: hello | weather in Paris and Rome | bye.", said

# A loop that sends everything again, as blocks of the SDK's own types.
a, b = clients("py-messages-loop")
messages = []
for number, client in enumerate([a, b, a]):
    messages.append(user(str(number)))
    reply = client.messages.create(model="m", max_tokens=2000, thinking=thinking, messages=messages)
    messages.append({"role": "assistant", "content": reply.content})
assert text(reply) == "You said: 0 | 1 | 2.", reply
said = text(b.messages.create(model="m", max_tokens=2000, messages=[user("new")]))
assert said == "You said: 0 | 1 | 2 | new.", said

# A forgotten result.
a, b = clients("py-messages-forgot")
a.messages.create(model="m", max_tokens=2000, tools=tools, messages=[user("weather in Rome")])
said = text(b.messages.create(model="m", max_tokens=2000, tools=tools, messages=[user("never mind")]))
assert said == "You said: weather in Rome | never mind.", said


async def later():
    one, two = clients("py-messages-async", AsyncAnthropic)
    await one.messages.create(model="m", max_tokens=2000, messages=[user("first")])
    async with two.messages.stream(model="m", max_tokens=2000, messages=[user("second")]) as stream:
        said = "".join([token async for token in stream.text_stream])
    assert said == "You said: first | second.", said

    one, two = clients("py-messages-async-thinking", AsyncAnthropic)
    body = {"model": "m", "max_tokens": 2000, "thinking": thinking, "tools": tools}
    async with one.messages.stream(**body, messages=[user("weather in Paris")]) as stream:
        [use] = [block for block in (await stream.get_final_message()).content if block.type == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "sun"}
    said = text(await two.messages.create(**body, messages=[user([result])]))
    assert said == "The tools say: sun.", said


asyncio.run(later())
print("ok")
