// openai-node: chat and responses, created, streamed and parsed, and a tool loop.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI();
const model = "gpt-oss";
const question = "How warm is it in Oslo?";
const messages = [{ role: "user", content: question }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const schema = {
  type: "object",
  properties: { city: { type: "string" }, celsius: { type: "integer" } },
  required: ["city", "celsius"],
  additionalProperties: false,
};

const completion = await client.chat.completions.create({ model, messages });
assert.match(completion.choices[0].message.content, /4 C/);
assert.ok(completion.choices[0].message.reasoning);
console.log("chat: answer with thinking");

let text = "";
const stream = client.chat.completions.stream({ model, messages });
stream.on("content", (delta) => (text += delta));
assert.equal(await stream.finalContent(), text);
console.log("chat: stream");

const runner = client.chat.completions.runTools({
  model,
  messages,
  tools: [
    {
      type: "function",
      function: {
        name: "get_weather",
        description: "Get the weather.",
        parameters,
        parse: JSON.parse,
        function: ({ city }) => `4 C and rain in ${city}`,
      },
    },
  ],
});
assert.match(await runner.finalContent(), /4 C/);
console.log("chat: tool loop");

const parsed = await client.chat.completions.parse({
  model,
  messages,
  response_format: { type: "json_schema", json_schema: { name: "city", strict: true, schema } },
});
assert.deepEqual(JSON.parse(parsed.choices[0].message.content), { city: "Oslo", celsius: 4 });
console.log("chat: parse");

const response = await client.responses.create({ model, input: question });
assert.match(response.output_text, /4 C/);
console.log("responses: answer");

const events = client.responses.stream({ model, input: question });
const kinds = [];
for await (const event of events) kinds.push(event.type);
assert.equal(kinds.at(-1), "response.completed");
assert.match((await events.finalResponse()).output_text, /4 C/);
console.log("responses: stream");

const tools = [{ type: "function", name: "get_weather", description: "Get the weather.", parameters, strict: false }];
const first = await client.responses.create({ model, input: question, tools });
const call = first.output.find((item) => item.type === "function_call");
assert.deepEqual(JSON.parse(call.arguments), { city: "Oslo" });
const result = { type: "function_call_output", call_id: call.call_id, output: "4 C, rain" };
const second = await client.responses.create({ model, input: [result], previous_response_id: first.id, tools });
assert.match(second.output_text, /4 C/);
console.log("responses: tool loop");

const typed = await client.responses.parse({
  model,
  input: question,
  text: { format: { type: "json_schema", name: "city", strict: true, schema } },
});
assert.deepEqual(JSON.parse(typed.output_text), { city: "Oslo", celsius: 4 });
console.log("responses: parse");
