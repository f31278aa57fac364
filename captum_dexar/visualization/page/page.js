"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const at = (id) => document.getElementById(id);
  const wordElements = [...document.querySelectorAll("[data-word]")];
  const numWords = data.words.length;

  // Heat from 0 to 1, or from -1 to 1, in steps: an even number, so that 0 is one.
  const STEPS = 1022;
  const MOST_REGIONS = 8;
  const FAINTEST = data.faintest;
  const EXPONENT = data.exponent;

  const bytesOf = (text) => {
    const binary = atob(text);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    return bytes;
  };

  // Rows of numbers; see rows() in encoding.py.
  class Rows {
    constructor(packed) {
      const bytes = bytesOf(packed.data);
      this.integers = packed.bits === 16 ? new Uint16Array(bytes.buffer) : bytes;
      this.low = packed.low;
      this.step = packed.step;
      this.most = 2 ** packed.bits - 1;
      this.columns = this.integers.length / this.low.length;
    }
    add(row, total) {
      const first = row * this.columns;
      for (let i = 0; i < this.columns; i++) {
        total[i] += this.low[row] + this.step[row] * this.integers[first + i];
      }
    }
    mean(rows) {
      const total = new Float64Array(this.columns);
      for (const row of rows) this.add(row, total);
      for (let i = 0; i < this.columns; i++) total[i] /= rows.length;
      return total;
    }
    // The smallest and the largest value of the first rows.
    range(count) {
      let least = Infinity;
      let most = -Infinity;
      for (let row = 0; row < count; row++) {
        least = Math.min(least, this.low[row]);
        most = Math.max(most, this.low[row] + this.step[row] * this.most);
      }
      return [least, most];
    }
  }

  const rangeOf = (values) => {
    let least = Infinity;
    let most = -Infinity;
    for (const value of values) {
      if (value < least) least = value;
      if (value > most) most = value;
    }
    return [least, most];
  };

  // Values in [0, 1], or in [-1, 1] if signed, as the result's own maps are.
  const scaled = (values, [least, most], signed) => {
    const largest = Math.max(Math.abs(least), Math.abs(most));
    const from = signed ? 0 : least;
    const size = signed ? largest : most - least;
    if (!(size > 0)) return values.map(() => 0);
    const bottom = signed ? -1 : 0;
    return values.map((v) => Math.min(1, Math.max(bottom, (v - from) / size)));
  };

  // For each pixel along an axis: the two cells between which it lies, and where.
  const between = (pixels, cells, start, stop) => {
    const first = new Int32Array(pixels);
    const second = new Int32Array(pixels);
    const part = new Float64Array(pixels);
    for (let i = 0; i < pixels; i++) {
      const place = ((i + 0.5 - start) / (stop - start)) * cells - 0.5;
      const inside = Math.min(cells - 1, Math.max(0, place));
      first[i] = Math.floor(inside);
      second[i] = Math.min(cells - 1, first[i] + 1);
      part[i] = inside - first[i];
    }
    return { first, second, part };
  };

  // Each kind of place gives a function from a picture's cells to its pixels, and
  // which pixels the model has not seen.
  const PAINTERS = {
    grid(places, width, height) {
      const [y0, x0, y1, x1] = places.rectangle;
      const rows = between(height, places.rows, y0, y1);
      const columns = between(width, places.columns, x0, x1);
      const unseen = new Uint8Array(width * height).fill(1);
      for (const [top, left, bottom, right] of places.seen) {
        for (let y = top; y < bottom; y++) {
          unseen.fill(0, y * width + left, y * width + right);
        }
      }
      const pixels = new Float32Array(width * height);
      const line = new Float64Array(places.columns);
      const paint = (cells) => {
        for (let y = 0; y < height; y++) {
          const upper = rows.first[y] * places.columns;
          const lower = rows.second[y] * places.columns;
          const down = rows.part[y];
          for (let c = 0; c < places.columns; c++) {
            line[c] = cells[upper + c] * (1 - down) + cells[lower + c] * down;
          }
          for (let x = 0, i = y * width; x < width; x++, i++) {
            const right = columns.part[x];
            pixels[i] = line[columns.first[x]] * (1 - right) + line[columns.second[x]] * right;
          }
        }
        return pixels;
      };
      return { paint, unseen };
    },
    regions(places, width, height) {
      const runs = new Uint32Array(bytesOf(places.runs).buffer);
      const cellOf = new Uint32Array(width * height);
      for (let i = 0, pixel = 0; i < runs.length; i += 2) {
        cellOf.fill(runs[i + 1], pixel, pixel + runs[i]);
        pixel += runs[i];
      }
      const unseen = cellOf.map((cell) => (cell === places.unseen ? 1 : 0));
      return { paint: (cells) => Float32Array.from(cellOf, (cell) => cells[cell]), unseen };
    },
    blocks(places, width, height) {
      const paint = (cells) => {
        const pixels = new Float32Array(width * height);
        for (let y = 0, i = 0; y < height; y++) {
          const row = Math.floor((y * places.rows) / height) * places.columns;
          for (let x = 0; x < width; x++, i++) {
            pixels[i] = cells[row + Math.floor((x * places.columns) / width)];
          }
        }
        return pixels;
      };
      return { paint, unseen: null };
    },
  };

  const rgba = (red, green, blue, alpha) =>
    ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;

  const COLOURS = {
    plain: bytesOf(data.colours.plain),
    signed: bytesOf(data.colours.signed),
  };

  // The colour and opacity of every step of heat.
  const tableOf = (signed, opacity, threshold) => {
    const colours = signed ? COLOURS.signed : COLOURS.plain;
    const table = new Uint32Array(STEPS + 1);
    for (let step = 0; step <= STEPS; step++) {
      const share = step / STEPS;
      const size = signed ? Math.abs(2 * share - 1) : share;
      const alpha = size < threshold ? 0 : opacity * size ** EXPONENT;
      const colour = 3 * Math.round(share * 255);
      table[step] = rgba(
        colours[colour], colours[colour + 1], colours[colour + 2], Math.round(255 * alpha)
      );
    }
    return table;
  };

  // Connected parts of a map beyond a threshold on either side of zero, the largest
  // first. Pixels that touch at a corner are connected.
  const regionsOf = (heat, width, height, threshold) => {
    const visited = new Uint8Array(heat.length);
    const found = [];
    const stack = [];
    for (let start = 0; start < heat.length; start++) {
      if (visited[start] || !(Math.abs(heat[start]) > threshold)) continue;
      const sign = Math.sign(heat[start]);
      const region = { top: height, left: width, bottom: 0, right: 0, sum: 0 };
      visited[start] = 1;
      stack.push(start);
      while (stack.length) {
        const pixel = stack.pop();
        const x = pixel % width;
        const y = (pixel - x) / width;
        region.top = Math.min(region.top, y);
        region.left = Math.min(region.left, x);
        region.bottom = Math.max(region.bottom, y + 1);
        region.right = Math.max(region.right, x + 1);
        region.sum += Math.abs(heat[pixel]);
        for (let v = Math.max(0, y - 1); v <= Math.min(height - 1, y + 1); v++) {
          for (let u = Math.max(0, x - 1); u <= Math.min(width - 1, x + 1); u++) {
            const next = v * width + u;
            if (!visited[next] && sign * heat[next] > threshold) {
              visited[next] = 1;
              stack.push(next);
            }
          }
        }
      }
      found.push(region);
    }
    return found.sort((one, other) => other.sum - one.sum);
  };

  const HATCH = [rgba(128, 128, 128, 200), rgba(186, 186, 186, 200)];

  class Heatmap {
    constructor(canvas, places) {
      this.canvas = canvas;
      this.places = places;
      this.context = canvas.getContext("2d");
      this.image = this.context.createImageData(canvas.width, canvas.height);
      this.colours = new Uint32Array(this.image.data.buffer);
      this.painters = new Map();
    }
    painter(places) {
      if (!this.painters.has(places)) {
        const { width, height } = this.canvas;
        this.painters.set(places, PAINTERS[places.kind](places, width, height));
      }
      return this.painters.get(places);
    }
    // The map's pixels, zero where the model saw none.
    heat(cells, places) {
      const { width, height } = this.canvas;
      const heat = this.painter(places).paint(cells);
      const { unseen } = this.painter(this.places);
      if (unseen !== null) {
        for (let i = 0; i < heat.length; i++) if (unseen[i]) heat[i] = 0;
      }
      const [y0, x0, y1, x1] = places.rectangle ?? [0, 0, height, width];
      const cellArea = ((y1 - y0) * (x1 - x0)) / places.cells;
      return { heat, cellArea };
    }
    draw(heat, signed, table) {
      const { width, height } = this.canvas;
      const { unseen } = this.painter(this.places);
      const period = Math.max(4, Math.round(Math.max(width, height) / 90));
      for (let i = 0; i < heat.length; i++) {
        if (unseen !== null && unseen[i]) {
          const diagonal = (i % width) + Math.floor(i / width);
          this.colours[i] = HATCH[Math.floor(diagonal / period) % 2];
        } else {
          const share = signed ? (heat[i] + 1) / 2 : heat[i];
          this.colours[i] = table[Math.round(share * STEPS)];
        }
      }
      this.context.putImageData(this.image, 0, 0);
    }
    outline(boxes, dash) {
      this.context.lineWidth = 2;
      for (const [colour, pattern] of [["#000000", []], ["#ffffff", dash]]) {
        this.context.strokeStyle = colour;
        this.context.setLineDash(pattern);
        for (const [y0, x0, y1, x1] of boxes) {
          this.context.strokeRect(x0, y0, x1 - x0, y1 - y0);
        }
      }
    }
    write(text, x, y) {
      this.context.font = "600 15px system-ui, sans-serif";
      const { width } = this.context.measureText(text);
      const left = Math.min(x, this.canvas.width - width - 8);
      const top = Math.max(0, y - 20);
      this.context.fillStyle = "#000000";
      this.context.fillRect(left, top, width + 8, 20);
      this.context.fillStyle = "#ffffff";
      this.context.fillText(text, left + 4, top + 15);
    }
  }

  const state = {
    pinned: new Set(),
    hovered: null,
    layer: null,
    pinnedLayer: null,
  };
  const setting = (name, otherwise) => (at(name) ? at(name).checked : otherwise);
  const shown = () =>
    state.hovered !== null ? [state.hovered] : [...state.pinned].sort((a, b) => a - b);
  const layerShown = () => state.layer ?? state.pinnedLayer;

  class Result {
    constructor(content, section, number) {
      this.content = content;
      this.section = section;
      this.rows = new Rows(content.maps);
      this.shared = this.rows.range(numWords);
      this.layers = content.layers;
      this.layerRows = this.layers && this.layers.maps ? new Rows(this.layers.maps) : null;
      this.maps = [...section.querySelectorAll("canvas[data-map]")].map(
        (canvas, image) => new Heatmap(canvas, content.places[image])
      );
      section.classList.toggle("signed", content.signed);
      section.querySelector(".pictures").dataset.count =
        this.maps.length > 1 ? "several" : "one";
      this.largest = content.weights ? Math.max(0, ...content.weights) : 0;
      this.buttons = [];
      if (this.layers) this.makeLayers(number);
      const colours = content.signed ? COLOURS.signed : COLOURS.plain;
      const stops = [];
      for (let i = 0; i < 256; i += 15) stops.push(`rgb(${colours.slice(3 * i, 3 * i + 3)})`);
      section.querySelector(".ramp").style.background =
        `linear-gradient(to right, ${stops.join(", ")})`;
    }

    makeLayers() {
      const strip = this.section.querySelector(".layers");
      this.layers.indices.forEach((index, position) => {
        const button = document.createElement("button");
        button.type = "button";
        button.dataset.layer = String(position);
        button.tabIndex = position ? -1 : 0;
        button.setAttribute("aria-pressed", "false");
        const preview = (layer) => () => {
          state.layer = layer;
          schedule();
        };
        button.addEventListener("pointerenter", (event) => {
          if (event.pointerType === "mouse") preview(position)();
        });
        button.addEventListener("pointerleave", preview(null));
        button.addEventListener("focus", () => {
          if (button.matches(":focus-visible")) preview(position)();
        });
        button.addEventListener("blur", preview(null));
        button.addEventListener("click", () => {
          state.pinnedLayer = state.pinnedLayer === position ? null : position;
          state.layer = null;
          schedule();
        });
        strip.append(button);
        this.buttons.push(button);
      });
      const ends = this.section.querySelectorAll(".ends span");
      [this.layers.indices[0], this.layers.indices.at(-1)].forEach((index, end) => {
        if (end === 0 || this.buttons.length > 1) ends[end].textContent = `layer ${index}`;
      });
      strip.addEventListener("keydown", (event) => {
        const from = this.buttons.indexOf(document.activeElement);
        const moves = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: this.buttons.length - 1 };
        const to = moves[event.key];
        if (from < 0 || to === undefined || !this.buttons[to]) return;
        event.preventDefault();
        this.buttons[from].tabIndex = -1;
        this.buttons[to].tabIndex = 0;
        this.buttons[to].focus();
      });
    }

    // Normalised cells of the words, and where they lie.
    heat(words) {
      const layer = this.layerRows && layerShown();
      const inLayer = layer !== null && layer < (this.layers?.indices.length ?? 0);
      if (this.layerRows && inLayer) {
        const count = this.layers.indices.length;
        const rows = words.length ? words : [...Array(numWords).keys()];
        const each = this.layers.indices.map((_, other) =>
          this.layerRows.mean(rows.map((word) => word * count + other))
        );
        const largest = each.reduce(
          (most, one) => one.reduce((top, v) => Math.max(top, Math.abs(v)), most), 0
        );
        const signed = this.layers.signed;
        return {
          cells: scaled(each[layer], signed ? [-largest, largest] : [0, largest], signed),
          places: this.layers.places,
          signed,
        };
      }
      const signed = this.content.signed;
      const values = this.rows.mean(words.length ? words : [numWords]);
      const shared = words.length && at("controls").querySelector("[value=shared]").checked;
      const range = shared ? this.shared : rangeOf(values);
      return { cells: scaled(values, range, signed), places: this.content.places, signed };
    }

    weight(words) {
      const { weights } = this.content;
      return weights && words.length ? Math.max(...words.map((word) => weights[word])) : null;
    }

    // The smaller a word's weight, the fainter its map.
    strength(words) {
      const weight = this.weight(words);
      if (weight === null || !setting("fade", false)) return 1;
      const share = this.largest > 0 ? Math.max(0, weight) / this.largest : 0;
      return FAINTEST + (1 - FAINTEST) * Math.sqrt(share);
    }

    show(words) {
      const { cells, places, signed } = this.heat(words);
      const opacity = Number(at("opacity").value) / 100;
      const threshold = Number(at("threshold").value) / 100;
      const table = tableOf(signed, opacity * this.strength(words), threshold);
      let first = 0;
      const name = nameOf(words);
      const drawn = this.maps.map((map, image) => {
        const part = cells.subarray(first, first + places[image].cells);
        first += places[image].cells;
        return map.heat(part, places[image]);
      });
      this.maps.forEach((map, image) => {
        map.draw(drawn[image].heat, signed, table);
        if (setting("views", false)) map.outline(map.places.views ?? [], [6, 6]);
        map.canvas.parentElement.classList.toggle("dimmed", opacity > 0);
        const which = this.maps.length > 1 ? ` on picture ${image + 1}` : "";
        map.canvas.setAttribute("aria-label", `Heatmap of ${name}${which}, ${this.content.name}`);
      });
      const shares = at("boxes").checked ? this.outlineRegions(drawn, threshold) : [];
      this.showVerdict(words, cells, shares);
      this.showLayers(words);
    }

    // Boxes around the regions beyond the threshold, and their shares of the map.
    outlineRegions(drawn, threshold) {
      const sums = drawn.map(
        ({ heat, cellArea }) => heat.reduce((sum, v) => sum + Math.abs(v), 0) / cellArea
      );
      const total = sums.reduce((sum, one) => sum + one, 0);
      const shares = [];
      this.maps.forEach((map, image) => {
        const { heat, cellArea } = drawn[image];
        const { width, height } = map.canvas;
        const regions = regionsOf(heat, width, height, threshold || data.threshold);
        for (const { top, left, bottom, right, sum } of regions.slice(0, MOST_REGIONS)) {
          const share = sum / cellArea / total;
          shares.push(share);
          map.outline([[top, left, bottom, right]], []);
          map.write(percent(share), left, top);
        }
      });
      return shares;
    }

    showVerdict(words, cells, shares) {
      const verdict = this.section.querySelector(".verdict");
      const parts = [];
      const weight = this.weight(words);
      if (weight !== null && data.results.length > 1) {
        parts.push(`weight ${digits(weight)}`);
      }
      if (!cells.some((value) => value !== 0)) {
        parts.push("a zero map: it points nowhere");
      } else if (weight === 0 && data.results.length > 1) {
        parts.push("no visual evidence");
      }
      if (words.length === 1 && this.content.ratherThan && data.results.length > 1) {
        parts.push(`rather than ${this.content.ratherThan[words[0]]}`);
      }
      if (shares.length) parts.push(`regions: ${shares.map(percent).join(", ")} of the map`);
      verdict.textContent = parts.join(" \u00b7 ");
      verdict.hidden = data.results.length === 1 && !parts.length;
      if (!verdict.hidden && !parts.length) verdict.textContent = "\u00a0";
    }

    showLayers(words) {
      if (!this.layers) return;
      const rows = words.length ? words : [...Array(numWords).keys()];
      const sums = this.layers.indices.map((_, layer) =>
        rows.reduce((sum, word) => sum + this.layers.strengths[word][layer], 0)
      );
      const total = sums.reduce((sum, one) => sum + one, 0);
      const most = Math.max(...sums, 0);
      const current = layerShown();
      this.buttons.forEach((button, layer) => {
        const share = total > 0 ? sums[layer] / total : 0;
        button.style.setProperty("--share", most > 0 ? sums[layer] / most : 0);
        button.setAttribute("aria-pressed", String(state.pinnedLayer === layer));
        button.setAttribute("aria-label", `Layer ${this.layers.indices[layer]}: ${percent(share)}`);
        button.title = button.getAttribute("aria-label");
      });
      const note = this.section.querySelector(".layer-note");
      const known = current !== null && current < sums.length;
      const shows = this.layerRows ? "the picture shows this layer alone" : "maps of single layers were too large to keep here";
      note.textContent = known
        ? `Layer ${this.layers.indices[current]}: ${percent(total > 0 ? sums[current] / total : 0)} of the attribution; ${shows}.`
        : "";
    }
  }

  const digits = (value) => {
    if (value === 0) return "0";
    return Math.abs(value) >= 0.001 && Math.abs(value) < 1e5
      ? String(Number(value.toPrecision(3))) : value.toExponential(1);
  };
  const percent = (share) => {
    if (share > 0 && share < 0.001) return "under 0.1 %";
    if (share > 0.9995 && share < 1) return "over 99.9 %";
    return `${Number((100 * share).toFixed(1))} %`;
  };
  const nameOf = (words) => {
    if (!words.length) return "the whole answer";
    if (words.length > 12) return `${words.length} words`;
    return words.map((word) => data.words[word].label).join(" + ");
  };

  const results = [];

  const showReadout = (words) => {
    const chosen = at("chosen");
    chosen.replaceChildren();
    if (!words.length) chosen.textContent = "The whole answer";
    words.slice(0, 12).forEach((word, position) => {
      if (position) chosen.append(" + ");
      const text = document.createElement("bdi");
      text.textContent = data.words[word].label;
      chosen.append(text);
    });
    if (words.length > 12) chosen.append(` and ${words.length - 12} more`);
    const numbers = at("numbers");
    numbers.replaceChildren();
    const add = (name, value) => {
      const row = document.createElement("div");
      const term = document.createElement("dt");
      const number = document.createElement("dd");
      term.textContent = name;
      number.textContent = value;
      row.append(term, number);
      numbers.append(row);
    };
    if (results.length === 1) {
      const weight = results[0].weight(words);
      if (weight !== null) add("weight", `${digits(weight)} of at most ${digits(results[0].largest)}`);
    }
    if (results.length === 1 && words.length === 1 && results[0].content.ratherThan) {
      add("rather than", results[0].content.ratherThan[words[0]]);
    }
    const known = words.length && words.every((word) => data.words[word].probability !== null);
    if (known) {
      add("probability", percent(words.reduce((all, word) => all * data.words[word].probability, 1)));
    }
    if (words.length > 1) add("words", String(words.length));
    const blind = words.length && results.every(({ content }) => words.every((word) => !content.evidence[word]));
    const weightless = blind && results[0].weight(words) === 0;
    let remark = "";
    if (!words.length) {
      remark = numWords ? "All words together. Point at one to see its own map." : "";
    } else if (weightless) {
      remark = "No visual evidence: the picture supports this no more than the text before it does. The faint map shows where the model looked nevertheless.";
    } else if (blind) {
      remark = "No visual evidence: nothing in the picture speaks for it.";
    } else if (results.length === 1 && results[0].weight(words) > 0) {
      remark = "The picture supports this more than the text before it does.";
    }
    at("remark").textContent = remark;
    const full = words.length === 1 ? data.words[words[0]].full : undefined;
    at("whole").hidden = full === undefined;
    at("full").textContent = full ?? "";
  };

  const show = () => {
    const words = shown();
    for (const result of results) result.show(words);
    showReadout(words);
    wordElements.forEach((element, word) => {
      element.setAttribute("aria-selected", String(state.pinned.has(word)));
      element.classList.toggle("shown", words.includes(word));
    });
    at("clear").disabled = !state.pinned.size && state.pinnedLayer === null;
    at("opacity-value").textContent = `${at("opacity").value} %`;
    at("threshold-value").textContent = `${at("threshold").value} %`;
    root.dataset.shown = words.length ? words.join(",") : "all";
  };

  let waiting = false;
  const schedule = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      show();
    });
  };

  const pin = (words) => {
    state.pinned = new Set(words);
    schedule();
  };
  const toggle = (word) => {
    if (!state.pinned.delete(word)) state.pinned.add(word);
    schedule();
  };
  const choose = (word, adding) => {
    if (adding || at("combine").checked) toggle(word);
    else pin(state.pinned.size === 1 && state.pinned.has(word) ? [] : [word]);
  };
  const clear = () => {
    state.hovered = null;
    state.layer = null;
    state.pinnedLayer = null;
    pin([]);
  };
  const span = (one, other) => {
    const words = [];
    for (let word = Math.min(one, other); word <= Math.max(one, other); word++) words.push(word);
    return words;
  };

  const answer = at("answer");
  const wordOf = (target) => {
    const element = target instanceof Element ? target.closest("[data-word]") : null;
    return element ? Number(element.dataset.word) : null;
  };
  // The words are one stop of the Tab key: the word that had the focus last.
  const makeStop = (word) => {
    for (const element of wordElements) element.tabIndex = -1;
    wordElements[word].tabIndex = 0;
  };

  // The word above or below, the closest to the middle of this one.
  const onNextLine = (word, down) => {
    const middle = (box) => (box.left + box.right) / 2;
    const boxes = wordElements.map((element) => element.getClientRects()[0]);
    const from = boxes[word];
    const beyond = (box) => (down ? box.top > from.top + from.height / 2 : box.top < from.top - from.height / 2);
    const tops = boxes.filter(beyond).map((box) => box.top);
    if (!tops.length) return word;
    const line = down ? Math.min(...tops) : Math.max(...tops);
    let best = word;
    let distance = Infinity;
    boxes.forEach((box, other) => {
      const away = Math.abs(middle(box) - middle(from));
      if (Math.abs(box.top - line) < box.height / 2 && away < distance) {
        distance = away;
        best = other;
      }
    });
    return best;
  };

  const listen = () => {
    let dragged = null;
    answer.addEventListener("pointerover", (event) => {
      if (event.pointerType !== "mouse") return;
      const word = wordOf(event.target);
      // On a busy machine the pointer may be elsewhere before a click is forgotten.
      const isPressed = dragged !== null && (event.buttons & 1) === 1;
      if (isPressed && word !== null && (dragged.moved || word !== dragged.from)) {
        dragged.moved = true;
        state.hovered = null;
        const before = dragged.adding ? dragged.before : [];
        pin([...before, ...span(dragged.from, word)]);
      } else if (!isPressed || !dragged.moved) {
        state.hovered = word;
        schedule();
      }
    });
    answer.addEventListener("pointerleave", () => {
      state.hovered = null;
      schedule();
    });
    answer.addEventListener("pointerdown", (event) => {
      const word = wordOf(event.target);
      if (word === null || event.button !== 0 || event.pointerType !== "mouse") return;
      const adding =
        event.shiftKey || event.ctrlKey || event.metaKey || at("combine").checked;
      dragged = { from: word, moved: false, adding, before: [...state.pinned] };
    });
    document.addEventListener("pointerup", () => {
      // The click that follows a drag chooses nothing.
      setTimeout(() => {
        dragged = null;
      });
    });
    answer.addEventListener("click", (event) => {
      const word = wordOf(event.target);
      if (word === null || dragged?.moved) return;
      choose(word, event.shiftKey || event.ctrlKey || event.metaKey);
    });
    answer.addEventListener("focusin", (event) => {
      const word = wordOf(event.target);
      if (word === null) return;
      makeStop(word);
      if (!event.target.matches(":focus-visible")) return;
      state.hovered = word;
      schedule();
    });
    answer.addEventListener("focusout", () => {
      state.hovered = null;
      schedule();
    });
    answer.addEventListener("keydown", (event) => {
      const word = wordOf(event.target);
      if (word === null) return;
      const forwards = answer.dir === "rtl" ? -1 : 1;
      const moves = {
        ArrowRight: () => word + forwards,
        ArrowLeft: () => word - forwards,
        ArrowDown: () => onNextLine(word, true),
        ArrowUp: () => onNextLine(word, false),
        Home: () => 0,
        End: () => numWords - 1,
      };
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        choose(word, event.shiftKey || event.ctrlKey);
      } else if (Object.hasOwn(moves, event.key)) {
        event.preventDefault();
        const to = Math.min(numWords - 1, Math.max(0, moves[event.key]()));
        if (event.shiftKey) pin([...state.pinned, word, to]);
        wordElements[to].focus();
      }
    });
  };

  const setTheme = () => {
    const systemDark = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);
    const button = at("theme");
    const name = () => {
      button.textContent = isDark() ? "Light" : "Dark";
      button.setAttribute("aria-label", `Use ${isDark() ? "light" : "dark"} colours`);
    };
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      name();
    });
    systemDark.addEventListener("change", name);
    button.hidden = false;
    name();
  };

  // In a notebook, the surrounding cell makes the frame as high as the page.
  const tellHeight = () => {
    const tell = () => {
      const height = Math.ceil(document.body.getBoundingClientRect().height);
      // A cell that is out of sight may not be laid out: it keeps its height.
      if (height > 0) parent.postMessage({ captumDexarHeight: height }, "*");
    };
    new ResizeObserver(tell).observe(document.body);
    addEventListener("message", (event) => {
      if (event.source === parent) tell();
    });
    tell();
  };

  for (const image of document.querySelectorAll("img[data-picture]")) {
    image.src = data.pictures[Number(image.dataset.picture)];
  }
  for (const frame of document.querySelectorAll(".frame")) {
    frame.style.setProperty("--ratio", frame.dataset.width / frame.dataset.height);
  }
  if (numWords > 80) root.dataset.long = "";
  for (const id of ["stage", "readout", "controls"]) at(id).hidden = false;
  document.querySelectorAll("[data-result]").forEach((section, number) => {
    results.push(new Result(data.results[number], section, number));
  });
  setTheme();
  if (answer) listen();
  at("clear").addEventListener("click", clear);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") clear();
  });
  at("controls").addEventListener("input", schedule);
  if ("embedded" in root.dataset && parent !== window) tellHeight();
  show();
})();
