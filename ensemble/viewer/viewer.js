// A photograph with its tiles: zoom, heat map, threshold, and labels by hand. page.py says what it is told.
"use strict";

const CrackViewer = (() => {
  const MOST_SCALE = 16, STEP = 1.25, DRAG_PX = 5, NUMBER_PX = 56, LINE_PX = 2, MOST_LISTED = 300;
  const DARK = "rgb(0 0 0 / 0.85)", LIGHT = "rgb(255 255 255)";
  const count = n => n.toLocaleString("en-US");
  const percent = share => `${(100 * share).toFixed(1)}\u00a0%`;

  class Viewer {
    constructor(section) {
      this.section = section;
      this.data = JSON.parse(section.querySelector("script").textContent);
      const {tiles, tile_px: [width, height]} = this.data;
      this.tiles = tiles.tile.map((tile, i) => ({
        tile, left: tiles.left_px[i], top: tiles.top_px[i], width, height, probability: tiles.probability[i],
        called: !!tiles.called[i], blank: !!tiles.blank[i], between: !!tiles.between[i],
        key: [tiles.left_px[i], tiles.top_px[i], width, height].join(),
      }));
      this.boxes = this.tiles.map(t => [t.left, t.top, t.width, t.height]);
      this.rising = [...this.tiles.keys()].sort((a, b) => this.tiles[a].probability - this.tiles[b].probability);
      this.hasJudged = this.data.threshold !== null;
      this.threshold = null;  // as the ensemble judges
      this.current = this.hovered = -1;
      this.pointers = new Map();
      this.labels = CrackLabels.read(this.data.key);
      this.stage = this.find(".stage");
      this.image = this.find("img");
      this.canvas = this.find("canvas");
      this.layer = document.createElement("canvas");
      this.isStored = CrackLabels.write(this.data.key, this.labels);
      this.listen();
      this.judge();
      this.tellLabels();
      this.fit();
    }

    find(selector) { return this.section.querySelector(selector); }
    shown(name) { return this.find(`[data-show="${name}"]`); }
    setting(name) { return this.find(`[data-set="${name}"]`); }
    button(name) { return this.find(`[data-do="${name}"]`); }

    listen() {
      const actions = {
        mark: () => this.mark(this.current), reset: () => this.setThreshold(null), save: () => this.save(),
        forget: () => this.forget(), rest: () => this.labelRest(), in: () => this.zoom(STEP), out: () => this.zoom(1 / STEP),
        fit: () => this.fit(), whole: () => this.zoom(1 / this.scale),
      };
      for (const [name, action] of Object.entries(actions)) this.button(name)?.addEventListener("click", action);
      this.setting("fade")?.addEventListener("input", () => this.redraw());
      this.setting("outlines").addEventListener("input", () => this.redraw());
      this.setting("threshold")?.addEventListener("input", event => this.setThreshold(Number(event.target.value)));
      this.find(".list")?.addEventListener("toggle", () => this.list());
      this.stage.addEventListener("keydown", event => this.press(event));
      this.stage.addEventListener("wheel", event => this.turnWheel(event), {passive: false});
      this.stage.addEventListener("pointerdown", event => this.touch(event));
      this.stage.addEventListener("pointermove", event => this.move(event));
      this.stage.addEventListener("pointerup", event => this.release(event));
      this.stage.addEventListener("pointercancel", event => this.pointers.delete(event.pointerId));
      this.stage.addEventListener("pointerleave", () => this.hover(-1));
      this.image.addEventListener("error", () => this.stage.classList.add("broken"));
      new ResizeObserver(() => (this.isFitted ? this.fit() : this.place())).observe(this.stage);
      for (const name of ["storage", "pageshow"]) addEventListener(name, () => this.follow());
      const ramp = this.shown("ramp");
      if (ramp) {
        const stops = this.data.colours.map(([p, r, g, b, a]) => `rgb(${r} ${g} ${b} / ${a}) ${100 * p}%`);
        ramp.style.setProperty("--stops", stops.join(", "));
      }
    }

    // The view: a point of the photograph is drawn at x + scale · point.

    get fittingScale() {
      const {width_px, height_px} = this.data.image;
      return Math.min(this.stage.clientWidth / width_px, this.stage.clientHeight / height_px);
    }

    get leastScale() { return Math.min(1, this.fittingScale); }

    fit() {
      this.scale = this.fittingScale;
      this.x = this.y = 0;
      this.isFitted = true;
      this.place();
    }

    zoom(factor, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
      const scale = Math.min(Math.max(this.scale * factor, this.leastScale), Math.max(MOST_SCALE, this.fittingScale));
      this.x = x - (x - this.x) * (scale / this.scale);
      this.y = y - (y - this.y) * (scale / this.scale);
      this.scale = scale;
      this.isFitted = scale === this.fittingScale;
      this.place();
    }

    place() {
      const clamp = (start, shown, room) =>
        shown <= room ? (room - shown) / 2 : Math.min(0, Math.max(start, room - shown));
      const {clientWidth: width, clientHeight: height} = this.stage;
      const shownWidth = this.data.image.width_px * this.scale, shownHeight = this.data.image.height_px * this.scale;
      this.x = clamp(this.x, shownWidth, width);
      this.y = clamp(this.y, shownHeight, height);
      // in parts of the frame, so that it is the same on paper, where the frame is narrower
      const place = {left: this.x / width, top: this.y / height, width: shownWidth / width, height: shownHeight / height};
      for (const [name, part] of Object.entries(place)) this.image.style[name] = `${100 * part}%`;
      this.stage.style.setProperty("--shape", `${width} / ${height}`);
      this.stage.style.touchAction = this.scale <= this.fittingScale ? "pan-y" : "none";
      const shown = 100 * this.scale;
      this.shown("zoom").textContent = `${shown.toFixed(shown < 10 ? 1 : 0)} %`;
      this.redraw();
    }

    show(tile) {  // brings a tile into view
      const room = [this.stage.clientWidth, this.stage.clientHeight], side = tile.width * this.scale;
      const left = this.x + tile.left * this.scale, top = this.y + tile.top * this.scale;
      if (left < 0 || left + side > room[0]) this.x = room[0] / 2 - (tile.left + tile.width / 2) * this.scale;
      if (top < 0 || top + side > room[1]) this.y = room[1] / 2 - (tile.top + tile.height / 2) * this.scale;
      this.place();
    }

    // Judging

    setThreshold(threshold) {
      this.threshold = threshold;
      this.judge();
      this.redraw();
    }

    judge() {
      const moved = this.threshold !== null;
      this.called = this.tiles.map(t => (moved ? t.probability !== null && t.probability >= this.threshold : t.called));
      if (!this.hasJudged) return;
      const slider = this.setting("threshold"), value = moved ? this.threshold : this.data.threshold;
      if (!moved) slider.value = value;
      slider.nextElementSibling.textContent = value.toFixed(3);
      this.button("reset").disabled = !moved;
      const judged = this.tiles.map(t => !t.blank), first = this.tiles.map(t => !t.between);
      const figures = CrackFigures.measureTiles(this.boxes, this.called, judged, first);
      const numFirst = first.filter(Boolean).length, numBetween = first.length - numFirst;
      const between = numBetween ? ` and ${count(figures.numCalledBetween)} of ${count(numBetween)} overlapping ones` : "";
      this.shown("called").textContent = `${count(figures.numCalled)} of ${count(numFirst)}${between}`;
      this.shown("share").textContent = percent(figures.share);
      const metres = this.data.mm_per_px ? `, ${(figures.chainPx * this.data.mm_per_px / 1000).toFixed(2)} m` : "";
      this.shown("chain").textContent = figures.chainPx ? `${figures.chainTiles.toFixed(1)} tiles${metres}` : "none";
      this.read();
      this.list();
    }

    // Drawing

    redraw() {
      this.frame ??= requestAnimationFrame(() => {
        this.frame = null;
        this.draw();
      });
    }

    draw() {
      const [width, height] = [this.stage.clientWidth, this.stage.clientHeight], ratio = devicePixelRatio || 1;
      for (const canvas of [this.canvas, this.layer]) {
        if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
          canvas.width = Math.round(width * ratio);
          canvas.height = Math.round(height * ratio);
        }
      }
      const pen = this.canvas.getContext("2d");
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, width, height);
      const visible = this.rising.filter(i => {
        const [x, y, w, h] = this.rectangle(i);
        return x < width && y < height && x + w > 0 && y + h > 0;
      });
      this.drawHeat(pen, visible);
      if (this.setting("outlines").checked) {
        if (this.hasJudged) this.drawOutlines(pen, visible, ratio);
        else this.drawGrid(pen, visible);
      }
      for (const i of visible) this.drawSigns(pen, i);
      if (this.current >= 0) this.frameTile(pen, this.rectangle(this.current));
    }

    rectangle(i) {  // on the stage, on whole pixels, so that neighbours share their border
      const t = this.tiles[i], x = Math.round(this.x + t.left * this.scale), y = Math.round(this.y + t.top * this.scale);
      const right = Math.round(this.x + (t.left + t.width) * this.scale);
      return [x, y, right - x, Math.round(this.y + (t.top + t.height) * this.scale) - y];
    }

    drawHeat(pen, visible) {  // where tiles overlap, the surest is seen: it comes last
      const fade = Number(this.setting("fade")?.value ?? 0);
      if (!fade) return;
      for (const i of visible) {
        const {probability} = this.tiles[i];
        if (probability === null) continue;
        const [red, green, blue, opacity] = this.colour(probability);
        const rectangle = this.rectangle(i);
        pen.clearRect(...rectangle);
        pen.fillStyle = `rgb(${red} ${green} ${blue} / ${opacity * fade})`;
        pen.fillRect(...rectangle);
      }
    }

    colour(probability) {
      const stops = this.data.colours, after = Math.max(1, stops.findIndex(stop => stop[0] >= probability));
      const [low, high] = [stops[after - 1], stops[after]];
      const part = (probability - low[0]) / (high[0] - low[0]);
      return low.slice(1).map((value, n) => value + part * (high[n + 1] - value));
    }

    // One line around all that called tiles cover: what other called tiles cover of it is taken away again.
    drawOutlines(pen, visible, ratio) {
      const layer = this.layer.getContext("2d"), called = visible.filter(i => this.called[i]);
      layer.setTransform(ratio, 0, 0, ratio, 0, 0);
      layer.clearRect(0, 0, this.layer.width, this.layer.height);
      const inset = ([x, y, w, h], by) => [x + by, y + by, Math.max(0, w - 2 * by), Math.max(0, h - 2 * by)];
      for (const i of called) {
        layer.fillStyle = DARK;
        layer.fillRect(...this.rectangle(i));
        const [red, green, blue] = this.colour(Math.max(0.25, this.tiles[i].probability));
        layer.fillStyle = `rgb(${red} ${green} ${blue})`;
        layer.fillRect(...inset(this.rectangle(i), 1));
      }
      for (const i of called) layer.clearRect(...inset(this.rectangle(i), 1 + LINE_PX));
      pen.drawImage(this.layer, 0, 0, this.layer.width / ratio, this.layer.height / ratio);
    }

    drawGrid(pen, visible) {
      for (const [colour, width] of [[DARK, 2], [LIGHT, 1]]) {
        pen.strokeStyle = colour;
        pen.lineWidth = width / 2;
        for (const i of visible) pen.strokeRect(...this.rectangle(i));
      }
    }

    drawSigns(pen, i) {
      const tile = this.tiles[i], [x, y, w, h] = this.rectangle(i), label = this.labels.get(tile.key);
      if (tile.blank && w > 4) {
        for (const [colour, width] of [[DARK, 3], [LIGHT, 1]]) {
          pen.strokeStyle = colour;
          pen.lineWidth = width;
          pen.beginPath();
          pen.moveTo(x, y); pen.lineTo(x + w, y + h); pen.moveTo(x, y + h); pen.lineTo(x + w, y);
          pen.stroke();
        }
      }
      if (this.called[i] && w >= NUMBER_PX && !tile.between) this.write(pen, tile.probability.toFixed(2), x + 5, y + 5);
      if (!label) return;
      const side = Math.max(9, Math.min(22, w / 3)), right = x + w - 3, bottom = y + h - 3;
      pen.fillStyle = LIGHT;
      pen.fillRect(right - side, bottom - side, side, side);
      pen.strokeStyle = pen.fillStyle = "rgb(0 60 160)";
      pen.lineWidth = side / 8;
      pen.strokeRect(right - side, bottom - side, side, side);
      pen.beginPath();
      if (label.label) {  // a tick: there is a crack
        pen.moveTo(right - 0.8 * side, bottom - 0.45 * side);
        pen.lineTo(right - 0.55 * side, bottom - 0.2 * side);
        pen.lineTo(right - 0.2 * side, bottom - 0.8 * side);
      } else {  // a cross: there is none
        pen.moveTo(right - 0.8 * side, bottom - 0.8 * side); pen.lineTo(right - 0.2 * side, bottom - 0.2 * side);
        pen.moveTo(right - 0.8 * side, bottom - 0.2 * side); pen.lineTo(right - 0.2 * side, bottom - 0.8 * side);
      }
      pen.stroke();
    }

    write(pen, text, x, y) {
      pen.font = "600 12px system-ui, sans-serif";
      pen.fillStyle = DARK;
      pen.fillRect(x, y, pen.measureText(text).width + 6, 16);
      pen.fillStyle = LIGHT;
      pen.textBaseline = "middle";
      pen.fillText(text, x + 3, y + 8.5);
    }

    frameTile(pen, [x, y, w, h]) {
      pen.lineWidth = 5;
      pen.strokeStyle = LIGHT;
      pen.strokeRect(x, y, w, h);
      pen.lineWidth = 2.5;
      pen.strokeStyle = "rgb(0 90 200)";
      pen.strokeRect(x, y, w, h);
    }

    // Tiles under the pointer and the keys

    findAt(x, y) {
      const px = (x - this.x) / this.scale, py = (y - this.y) / this.scale;
      let found = -1;
      for (const i of this.rising) {
        const t = this.tiles[i];
        if (px >= t.left && py >= t.top && px < t.left + t.width && py < t.top + t.height) found = i;
      }
      return found;
    }

    hover(i) {
      if (this.hovered === i) return;
      this.hovered = i;
      this.read();
    }

    select(i) {
      this.current = i;
      this.hovered = -1;
      this.read();
      if (i >= 0) this.show(this.tiles[i]);
    }

    read() {
      const readout = this.find(".readout"), i = this.hovered >= 0 ? this.hovered : this.current;
      if (i >= 0) readout.textContent = this.describe(i);
      const button = this.button("mark"), tile = this.tiles[this.current], label = tile && this.labels.get(tile.key);
      button.disabled = !tile || tile.blank;
      if (tile) button.textContent = label ? `Take back the ${this.what} of ${this.name(tile)}` : `Mark ${this.name(tile)} as ${this.hasJudged ? "wrong" : "cracked"}`;
    }

    name(tile) { return tile.tile || "the picture"; }

    describe(i) {
      const tile = this.tiles[i], label = this.labels.get(tile.key), name = tile.tile ? `Tile ${tile.tile}` : "The picture";
      const yours = label ? `; you say: ${label.label ? "cracked" : "not cracked"}` : "";
      if (tile.blank) return `${name} shows nothing and is not judged`;
      if (tile.probability === null) return `${name}${yours}`;
      const verdict = this.called[i] ? "called cracked" : "called uncracked";
      return `${name}: probability of a crack ${tile.probability.toFixed(3)}, ${verdict}${yours}`;
    }

    walk(right, down) {
      if (this.current < 0) return this.select((this.hasJudged ? this.surest() : this.open())[0] ?? 0);
      const from = this.tiles[this.current];
      let best = -1, least = Infinity;
      this.tiles.forEach((tile, i) => {
        const dx = tile.left - from.left, dy = tile.top - from.top;
        const along = right * dx + down * dy, across = Math.abs(right ? dy : dx);
        if (!tile.between && along > 0 && along + 4 * across < least) [best, least] = [i, along + 4 * across];
      });
      if (best >= 0) this.select(best);
      return undefined;
    }

    surest() { return this.rising.filter(i => this.called[i]).reverse(); }

    visit(step) {
      const order = this.surest();
      if (!order.length) return;
      const at = order.indexOf(this.current);
      this.select(order[at < 0 ? 0 : (at + step + order.length) % order.length]);
    }

    press(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const arrows = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
      const keys = {
        "+": () => this.zoom(STEP), "=": () => this.zoom(STEP), "-": () => this.zoom(1 / STEP), 0: () => this.fit(),
        1: () => this.zoom(1 / this.scale), n: () => this.visit(1), p: () => this.visit(-1),
        c: () => this.decide(1), u: () => this.decide(0), x: () => this.mark(this.current), Enter: () => this.mark(this.current), " ": () => this.mark(this.current),
      };
      const arrow = arrows[event.key];
      const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (!arrow && !action) return;
      event.preventDefault();
      if (arrow && event.shiftKey) {
        this.x -= 80 * arrow[0];
        this.y -= 80 * arrow[1];
        this.place();
      } else if (arrow) this.walk(...arrow);
      else action();
    }

    turnWheel(event) {
      const factor = Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015));
      if (factor < 1 && this.scale <= this.leastScale) return;  // the page scrolls on
      event.preventDefault();
      this.zoom(factor, ...this.locate(event));
    }

    locate(event) {
      const box = this.stage.getBoundingClientRect();
      return [event.clientX - box.left - this.stage.clientLeft, event.clientY - box.top - this.stage.clientTop];
    }

    touch(event) {
      if (event.button) return;
      this.stage.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, this.locate(event));
      this.start = this.locate(event);
      this.isDrag = this.pointers.size > 1;
    }

    move(event) {
      const here = this.locate(event), before = this.pointers.get(event.pointerId);
      if (!before) return this.hover(this.findAt(...here));
      const others = [...this.pointers].filter(([id]) => id !== event.pointerId);
      if (Math.hypot(here[0] - this.start[0], here[1] - this.start[1]) > DRAG_PX) this.isDrag = true;
      this.pointers.set(event.pointerId, here);
      if (others.length) {
        const [, other] = others[0];
        const apart = point => Math.hypot(point[0] - other[0], point[1] - other[1]);
        this.zoom(apart(here) / Math.max(1, apart(before)), (here[0] + other[0]) / 2, (here[1] + other[1]) / 2);
      } else if (this.isDrag) {
        this.x += here[0] - before[0];
        this.y += here[1] - before[1];
        this.place();
      }
      return undefined;
    }

    release(event) {
      const was = this.pointers.delete(event.pointerId);
      if (!was || this.isDrag || this.pointers.size) return;
      const found = this.findAt(...this.locate(event));
      if (found < 0) return;
      const marks = event.pointerType === "mouse" || found === this.current;
      this.current = found;
      if (marks) this.mark(found);
      this.read();
      this.redraw();
    }

    // Labels, which another page of this browser may have changed meanwhile

    get what() { return this.hasJudged ? "correction" : "label"; }

    follow() {
      if (this.isStored) this.labels = CrackLabels.read(this.data.key);
      this.tellLabels();
    }

    change(edit) {
      this.follow();
      edit();
      this.isStored = CrackLabels.write(this.data.key, this.labels);
      this.tellLabels();
    }

    mark(i) {
      const tile = this.tiles[i];
      if (!tile || tile.blank) return;
      const label = {tile: tile.tile, label: this.called[i] ? 0 : 1};
      this.change(() => this.labels.delete(tile.key) || this.labels.set(tile.key, label));
    }

    // On a page to label on: gives the tile its label and goes on to the next one that has none.
    decide(label) {
      const tile = this.tiles[this.current];
      if (this.hasJudged || !tile || tile.blank) return;
      this.change(() => this.labels.set(tile.key, {tile: tile.tile, label}));
      const open = this.open(), next = open.find(i => i > this.current) ?? open[0];
      if (next !== undefined) this.select(next);
    }

    open() { return [...this.tiles.keys()].filter(i => !this.tiles[i].blank && !this.labels.has(this.tiles[i].key)); }

    labelRest() {
      this.change(() => {
        for (const i of this.open()) this.labels.set(this.tiles[i].key, {tile: this.tiles[i].tile, label: 0});
      });
    }

    forget() {
      if (confirm(`Forget all ${this.what}s of this photograph?`)) this.change(() => this.labels.clear());
    }

    tellLabels() {
      const number = this.labels.size, {what} = this;
      const kept = this.isStored ? "kept by this browser" : "not kept by this browser: save them before you leave the page";
      const all = this.hasJudged ? "" : ` of ${count(number + this.open().length)} tiles`;
      const cracked = [...this.labels.values()].filter(each => each.label).length;
      const which = this.hasJudged ? "" : `, ${count(cracked)} of them cracked`;
      this.shown("marks").textContent = number
        ? `${count(number)} ${what}${number === 1 ? "" : "s"}${all} on this photograph${which}, ${kept}.`
        : `No ${what}s on this photograph yet.`;
      if (this.button("rest")) this.button("rest").disabled = !this.open().length;
      this.button("save").disabled = this.button("forget").disabled = !number;
      this.read();
      this.redraw();
    }

    save() {
      const {picture} = this.data, stem = picture.split(/[/\\]/).pop().replace(/\.[^.]*$/, "");
      CrackLabels.save(`${this.hasJudged ? "corrections" : "labels"}-${stem}.csv`, [{picture, labels: this.labels}]);
    }

    list() {
      if (!this.hasJudged || !this.find(".list").open) return;
      const order = this.surest(), items = order.slice(0, MOST_LISTED).map(i => {
        const item = document.createElement("li"), button = document.createElement("button");
        button.type = "button";
        button.textContent = this.describe(i);
        button.addEventListener("click", () => {
          this.select(i);
          this.stage.focus();
        });
        item.append(button);
        return item;
      });
      if (order.length > items.length) {
        const more = document.createElement("li");
        more.textContent = `and ${count(order.length - items.length)} less sure ones`;
        items.push(more);
      }
      this.shown("list").replaceChildren(...items);
    }
  }

  return {open: section => new Viewer(section)};
})();

for (const section of document.querySelectorAll(".viewer")) CrackViewer.open(section);
