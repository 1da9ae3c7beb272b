"""Ollama's Python client."""
import asyncio
import sys

import ollama

urls = sys.argv[1:3]


def clients(conversation, kind=ollama.Client):
    return [kind(host=url, headers={"x-user-id": "ada", "x-conversation-id": conversation}) for url in urls]


def user(text):
    return {"role": "user", "content": text}


a, b = clients("py-ollama")
said = a.chat(model="m", messages=[user("one")]).message.content
assert said == "You said: one.", said
said = "".join(part.message.content for part in b.chat(model="m", messages=[user("two")], stream=True))
assert said == "You said: one | two.", said


def weather(city: str) -> str:
    """The weather.

    Args:
        city: a city
    """
    return f"sun {city}"


for stream in [False, True]:
    a, b = clients(f"py-ollama-tools-{stream}")
    question = [user("weather in Paris and Rome")]
    if stream:
        calls = [call for part in a.chat(model="m", messages=question, tools=[weather], stream=True) for call in part.message.tool_calls or []]
    else:
        calls = a.chat(model="m", messages=question, tools=[weather]).message.tool_calls
    results = [{"role": "tool", "tool_name": call.function.name, "content": weather(**call.function.arguments)} for call in calls]
    said = b.chat(model="m", messages=results, tools=[weather]).message.content
    assert said == "The tools say: sun Paris and sun Rome.", said


async def later():
    one, two = clients("py-ollama-async", ollama.AsyncClient)
    await one.chat(model="m", messages=[user("first")])
    said = "".join([part.message.content async for part in await two.chat(model="m", messages=[user("second")], stream=True)])
    assert said == "You said: first | second.", said


asyncio.run(later())
print("ok")
