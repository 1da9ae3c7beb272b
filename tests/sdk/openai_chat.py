"""Chat Completions by OpenAI's Python SDK: each call sends only what is new."""
import asyncio
import json
import sys

from openai import AsyncOpenAI, OpenAI, UnprocessableEntityError

urls = sys.argv[1:3]


def clients(conversation, kind=OpenAI):
    headers = {"x-user-id": "ada", "x-conversation-id": conversation}
    return [kind(base_url=f"{url}/v1", api_key="k", default_headers=headers, max_retries=0) for url in urls]


def user(text):
    return {"role": "user", "content": text}


# Without a stream, and with one, on alternating gateways.
a, b = clients("py-chat")
said = a.chat.completions.create(model="m", messages=[user("one")]).choices[0].message.content
assert said == "You said: one.", said
chunks = list(b.chat.completions.create(model="m", messages=[user("two")], stream=True))
said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
assert said == "You said: one | two.", said
with a.chat.completions.stream(model="m", messages=[user("three")], stream_options={"include_usage": True}) as stream:
    final = stream.get_final_completion()
assert final.choices[0].message.content == "You said: one | two | three.", final
assert final.usage.total_tokens == 4, final.usage

# A chat loop that sends everything again is not doubled.
a, b = clients("py-loop")
messages = [{"role": "system", "content": "Be brief."}]
for number, client in enumerate([a, b, a]):
    messages.append(user(str(number)))
    reply = client.chat.completions.create(model="m", messages=messages).choices[0].message
    messages.append(reply)
assert reply.content == "You said: 0 | 1 | 2.", reply
said = b.chat.completions.create(model="m", messages=[user("new")]).choices[0].message.content
assert said == "You said: 0 | 1 | 2 | new.", said

# Tools, streamed and not: the client sends the question, then only the results.
tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]
for stream in [False, True]:
    a, b = clients(f"py-tools-{stream}")
    question = [user("What is the weather in Paris and Rome?")]
    if stream:
        with a.chat.completions.stream(model="m", messages=question, tools=tools) as events:
            message = events.get_final_completion().choices[0].message
    else:
        message = a.chat.completions.create(model="m", messages=question, tools=tools).choices[0].message
    cities = [json.loads(call.function.arguments)["city"] for call in message.tool_calls]
    assert cities == ["Paris", "Rome"], cities
    results = [{"role": "tool", "tool_call_id": call.id, "content": f"sun {city}"} for call, city in zip(message.tool_calls, cities)]
    said = b.chat.completions.create(model="m", messages=results, tools=tools).choices[0].message.content
    assert said == "The tools say: sun Paris and sun Rome.", said
    said = a.chat.completions.create(model="m", messages=[user("thanks")], tools=tools).choices[0].message.content
    assert said == "You said: What is the weather in Paris and Rome? | thanks.", said

# A forgotten result does not make the conversation unusable.
a, b = clients("py-forgot")
a.chat.completions.create(model="m", messages=[user("weather in Rome")], tools=tools)
said = b.chat.completions.create(model="m", messages=[user("never mind")]).choices[0].message.content
assert said == "You said: weather in Rome | never mind.", said

# A stream that the client leaves is kept, and the conversation goes on.
a, b = clients("py-leaves")
stream = a.chat.completions.create(model="m", messages=[user("one two three four five")], stream=True)
next(iter(stream))
stream.close()
for _ in range(200):
    said = b.chat.completions.create(model="m", messages=[user("still there?")]).choices[0].message.content
    if "one two" in said:
        break
assert "one two three four five" in said, said

# Idempotency keys.
a, b = clients("py-retry")
key = {"Idempotency-Key": "k1"}
first = a.chat.completions.create(model="m", messages=[user("pay once")], extra_headers=key)
again = b.chat.completions.create(model="m", messages=[user("pay once")], extra_headers=key)
assert first.id == again.id and first.choices[0].message.content == again.choices[0].message.content
try:
    b.chat.completions.create(model="m", messages=[user("other")], extra_headers=key)
    raise AssertionError("the same key for another request")
except UnprocessableEntityError as error:
    assert error.code == "idempotency_key_reused", error


async def concurrently():
    one, two = clients("py-async", AsyncOpenAI)
    await one.chat.completions.create(model="m", messages=[user("first")])
    stream = await two.chat.completions.create(model="m", messages=[user("second")], stream=True)
    said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert said == "You said: first | second.", said

    one, two = clients("py-async-tools", AsyncOpenAI)
    async with one.chat.completions.stream(model="m", messages=[user("weather in Paris")], tools=tools) as events:
        [call] = (await events.get_final_completion()).choices[0].message.tool_calls
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sun"}]
    said = (await two.chat.completions.create(model="m", messages=results, tools=tools)).choices[0].message.content
    assert said == "The tools say: sun.", said

    async def talk(number):
        for turn, client in enumerate(clients(f"py-many-{number}", AsyncOpenAI)):
            said = (await client.chat.completions.create(model="m", messages=[user(f"{number}-{turn}")])).choices[0].message.content
        assert said == f"You said: {number}-0 | {number}-1.", said

    await asyncio.gather(*[talk(number) for number in range(10)])


asyncio.run(concurrently())
print("ok")
