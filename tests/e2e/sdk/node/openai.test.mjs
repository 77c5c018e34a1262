// The OpenAI SDK for JavaScript against a running server: LORADOCK_URL, LORADOCK_API_KEY. test_node.py starts this.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const MODEL = "home-commands";
const ID = `${MODEL}@1`;
const messages = [{ role: "user", content: "Turn off the lamp please" }];
const ask = { model: MODEL, messages, max_tokens: 16, temperature: 0 };
const parameters = {
  type: "object",
  properties: { on: { type: "boolean" }, room: { type: "string", enum: ["hall", "attic"] } },
  required: ["on", "room"],
  additionalProperties: false,
};
const options = { baseURL: `${process.env.LORADOCK_URL}/v1`, apiKey: process.env.LORADOCK_API_KEY, maxRetries: 0 };
const client = new OpenAI(options);

function assertSwitch(text) {
  const value = JSON.parse(text);
  assert.deepEqual(Object.keys(value).sort(), ["on", "room"]);
  assert.equal(typeof value.on, "boolean");
}

test("an answer and its stream say the same and name the version", async () => {
  const { data: whole, response } = await client.chat.completions.create(ask).withResponse();
  assert.equal(whole.model, ID);
  assert.equal(response.headers.get("x-loradock-adapter"), ID);
  let text = "";
  let usage;
  const stream = await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } });
  for await (const chunk of stream) {
    assert.equal(chunk.model, ID);
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});

test("a tool is called by its schema, whole and in pieces", async () => {
  const tools = [{ type: "function", function: { name: "switch", parameters, strict: true } }];
  const call = { ...ask, max_tokens: 80, tools, tool_choice: { type: "function", function: { name: "switch" } } };
  const answer = await client.chat.completions.create(call);
  assertSwitch(answer.choices[0].message.tool_calls[0].function.arguments);
  const final = await client.chat.completions.stream(call).finalChatCompletion();
  assertSwitch(final.choices[0].message.tool_calls[0].function.arguments);
});

test("an answer by a JSON schema fits it", async () => {
  const json_schema = { name: "switch", schema: parameters, strict: true };
  const answer = await client.chat.completions.create({
    ...ask,
    max_tokens: 60,
    response_format: { type: "json_schema", json_schema },
  });
  assertSwitch(answer.choices[0].message.content);
});

test("completions, responses and models", async () => {
  const completion = await client.completions.create({ model: MODEL, prompt: ["turn on", "it is"], max_tokens: 4 });
  assert.deepEqual(completion.choices.map((choice) => choice.index), [0, 1]);
  const kinds = [];
  const events = await client.responses.create({ model: MODEL, input: "Hello", max_output_tokens: 8, stream: true });
  for await (const event of events) kinds.push(event.type);
  assert.equal(kinds[0], "response.created");
  assert.match(kinds.at(-1), /^response\.(completed|incomplete)$/);
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  assert.ok(models.includes(MODEL));
  assert.equal((await client.models.retrieve(ID)).root, ID);
});

test("errors are the SDK's own", async () => {
  await assert.rejects(client.chat.completions.create({ ...ask, model: "nobody" }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    return true;
  });
  await assert.rejects(client.chat.completions.create({ ...ask, temperature: -1 }), OpenAI.BadRequestError);
  const stranger = new OpenAI({ ...options, apiKey: "wrong" });
  await assert.rejects(stranger.chat.completions.create(ask), OpenAI.AuthenticationError);
});

test("leaving and losing patience", async () => {
  const long = { model: MODEL, prompt: "once", max_tokens: 1500, ignore_eos: true };
  await assert.rejects(client.completions.create(long, { timeout: 500 }), OpenAI.APIConnectionTimeoutError);
  const controller = new AbortController();
  const stream = await client.completions.create({ ...long, stream: true }, { signal: controller.signal });
  for await (const chunk of stream) {
    assert.equal(chunk.model, ID);
    controller.abort();
  }
});
