// Reads Sparkplug payloads (one a line, hexadecimal) with npm's sparkplug-payload, and writes each as a line of JSON.
// Types are given as well ("alias:datatype,..." after a blank), for that reader needs each metric's type to decode it.
const { get } = require("sparkplug-payload");
const reader = get("spBv1.0");
const plain = (key, value) => {
  if (value && typeof value === "object" && "low" in value && "high" in value) return { int: value.toString() };
  if (typeof value === "number" && !Number.isFinite(value)) return { float: String(value) };
  return value;
};
const lines = require("fs").readFileSync(0, "utf8").trim().split("\n");
for (const line of lines) {
  console.log(JSON.stringify(reader.decodePayload(Buffer.from(line.trim(), "hex")), plain));
}
