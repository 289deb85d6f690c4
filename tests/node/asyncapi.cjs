// Parse AsyncAPI documents, and print what the parser finds wrong with each: [[severity, code, message, path], ...].
const { readFileSync } = require("node:fs");
const { Parser } = require("@asyncapi/parser");

const found = process.argv.slice(2).map(async (file) => {
  const { document, diagnostics } = await new Parser().parse(readFileSync(file, "utf8"));
  const told = diagnostics.map(({ severity, code, message, path }) => [severity, code, message, path.join("/")]);
  return { channels: document ? document.channels().all().map((channel) => channel.id()) : null, told };
});
Promise.all(found).then((all) => console.log(JSON.stringify(all)));
