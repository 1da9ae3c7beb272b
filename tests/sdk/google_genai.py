"""Gemini by google-genai."""
import asyncio
import sys

from google import genai
from google.genai import types

urls = sys.argv[1:3]


def clients(conversation):
    headers = {"x-user-id": "ada", "x-conversation-id": conversation}
    return [genai.Client(api_key="k", http_options=types.HttpOptions(base_url=url, headers=headers)) for url in urls]


a, b = clients("py-gemini")
said = a.models.generate_content(model="m", contents="one").text
assert said == "You said: one.", said
said = "".join(chunk.text or "" for chunk in b.models.generate_content_stream(model="m", contents="two"))
assert said == "You said: one | two.", said

declaration = types.FunctionDeclaration(name="weather", parameters_json_schema={"type": "object", "properties": {"city": {"type": "string"}}})
config = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[declaration])])
for stream in [False, True]:
    a, b = clients(f"py-gemini-tools-{stream}")
    question = "weather in Paris and Rome"
    if stream:
        calls = [call for chunk in a.models.generate_content_stream(model="m", contents=question, config=config) for call in chunk.function_calls or []]
    else:
        calls = a.models.generate_content(model="m", contents=question, config=config).function_calls
    assert [call.args["city"] for call in calls] == ["Paris", "Rome"], calls
    parts = [types.Part.from_function_response(name=call.name, response={"result": f"sun {call.args['city']}"}) for call in calls]
    said = b.models.generate_content(model="m", contents=[types.Content(role="user", parts=parts)], config=config).text
    assert said == "The tools say: sun Paris and sun Rome.", said

# The SDK's own chat sends everything again.
a, b = clients("py-gemini-chat")
chat = a.chats.create(model="m")
for number in range(3):
    said = chat.send_message(str(number)).text
assert said == "You said: 0 | 1 | 2.", said
said = b.models.generate_content(model="m", contents="new").text
assert said == "You said: 0 | 1 | 2 | new.", said


async def later():
    one, two = clients("py-gemini-async")
    await one.aio.models.generate_content(model="m", contents="first")
    said = ""
    async for chunk in await two.aio.models.generate_content_stream(model="m", contents="second"):
        said += chunk.text or ""
    assert said == "You said: first | second.", said


asyncio.run(later())
print("ok")
