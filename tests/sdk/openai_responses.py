"""Responses by OpenAI's Python SDK, with state that the upstream does not have."""
import asyncio
import json
import sys

from openai import AsyncOpenAI, NotFoundError, OpenAI

urls = sys.argv[1:3]


def clients(conversation, kind=OpenAI):
    headers = {"x-user-id": "ada", "x-conversation-id": conversation}
    return [kind(base_url=f"{url}/v1", api_key="k", default_headers=headers, max_retries=0) for url in urls]


a, b = clients("py-responses")
first = a.responses.create(model="m", input="one")
assert first.output_text == "You said: one.", first
second = b.responses.create(model="m", input="two", previous_response_id=first.id)
assert second.output_text == "You said: one | two.", second
with a.responses.stream(model="m", input="three", previous_response_id=first.id) as stream:
    other = stream.get_final_response()
assert other.output_text == "You said: one | three.", other
end = b.responses.create(model="m", input="four", previous_response_id=other.id)
assert end.output_text == "You said: one | three | four.", end
end = a.responses.create(model="m", input="five", previous_response_id=second.id)
assert end.output_text == "You said: one | two | five.", end
try:
    a.responses.create(model="m", input="x", previous_response_id="resp_unknown")
    raise AssertionError("an unknown response")
except NotFoundError as error:
    assert error.code == "previous_response_not_found", error

# Tools, with items of the Responses API.
tools = [{"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}, "strict": True}]
for stream in [False, True]:
    a, b = clients(f"py-responses-tools-{stream}")
    if stream:
        with a.responses.stream(model="m", input="weather in Paris and Rome", tools=tools) as events:
            asked = events.get_final_response()
    else:
        asked = a.responses.create(model="m", input="weather in Paris and Rome", tools=tools)
    calls = [item for item in asked.output if item.type == "function_call"]
    assert [json.loads(call.arguments)["city"] for call in calls] == ["Paris", "Rome"]
    outputs = [{"type": "function_call_output", "call_id": call.call_id, "output": "sun"} for call in calls]
    said = b.responses.create(model="m", input=outputs, previous_response_id=asked.id, tools=tools).output_text
    assert said == "The tools say: sun and sun.", said

# As a conversation: no ids at all.
a, b = clients("py-responses-conversation")
a.responses.create(model="m", input="one", conversation="conv_1")
said = b.responses.create(model="m", input="two", conversation="conv_1").output_text
assert said == "You said: one | two.", said


async def later():
    one, two = clients("py-responses-async", AsyncOpenAI)
    first = await one.responses.create(model="m", input="first")
    async with two.responses.stream(model="m", input="second", previous_response_id=first.id) as stream:
        said = (await stream.get_final_response()).output_text
    assert said == "You said: first | second.", said


asyncio.run(later())
print("ok")
