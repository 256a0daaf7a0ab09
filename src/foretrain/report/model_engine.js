"use strict";
// What runs the model: arrays from their text, the runtime, answers one at a time, the out-of-range score.
const engine = (() => {
  const bytesOf = (text) => Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
  const floats = (text) => new Float32Array(bytesOf(text).buffer);
  const textOf = (identifier) => document.getElementById(identifier)?.textContent;

  async function inflated(text) {
    const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function part(name, where) {
    const inside = textOf(`runtime-${name}`);
    if (inside) return inflated(inside);
    const { address, integrity } = where[name];
    const answer = await fetch(address, { integrity, credentials: "omit", referrerPolicy: "no-referrer" });
    if (!answer.ok) throw new Error(`${address} answers ${answer.status}`);
    return new Uint8Array(await answer.arrayBuffer());
  }

  /** The model of this page in ONNX Runtime Web, on one thread. */
  async function load(where) {
    const [script, program] = await Promise.all([part("script", where), part("program", where)]);
    const address = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
    const runtime = await import(address);
    runtime.env.wasm.numThreads = 1;
    runtime.env.wasm.wasmBinary = program;
    runtime.env.logLevel = "error";
    const session = await runtime.InferenceSession.create(bytesOf(textOf("model")), { executionProviders: ["wasm"] });
    const [input] = session.inputNames;
    const [output] = session.outputNames;
    return async (values) => {
      const tensor = new runtime.Tensor("float32", Float32Array.from(values), [1, values.length]);
      return (await session.run({ [input]: tensor }))[output].data;
    };
  }

  const sum = (values, term) => values.reduce((total, value, index) => total + term(value, index), 0);

  const ROUNDING = 4e-6;

  /** How unlike the training inputs an input is: the distance of the log energies from their centre. */
  function scorer(record) {
    const [mean, directions, deviations, centre, spread] = [
      "mean", "directions", "deviations", "centre", "spread",
    ].map((name) => floats(record[name]));
    const sensors = mean.length;
    const deviation = record.residual_deviation;
    const yardstick = sum([...deviations], (value) => value * value) + deviation * deviation;
    return (values) => {
      const away = Array.from(mean, (value, index) => values[index] - value);
      const left = away.slice();
      let within = 0;
      deviations.forEach((scale, row) => {
        const direction = directions.subarray(row * sensors, (row + 1) * sensors);
        const coefficient = sum(away, (value, index) => value * direction[index]);
        within += (coefficient / scale) ** 2 / deviations.length;
        direction.forEach((value, index) => { left[index] -= coefficient * value; });
      });
      const energies = [within, sum(left, (value) => value * value) / (deviation * deviation)];
      // As in deployment/_trust.py: what rounding leaves in differences is no roughness.
      let rounding = ROUNDING * ROUNDING;
      for (let steps = away, order = 1; energies.length < centre.length; order += 1) {
        steps = steps.slice(1).map((value, index) => value - steps[index]);
        rounding *= (4 * order - 2) / order;
        energies.push(sum(steps, (value) => value * value) / yardstick + rounding);
      }
      return Math.sqrt(sum(energies, (value, index) => ((Math.log(value + 1e-30) - centre[index]) / spread[index]) ** 2));
    };
  }

  return { floats, load, scorer, textOf };
})();
