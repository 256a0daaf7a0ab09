// The page: presets, the bump or the brush, one answer after the other, and what may be believed of it.
(async () => {
  const page = JSON.parse(engine.textOf("data"));
  const byId = (identifier) => document.getElementById(identifier);
  const panelOf = (name, layers) => {
    const kind = page[name].kind === "line" ? Curves : Field;
    return new kind(byId(`${name}-panel`), page[name], layers);
  };
  const input = panelOf("input", ["start", "curve"]);
  const output = panelOf("output", ["whole", "point", "truth", "curve"]);
  const band = page.band && { point: engine.floats(page.band.point), whole: engine.floats(page.band.whole) };
  const scored = page.score && engine.scorer(page.score);
  const width = byId("width");
  const buttons = [...document.querySelectorAll("[data-preset]")];
  const modes = [...document.querySelectorAll("[data-mode]")];
  const drawn = page.input.kind === "line";

  let values = engine.floats(page.presets[0].inputs);
  let preset = 0; // whose function is shown as it is; null once it was changed
  let latest = 0; // where "Start again" goes
  let raising = true;
  let place = page.input.low.map((low, axis) => (low + page.input.high[axis]) / 2);

  // ---- the bump

  const extent = page.input.high.map((high, axis) => high - page.input.low[axis]);
  const periods = extent.map((length, axis) => (page.input.periodic ? (length * page.input.shape[axis]) / (page.input.shape[axis] - 1) : null));
  const dimension = extent.length;

  function distances(centre) {
    return Float64Array.from(values, (_, index) => {
      const steps = centre.map((value, axis) => {
        const step = Math.abs(input.places[index * dimension + axis] - value);
        return periods[axis] ? Math.min(step, periods[axis] - step) : step;
      });
      return Math.hypot(...steps) / extent[0];
    });
  }

  /** The function with a bump of this height at the centre; a mean that all functions share is kept. */
  function bumped(base, centre, height) {
    const bump = distances(centre).map((distance) => Math.exp(-0.5 * (distance / width.value) ** 2));
    const mean = page.input.fixed_mean ? bump.reduce((total, value) => total + value, 0) / bump.length : 0;
    return base.map((value, index) => value + (height * (bump[index] - mean)) / (1 - mean || 1));
  }

  /** Under the brush: one of the few values there are, or more and less of it. */
  function painted(base, centre, amount) {
    if (!page.input.levels) {
      const room = 0.5 * (page.input.range[1] - page.input.range[0]);
      const [least, most] = [page.input.range[0] - room, page.input.range[1] + room];
      return bumped(base, centre, amount).map((value) => Math.min(most, Math.max(least, value)));
    }
    const level = page.input.levels[amount > 0 ? page.input.levels.length - 1 : 0];
    const away = distances(centre);
    return base.map((value, index) => (away[index] <= width.value ? level : value));
  }

  // ---- one answer after the other

  const durations = [];
  let [answer, running, waiting] = [null, false, false];

  async function refresh() {
    waiting = true;
    if (running || !answer) return;
    running = true;
    while (waiting) {
      waiting = false;
      const asked = values;
      const began = performance.now();
      const outputs = await answer(asked);
      durations.push(performance.now() - began);
      if (durations.length > 64) durations.shift();
      tell(asked, outputs);
    }
    running = false;
  }

  const written = (identifier, text) => { const element = byId(identifier); if (element) element.textContent = text; };
  const thin = "\u202f";
  // Clocks of browsers are coarse on purpose: a mean may be told in microseconds, a zero only as small.
  const duration = (time) => {
    if (time < 0.001) return `<${thin}0.1${thin}ms`;
    return time < 0.1 ? `${Math.round(1000 * time)}${thin}\u00b5s` : `${plainly(Number(time.toPrecision(2)))}${thin}ms`;
  };
  let readout = null; // where the reader points at the answer
  let latestOutputs = null;
  let told = null; // whether the last verdict was that the input is outside

  function tell(asked, outputs) {
    const truth = preset === null || !page.presets[preset].truth ? null : engine.floats(page.presets[preset].truth);
    const score = scored ? scored(asked) : null;
    const outside = score !== null && score > page.score.threshold;
    const edges = (half) => [outputs.map((value, index) => value - half[index]), outputs.map((value, index) => value + half[index])];
    output.show({
      curve: outputs,
      truth,
      point: band && !outside ? edges(band.point) : null,
      whole: band && !outside ? edges(band.whole) : null,
    });
    if (!dragging) output.fit();
    output.draw();
    const mean = durations.reduce((total, value) => total + value, 0) / durations.length;
    written("figure-time", duration(mean));
    if (score !== null) written("figure-score", plainly(score));
    written("figure-error", truth ? `${plainly(100 * relative(outputs, truth))}${thin}%` : "\u2013");
    written("caption-error", truth ? "from the true answer (relative L\u00b2 error)" : "nobody knows the true answer to this one");
    byId("output-panel").classList.toggle("outside", outside);
    verdict(outside);
    latestOutputs = outputs;
    point();
    // For whoever embeds the page, and for its test.
    document.dispatchEvent(new CustomEvent("answer", { detail: { inputs: Array.from(asked), outputs: Array.from(outputs) } }));
  }

  function verdict(outside) {
    if (!scored || told === outside) return;
    told = outside;
    const badge = byId("verdict");
    badge.className = `badge ${outside ? "bad" : "good"}`;
    badge.textContent = outside ? "Unlike the training inputs" : "Like the training inputs";
    written("verdict-meaning", badge.dataset[outside ? "outside" : "inside"]);
    byId("figure-score").classList.toggle("flagged", outside);
  }

  function point() {
    if (!latestOutputs) return;
    const bare = byId("readout").dataset.hint;
    if (!readout) { written("readout", bare); return; }
    const index = output.nearest(readout);
    const where = readout.map(plainly).join(", ");
    const half = band && told !== true ? `, band \u00b1${thin}${plainly(Number(band.point[index].toPrecision(2)))}` : "";
    written("readout", `At ${readout.length > 1 ? `(${where})` : where}: ${plainly(latestOutputs[index])}${half}.`);
  }

  const relative = (one, other) => {
    const norm = (list) => Math.sqrt(list.reduce((total, value) => total + value * value, 0));
    return norm(Array.from(one, (value, index) => value - other[index])) / (norm(Array.from(other)) || 1);
  };

  // ---- what the reader does

  let dragging = null;

  function change(next, chosen = null) {
    values = next;
    preset = chosen;
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(index === chosen)));
    const begun = page.presets[latest];
    written("preset-note", chosen === null ? `your own function, begun from \u201c${begun.name}\u201d` : begun.note);
    input.show({ curve: values });
    if (!dragging) input.fit();
    input.draw();
    input.mark(document.activeElement === input.surface || dragging ? place : null, values, Number(width.value));
    refresh();
  }

  function choose(index) {
    latest = index;
    const chosen = engine.floats(page.presets[index].inputs);
    input.show({ start: chosen });
    change(chosen, index);
  }

  function follow(event) {
    const at = input.at(event);
    place = at.place;
    if (dragging && drawn) pull(event, at);
    else if (dragging) brush(event);
    else input.mark(place, values, Number(width.value));
  }

  /** Bends the curve as it was when it was taken so that it passes through the pointer. */
  function pull(event, at) {
    dragging.moved ||= Math.hypot(event.clientX - dragging.x, event.clientY - dragging.y) > 3;
    if (!dragging.moved) return;
    const value = Math.min(input.high, Math.max(input.low, at.value));
    change(bumped(dragging.base, place, value - input.interpolated(place, dragging.base)));
  }

  function brush(event) {
    dragging.lowering = event.shiftKey;
    stroke(); // a fast pointer must not leave gaps between frames
  }

  /** Paints as much as the time since the last stroke is worth. */
  function stroke() {
    const time = performance.now();
    const sign = raising !== dragging.lowering ? 1 : -1;
    const seconds = Math.min(0.1, (time - (dragging.time ?? time - 16)) / 1000);
    dragging.time = time;
    change(painted(values, place, sign * 2.5 * page.input.spread * seconds));
  }

  function hold() {
    if (!dragging) return;
    stroke();
    requestAnimationFrame(hold);
  }

  input.surface.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    try { input.surface.setPointerCapture(event.pointerId); } catch { /* a pointer of no device */ }
    place = input.at(event).place;
    dragging = { base: values, x: event.clientX, y: event.clientY, moved: false, lowering: event.shiftKey };
    if (!drawn) hold();
  });
  input.surface.addEventListener("pointermove", follow);
  for (const name of ["pointerup", "pointercancel"]) {
    input.surface.addEventListener(name, () => {
      if (!dragging) return;
      dragging = null;
      change(values, preset);
    });
  }
  input.surface.addEventListener("pointerleave", () => { if (!dragging) input.mark(null); });
  input.surface.addEventListener("blur", () => input.mark(null));
  input.surface.addEventListener("focus", () => input.mark(place, values, Number(width.value)));
  input.surface.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 0.1 : 0.02;
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ...(drawn ? {} : { ArrowDown: [1, -1], ArrowUp: [1, 1] }) };
    const pulls = { "+": 1, "-": -1, ...(drawn ? { ArrowUp: 1, ArrowDown: -1 } : {}) };
    if (event.key in moves) {
      const [axis, sign] = moves[event.key];
      const next = place[axis] + sign * step * extent[axis];
      place = place.map((value, index) => (index === axis ? Math.min(page.input.high[axis], Math.max(page.input.low[axis], next)) : value));
      input.mark(place, values, Number(width.value));
    } else if (event.key in pulls) {
      const amount = pulls[event.key] * (event.shiftKey ? 0.5 : 0.1) * page.input.spread;
      change(drawn ? bumped(values, place, amount) : painted(values, place, 2 * amount));
    } else {
      return;
    }
    event.preventDefault();
  });
  output.surface.addEventListener("pointermove", (event) => { readout = output.at(event).place; point(); });
  output.surface.addEventListener("pointerleave", () => { readout = null; point(); });
  width.addEventListener("input", () => { written("width-value", `${Math.round(100 * width.value)}${thin}%`); });
  buttons.forEach((button, index) => button.addEventListener("click", () => choose(index)));
  byId("again").addEventListener("click", () => choose(latest));
  modes.forEach((mode) => mode.addEventListener("click", () => {
    raising = mode.dataset.mode === "raise";
    modes.forEach((other) => other.setAttribute("aria-pressed", String(other === mode)));
  }));

  // ---- start

  width.dispatchEvent(new Event("input"));
  choose(0);
  const root = document.documentElement.dataset;
  try {
    const loaded = await engine.load(page.runtime);
    // The first calls compile; they are not what an answer takes.
    for (let repeat = 0; repeat < 8; repeat += 1) await loaded(values);
    const began = performance.now();
    for (let repeat = 0; repeat < 63; repeat += 1) await loaded(values);
    durations.push(...Array(63).fill((performance.now() - began) / 63));
    answer = loaded;
    await refresh();
    root.model = "ready";
    byId("starting").hidden = true;
  } catch (error) {
    root.model = "failed";
    byId("starting").hidden = false;
    written("starting", `The model could not be started: ${error.message ?? error}. ${byId("starting").dataset.advice}`);
    byId("starting").classList.add("failed");
    return;
  }
  if (new URLSearchParams(location.search).has("selftest")) {
    const [expected, first] = [engine.floats(page.expected.outputs), engine.floats(page.presets[0].inputs)];
    const largest = (list) => extremes([Array.from(list, Math.abs)])[1];
    const own = await answer(first);
    const gap = largest(Array.from(own, (value, index) => value - expected[index]));
    const told = { difference: gap / largest(expected) };
    if (scored) told.score = Math.abs(scored(first) / page.expected.score - 1);
    root.selftest = JSON.stringify(told);
  }
})();
