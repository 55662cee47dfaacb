// @openai/agents: a tool loop over chat and over Responses, streamed and not.
import assert from "node:assert/strict";
import {
  Agent,
  OpenAIChatCompletionsModel,
  OpenAIResponsesModel,
  Runner,
  setTracingDisabled,
  tool,
} from "@openai/agents";
import OpenAI from "openai";

setTracingDisabled(true);
const weather = tool({
  name: "get_weather",
  description: "Get the weather.",
  strict: false,
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: true },
  execute: ({ city }) => `4 C and rain in ${city}`,
});
for (const [name, Model] of [["chat", OpenAIChatCompletionsModel], ["responses", OpenAIResponsesModel]]) {
  const agent = new Agent({ name: "Weather", tools: [weather], model: new Model(new OpenAI(), "gpt-oss") });
  const result = await new Runner().run(agent, "How warm is it in Oslo?");
  assert.match(result.finalOutput, /4 C/);
  console.log(`${name}: tool loop`);
  const streamed = await new Runner().run(agent, "How warm is it in Oslo?", { stream: true });
  let events = 0;
  for await (const _ of streamed) events += 1;
  await streamed.completed;
  assert.match(streamed.finalOutput, /4 C/);
  assert.ok(events > 10);
  console.log(`${name}: streamed tool loop`);
}
