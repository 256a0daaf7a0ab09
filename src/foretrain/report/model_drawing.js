// The two kinds of panel: curves over a line, and a map over a plane. Both show values and tell where a pointer is.
const plainly = (value) => {
  const size = Math.abs(value);
  if (size === 0 || (size >= 1e-4 && size < 1e5)) return String(Number(value.toPrecision(3))).replace("-", "\u2212");
  const [digits, power] = value.toExponential(1).split("e");
  const raised = [...String(Number(power))].map((sign) => (sign === "-" ? "\u207b" : "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"[sign]));
  return `${digits.replace("-", "\u2212")}\u202f\u00d7\u202f10${raised.join("")}`;
};

function ticksBetween(low, high, most) {
  const raw = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw);
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, index) => Number(((first + index) * step).toPrecision(12)));
}

function extremes(lists) {
  let [low, high] = [Infinity, -Infinity];
  for (const list of lists) {
    for (const value of list) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return [low, high];
}

class Curves {
  static margin = { left: 50, right: 8, top: 10, bottom: 26 };

  /** layers: names from back to front; those with two lists of values are areas, those with one are lines. */
  constructor(figure, panel, layers) {
    const make = (name, parent, attributes = {}) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      return parent.appendChild(element);
    };
    this.surface = figure.querySelector("svg[id]"); // the legend has others
    this.places = engine.floats(panel.points);
    this.order = Array.from(this.places.keys()).sort((a, b) => this.places[a] - this.places[b]);
    [this.first, this.last] = [panel.low[0], panel.high[0]];
    this.usual = panel.range;
    this.axes = make("g", this.surface, { class: "axes" });
    const clip = `${this.surface.id}-inside`;
    this.clip = make("rect", make("clipPath", make("defs", this.surface), { id: clip }));
    const inside = make("g", this.surface, { "clip-path": `url(#${clip})` });
    this.paths = new Map(layers.map((name) => [name, make("path", inside, { class: `layer ${name}` })]));
    this.handle = make("circle", this.surface, { class: "handle", r: 6, visibility: "hidden" });
    this.shown = new Map();
    this.fit();
    new ResizeObserver(() => this.draw()).observe(this.surface);
  }

  /** Sets what layers show: name to a list of values, a pair of lists, or null. */
  show(layers) {
    for (const [name, values] of Object.entries(layers)) this.shown.set(name, values);
  }

  /** Takes in all that is shown. Not while a curve is dragged: the panel would run away from the pointer. */
  fit() {
    const lists = [...this.shown.values()].filter(Boolean).flatMap((values) => (values.length === 2 ? values : [values]));
    const [low, high] = extremes([this.usual, ...lists]);
    const room = 0.1 * (high - low || 1);
    [this.low, this.high] = [low - room, high + room];
  }

  draw() {
    const { left, right, top, bottom } = Curves.margin;
    const box = this.surface.getBoundingClientRect();
    const [width, height] = [box.width - left - right, box.height - top - bottom];
    if (!(width > 0 && height > 0)) return;
    this.across = (place) => left + (width * (place - this.first)) / (this.last - this.first);
    this.upward = (value) => top + (height * (this.high - value)) / (this.high - this.low);
    this.size = { width, height };
    const side = { x: left, y: top, width, height };
    for (const [key, value] of Object.entries(side)) this.clip.setAttribute(key, value);
    const lines = ticksBetween(this.low, this.high, 5).map((tick) => {
      const y = this.upward(tick).toFixed(1);
      return `<path class="${tick === 0 ? "zero" : ""}" d="M${left} ${y}H${left + width}"/>`
        + `<text x="${left - 7}" y="${y}" dy=".32em" text-anchor="end">${plainly(tick)}</text>`;
    });
    const places = ticksBetween(this.first, this.last, width > 420 ? 6 : 4).map((tick) =>
      `<text x="${this.across(tick).toFixed(1)}" y="${top + height + 18}" text-anchor="middle">${plainly(tick)}</text>`);
    this.axes.innerHTML = lines.concat(places).join("");
    for (const [name, path] of this.paths) path.setAttribute("d", this.outline(this.shown.get(name)));
  }

  outline(values) {
    if (!values) return "";
    const along = (list, order) =>
      order.map((index) => `${this.across(this.places[index]).toFixed(1)} ${this.upward(list[index]).toFixed(1)}`).join("L");
    if (values.length !== 2) return `M${along(values, this.order)}`;
    return `M${along(values[0], this.order)}L${along(values[1], this.order.slice().reverse())}Z`;
  }

  /** Where a pointer is: the place, and the value it points at. */
  at(event) {
    const box = this.surface.getBoundingClientRect();
    const { left, top } = Curves.margin;
    const share = Math.min(1, Math.max(0, (event.clientX - box.left - left) / this.size.width));
    const value = this.high - ((event.clientY - box.top - top) / this.size.height) * (this.high - this.low);
    return { place: [this.first + share * (this.last - this.first)], value };
  }

  nearest(place) {
    return this.order.reduce((best, index) =>
      Math.abs(this.places[index] - place[0]) < Math.abs(this.places[best] - place[0]) ? index : best, this.order[0]);
  }

  interpolated(place, values) {
    const after = Math.max(1, this.order.findIndex((index) => this.places[index] >= place[0]));
    const [before, next] = [this.order[after - 1], this.order[after]];
    const share = (place[0] - this.places[before]) / (this.places[next] - this.places[before] || 1);
    return values[before] + share * (values[next] - values[before]);
  }

  /** Puts the handle on the curve at a place, or takes it away. */
  mark(place, values) {
    this.handle.setAttribute("visibility", place ? "visible" : "hidden");
    if (!place) return;
    this.handle.setAttribute("cx", this.across(place[0]));
    this.handle.setAttribute("cy", this.upward(this.interpolated(place, values)));
  }
}

class Field {
  constructor(figure, panel, layers) {
    this.surface = figure.querySelector("canvas");
    this.frame = this.surface.parentElement;
    this.handle = figure.querySelector(".brush");
    this.labels = figure.querySelectorAll(".ramp span + span");
    this.places = engine.floats(panel.points);
    [this.columns, this.rows] = panel.shape;
    [this.corner, this.far] = [panel.low, panel.high];
    this.usual = panel.range;
    this.colours = panel.colours.map((colour) => [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16)));
    [this.surface.width, this.surface.height] = panel.shape;
    const extent = panel.high.map((value, axis) => value - panel.low[axis]);
    this.frame.style.aspectRatio = Math.min(2.5, Math.max(0.4, extent[0] / extent[1]));
    [this.layer] = layers.slice(-1);
    this.values = null;
  }

  show(layers) {
    if (this.layer in layers) this.values = layers[this.layer];
  }

  fit() {
    [this.low, this.high] = extremes([this.usual, this.values ?? []]);
  }

  draw() {
    if (!this.values) return;
    this.fit();
    const picture = new ImageData(this.columns, this.rows);
    const last = this.colours.length - 1;
    for (let column = 0; column < this.columns; column += 1) {
      for (let row = 0; row < this.rows; row += 1) {
        const share = (this.values[column * this.rows + row] - this.low) / (this.high - this.low || 1);
        const step = Math.min(last - 1, Math.max(0, Math.floor(share * last)));
        const rest = share * last - step;
        // The second coordinate grows upward, the rows of a picture downward.
        const pixel = 4 * ((this.rows - 1 - row) * this.columns + column);
        for (let part = 0; part < 3; part += 1) {
          picture.data[pixel + part] = this.colours[step][part] * (1 - rest) + this.colours[step + 1][part] * rest;
        }
        picture.data[pixel + 3] = 255;
      }
    }
    this.surface.getContext("2d").putImageData(picture, 0, 0);
    // A boundary value that is zero but for rounding is zero.
    const ends = [this.low, this.high].map((value) => (Math.abs(value) < 1e-6 * (this.high - this.low) ? 0 : value));
    ends.forEach((value, end) => { this.labels[end].textContent = plainly(value); });
  }

  at(event) {
    const box = this.surface.getBoundingClientRect();
    const shares = [(event.clientX - box.left) / box.width, (box.bottom - event.clientY) / box.height];
    const place = shares.map((share, axis) => {
      const count = [this.columns, this.rows][axis];
      const index = Math.min(count - 1, Math.max(0, share * count - 0.5));
      return this.corner[axis] + (index / (count - 1)) * (this.far[axis] - this.corner[axis]);
    });
    return { place, value: 0 };
  }

  nearest(place) {
    const [column, row] = place.map((value, axis) =>
      Math.round(((value - this.corner[axis]) / (this.far[axis] - this.corner[axis])) * ([this.columns, this.rows][axis] - 1)));
    return column * this.rows + row;
  }

  mark(place, values, radius) {
    if (!this.handle) return;
    this.handle.hidden = !place;
    if (!place) return;
    const shares = place.map((value, axis) => {
      const count = [this.columns, this.rows][axis];
      return ((value - this.corner[axis]) / (this.far[axis] - this.corner[axis])) * ((count - 1) / count) + 0.5 / count;
    });
    this.handle.style.left = `${100 * shares[0]}%`;
    this.handle.style.top = `${100 * (1 - shares[1])}%`;
    this.handle.style.width = `${200 * radius * ((this.columns - 1) / this.columns)}%`;
  }
}
