/* The image viewer: up to four linked panes, each a NiiVue instance that holds one slice.
 *
 * Whole volumes stay in main memory as they came; NiiVue holds the geometry of one slice, and its texture gets the
 * colours of the slice on screen. Left to itself NiiVue colours every voxel of a volume when the window changes, and
 * computes gradients for surfaces that nobody sees: without a graphics card one slice took 150 ms, and four panes would
 * need gigabytes of texture. So, too, the slice that comes first is drawn as the volume that replaces it.
 *
 * The slice is in display axes: u towards right (axial, coronal) or anterior (sagittal), v towards anterior (axial) or
 * superior, both in mm. In NiiVue's radiological convention u grows towards the left of the screen and v upwards: the
 * patient's left is on the right, and a face looks to the left.
 *
 *     space.js     places and planes              volume.js    files, and how they come
 *     painting.js  colours of a slice             cell.js      one pane on the screen
 *     drawings.js  regions and marks              viewer.js    what the panes share: view, tools, mouse and keys
 */

import { Cell } from "./cell.js";
import { Drawings, TOOLS } from "./drawings.js";
import { element, setText } from "./page.js";
import { PLANES, at, clamp, rounded, turned } from "./space.js";
import { Source } from "./volume.js";

const DISCLAIMER = "research use only, not for diagnosis";
const LAYOUTS = [1, 2, 4];
const PANES = 6;
const FIRST_WINDOW = { HU: [-160, 240], SUV: [0, 7] };
const DIFFERENCE_REACH = { HU: 100, SUV: 1 };
const DEVIATION_REACH = { HU: 50, SUV: 1 };
const FIRST_THRESHOLD = { HU: 10, SUV: 0.2 };
const FIRST_HEAT = { range: [0, 5], opacity: 0.7 };
const REPORT_MS = 500;
const HOLD_MS = 300; // a space bar held longer than this swaps back when it is let go
const CLICK_PX = 3; // a press that moved less sets the position instead of the window
const NOTCH = 50; // a wheel's notch is one slice however large; a touchpad's small steps add up
const PREFETCH_BYTES = 1.5e9; // images out of sight are fetched ahead up to this sum
const HELP = [
  "wheel, arrows: slices; page up and down: ten; home, end: first and last",
  "left drag: window (right is wider, down is a higher level); shift or middle drag: move",
  "ctrl + wheel or right drag: zoom; double click or r: fit; click: set the position; x: lines",
  "a, c, g: axial, coronal, sagittal; i: invert; shift + 1, 2, ...: presets; u: uncertainty",
  "one pane: 1 to 6: image; space: swap the first two (hold or press); s: swipe them",
];
const DRAWING_HELP = [
  "o: circle; b: rectangle; f: freehand; l: line; m: mark: left drag or click draws; escape ends it",
  "tool off: drag an edge to move it, click it to choose it; delete removes it; + and -: a mark's confidence",
];

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

// ------------------------------------------------------------------------------------------------------------ viewer

class Viewer {
  constructor(component, root) {
    Object.assign(this, { component, root, cells: [], panes: [], sources: new Map(), hover: null, frames: 0 });
    this.isGone = false;
    this.drawings = new Drawings(this);
    this.starting = Promise.resolve();
    this.abort = new AbortController();
    this.library = import(new URL(`./niivue.js${new URL(import.meta.url).search}`, import.meta.url).href);
    this.library.catch(() => {}); // each cell says so
    const { data } = component;
    this.view = {
      plane: data.plane in PLANES ? data.plane : "axial", layout: data.layout, mm: null, poses: {}, windows: {},
      isTurned: false, isSwiping: false, swipe: 0.5, areLinesShown: true,
      strength: 100, isTinted: false, thresholds: { ...FIRST_THRESHOLD }, heat: { ...FIRST_HEAT },
    };
    this.build();
    this.take(data);
    this.observer = new ResizeObserver(() => this.redraw());
    this.observer.observe(this.grid);
  }

  // ------------------------------------------------------------------------------------------------------- building

  build() {
    this.root.tabIndex = 0;
    this.tools = element("div", "tools", this.root);
    this.more = element("div", "tools", this.root);
    this.layerTools = element("span", "group", this.more);
    this.drawingTools = element("span", "group", this.more);
    this.grid = element("div", "grid", this.root);
    this.divider = element("div", "divider", this.grid);
    element("div", "disclaimer", this.root, DISCLAIMER);
    this.buttons = [];
    this.fields = [];
    for (const n of LAYOUTS) {
      this.button(`${n}`, `${n} at a time`, () => this.setLayout(n), () => this.view.layout === n);
    }
    this.gap();
    for (const [plane, { key }] of Object.entries(PLANES)) {
      this.button(plane, `key ${key}`, () => this.setPlane(plane), () => this.view.plane === plane);
    }
    this.gap();
    this.presets = element("span", "presets", this.tools);
    this.button("invert", "key i", () => this.invert(), () => this.isInverted(this.mainUnit));
    this.button("swipe", "key s, one pane", () => this.toggleSwipe(), () => this.isSwiping);
    this.button("fit", "key r", () => this.fit(), () => false);
    this.help = element("span", "help", this.tools, "?");
    this.buildLayerTools();
    this.buildDrawingTools();
    this.listen();
  }

  /** How images lie on one another: each part is there where a pane has what it needs. */
  buildLayerTools() {
    const { view } = this;
    const percent = () => ({ min: 0, max: 100, step: 1 });
    const blend = element("span", "part", this.layerTools, "strength");
    this.slider(blend, "of what was changed", percent, () => view.strength, (value) => this.setStrength(value));
    this.figure(blend, () => `${view.strength} %`);

    const tint = element("span", "part", this.layerTools);
    const words = "key u: tint where the standard deviation reaches";
    this.button("uncertainty", words, () => this.tint(), () => view.isTinted, tint);
    const limits = () => {
      const max = DEVIATION_REACH[this.tintUnit] || 1;
      return { min: 0, max, step: max / 100 };
    };
    const set = (value) => this.setThreshold(value);
    this.figure(tint, () => "from");
    this.slider(tint, "tint from this standard deviation on", limits, () => this.threshold(this.tintUnit), set);
    this.number(tint, "the same as a number", limits, () => this.threshold(this.tintUnit), set);
    this.figure(tint, () => this.tintUnit);

    const heat = element("span", "part", this.layerTools, "PET");
    const opacity = (value) => this.setHeat({ opacity: value / 100 });
    this.slider(heat, "opacity of the PET", percent, () => Math.round(100 * view.heat.opacity), opacity);
    this.figure(heat, () => `${Math.round(100 * view.heat.opacity)} %`);
    const uptake = () => ({ min: 0, max: 100, step: 0.5 });
    this.number(heat, "no PET below", uptake, () => view.heat.range[0], (low) => this.setHeat({ low }));
    this.figure(heat, () => "to");
    this.number(heat, "hottest from", uptake, () => view.heat.range[1], (high) => this.setHeat({ high }));
    this.figure(heat, () => "SUV");

    this.parts = { base: blend, overlay: tint, fused: heat };
  }

  /** Tools, confidence levels and what is done to what is chosen, as far as Python asks for them. */
  buildDrawingTools() {
    const { drawings, drawingTools: parent } = this;
    this.buttons = this.buttons.filter(([button]) => button.parentNode !== parent);
    parent.replaceChildren();
    drawings.tools.forEach((tool) => {
      this.button(tool, `key ${TOOLS[tool]}`, () => drawings.use(tool), () => drawings.tool === tool, parent);
    });
    if (drawings.tools.includes("mark") && drawings.levels.length) {
      element("span", "figure", parent, "confidence");
      drawings.levels.forEach((level, k) => {
        this.button(level, "keys + and -", () => drawings.rate(k + 1), () => drawings.rated === k + 1, parent);
      });
    }
    if (drawings.tools.length) this.button("delete", "key delete", () => drawings.remove(), () => false, parent);
    this.help.title = [...HELP, ...(drawings.tools.length ? DRAWING_HELP : [])].join("\n");
  }

  slider(parent, title, limits, get, set) {
    this.field("range", parent, title, limits, get, set, "input").addEventListener("change", () => this.focus());
  }

  /** A number that is taken when it was typed as a whole. */
  number(parent, title, limits, get, set) {
    this.field("number", parent, title, limits, get, set, "change");
  }

  field(type, parent, title, limits, get, set, event) {
    const made = element("input", "", parent);
    Object.assign(made, { type, title });
    made.addEventListener(event, () => {
      if (made.value !== "") set(clamp(Number(made.value), Number(made.min), Number(made.max)));
      this.redraw();
    });
    this.fields.push([parent, () => this.showField(made, limits(), get())]);
    return made;
  }

  /** What holds, but for a number that is being typed. */
  showField(field, { min, max, step }, value) {
    const isTyped = field.type === "number" && field === this.root.getRootNode().activeElement;
    Object.entries({ min, max, step, value: isTyped ? field.value : value }).forEach(([name, wanted]) => {
      if (field[name] !== String(wanted)) field[name] = wanted;
    });
  }

  figure(parent, get) {
    const made = element("span", "figure", parent);
    this.fields.push([parent, () => setText(made, get())]);
  }

  focus() {
    this.root.focus({ preventScroll: true }); // keys are the viewer's again, and not the button's or the slider's
  }

  gap() {
    element("span", "gap", this.tools);
  }

  button(text, title, act, isOn, parent = this.tools) {
    const made = element("button", "", parent, text);
    made.type = "button";
    made.title = title;
    made.addEventListener("click", () => {
      act();
      this.focus();
    });
    this.buttons.push([made, isOn]);
  }

  /** Takes what Python gives; what it repeats leaves the reader's view alone. */
  take(data) {
    const before = this.data || {};
    this.data = data;
    this.root.style.height = `${data.height || 720}px`;
    const isNew = !same([before.panes, before.is_blind], [data.panes, data.is_blind]) || before.token !== data.token;
    if (isNew) this.takePanes(data);
    if (!same(before.presets, data.presets)) this.takePresets(data.presets || {});
    if (data.window && !same(before.window, data.window)) this.view.windows[this.mainGroup] = [...data.window];
    if (before.layout !== data.layout) this.view.layout = LAYOUTS.includes(data.layout) ? data.layout : 1;
    if (before.plane !== data.plane && data.plane in PLANES) this.view.plane = data.plane;
    if (before.slice !== data.slice) this.goal = data.slice;
    this.reachGoal();
    this.drawings.take(before, data);
    if (!same([before.tools, before.mark_levels], [data.tools, data.mark_levels])) this.buildDrawingTools();
    this.more.hidden = !this.drawings.tools.length && Object.values(this.parts).every((part) => part.hidden);
    this.arrange();
  }

  takePanes(data) {
    const known = this.sources;
    this.sources = new Map();
    const source = (name, slices) => {
      if (!name) return null;
      const old = this.sources.get(name) || known.get(name);
      const isUsable = old && old.state !== "error";
      const found = isUsable ? old : new Source(name, slices, data.token, this.abort.signal, () => this.loaded());
      found.slices ||= slices;
      this.sources.set(name, found);
      return found;
    };
    this.panes = (data.panes || []).slice(0, PANES).map((pane) => {
      const [base, overlay] = data.is_blind ? [] : [pane.base, pane.overlay]; // no slider that only one image has
      const own = source(pane.volume, pane.slices);
      const layers = { base: source(base, pane.slices), overlay: source(overlay, pane.slices) };
      return { ...pane, source: own, ...layers, fused: source(pane.fused) };
    });
    Object.entries(this.parts).forEach(([name, part]) => (part.hidden = !this.panes.some((pane) => pane[name])));
    this.cells.forEach((cell) => {
      cell.image = Math.min(cell.image, this.panes.length - 1);
      cell.drawn = "";
      this.fillChoice(cell);
    });
  }

  takePresets(presets) {
    this.buttons = this.buttons.filter(([button]) => button.parentNode !== this.presets);
    this.presets.replaceChildren();
    Object.entries(presets).forEach(([name, range], k) => {
      const isOn = () => same(this.range(this.mainGroup), [...range]);
      this.button(name, `shift + ${k + 1}`, () => this.preset(k), isOn, this.presets);
    });
    if (this.presets.firstChild) element("span", "gap", this.presets);
  }

  fillChoice(cell) {
    cell.choice.replaceChildren();
    this.panes.forEach(({ title }, k) => (element("option", "", cell.choice, title).value = String(k)));
  }

  get isSwiping() {
    return this.view.isSwiping && this.view.layout === 1 && this.panes.length > 1;
  }

  get isBlind() {
    return Boolean(this.data.is_blind);
  }

  get visible() {
    return this.cells.filter((cell) => cell.isVisible);
  }

  /** Makes and hides cells as the layout needs them, and loads what they show. */
  arrange() {
    const shown = this.isSwiping ? 2 : Math.min(this.view.layout, this.panes.length);
    while (this.cells.length < shown) {
      const cell = new Cell(this.grid, this);
      cell.image = this.cells.length;
      this.fillChoice(cell);
      this.cells.push(cell);
    }
    this.cells.forEach((cell, k) => {
      cell.root.hidden = k >= shown;
      cell.root.classList.toggle("over", this.isSwiping && k === 1);
    });
    if (this.isSwiping) [this.cells[0].image, this.cells[1].image] = [0, 1];
    this.grid.dataset.shown = this.isSwiping ? 1 : shown;
    this.divider.hidden = !this.isSwiping;
    this.fetch();
    this.redraw();
  }

  // -------------------------------------------------------------------------------------------------------- loading

  /** First slices of what is visible, then the volumes, then what is out of sight; a newer call takes over. */
  async fetch() {
    const turn = (this.turn = (this.turn || 0) + 1);
    const seen = [...new Set(this.visible.map((cell) => cell.source))];
    const over = this.visible.flatMap((cell) => this.needed(cell.pane).map(([, source]) => source));
    await Promise.all(seen.map((source) => source.first()));
    for (const source of [...seen, ...over, ...this.ahead()]) {
      if (turn !== this.turn || this.isGone) return;
      await source.whole();
    }
  }

  ahead() {
    const all = [...this.sources.values()];
    const total = all.length * Math.max(0, ...all.map((source) => source.bytes));
    return total < PREFETCH_BYTES ? all : this.panes.slice(0, 2).map((pane) => pane.source);
  }

  /** What a pane shows beside its own image, each with its name. */
  needed({ base, overlay, fused }) {
    return [
      ["the image below", this.view.strength < 100 && base],
      ["the standard deviation", this.view.isTinted && overlay],
      ["the PET", fused],
    ].filter(([, source]) => source);
  }

  loaded() {
    const reference = this.panes.find(({ source }) => source.volume)?.source.volume;
    if (reference && !this.view.mm) this.view.mm = at(reference.affine, middleVoxel(reference));
    this.reachGoal();
    this.redraw();
  }

  reachGoal() {
    const ready = this.panes.find(({ source }) => source.state === "ready");
    if (!Number.isInteger(this.goal) || !ready || !this.view.mm) return;
    this.moveTo(ready.source.volume, this.goal);
    this.goal = null;
  }

  settle() {
    const ranks = this.visible.map((cell) => this.rank(cell));
    const rank = ranks.length ? Math.min(...ranks) : 2;
    const state = ["loading", "first", "ready"][rank];
    if (rank > 0 && !this.isPainted) performance.mark("medidiff-first"); // small volumes may be there at once
    this.isPainted ||= rank > 0;
    if (this.root.dataset.state === state) return;
    this.root.dataset.state = state;
    if (state === "ready") performance.mark("medidiff-ready");
  }

  /** How far a pane is; one with an error will come no further, and one that is not drawn shows nothing. */
  rank(cell) {
    if (cell.error || cell.source.state === "error") return 2;
    if (cell.source.volume && cell.place && !cell.isShown) return 2;
    if (!cell.drawn) return 0;
    const isOver = this.needed(cell.pane).every(([, source]) => ["ready", "error"].includes(source.state));
    return cell.source.state === "ready" && isOver ? 2 : 1;
  }

  // -------------------------------------------------------------------------------------------------------- drawing

  redraw() {
    if (this.isGone || this.pending) return;
    this.pending = requestAnimationFrame(() => {
      this.pending = 0;
      this.draw();
    });
  }

  draw() {
    if (this.isGone) return;
    const { visible } = this;
    visible.forEach((cell) => cell.resize());
    const drawn = visible.filter((cell) => cell.draw()).length;
    if (drawn) this.root.dataset.frames = this.frames += 1;
    this.root.classList.toggle("lined", this.view.areLinesShown);
    this.root.dataset.window = this.range(this.mainGroup).join();
    this.root.dataset.plane = this.view.plane;
    this.buttons.forEach(([button, isOn]) => button.classList.toggle("on", isOn()));
    this.fields.forEach(([part, show]) => part.hidden || show());
    this.drawDivider();
    this.settle();
  }

  drawDivider() {
    const cut = `${100 * this.view.swipe}%`;
    this.divider.style.left = cut;
    if (this.cells[1]) this.cells[1].root.style.clipPath = this.isSwiping ? `inset(0 0 0 ${cut})` : "";
  }

  /** Centre (u, v) in mm and pixels a millimetre, the same in every pane of the plane. */
  pose() {
    const found = this.view.poses[this.view.plane];
    const { volume } = this.panes.find(({ source }) => source.volume).source; // the same whichever images are shown
    const { u, v } = volume.frame(this.view.plane);
    const { zoom, centre } = found || { zoom: 1, centre: null };
    return { centre: centre || [u.middle, v.middle], scale: this.visible[0].fit(volume) * zoom, zoom };
  }

  setPose(change) {
    const { zoom, centre } = this.pose();
    this.view.poses[this.view.plane] = { zoom, centre, ...change };
    this.redraw();
  }

  // ------------------------------------------------------------------------------------------------- window and look

  group({ kind, unit }) {
    return `${kind} ${unit}`;
  }

  get mainUnit() {
    return this.data.modality === "PT" ? "SUV" : "HU";
  }

  get mainGroup() {
    return `image ${this.mainUnit}`;
  }

  /** The window of a group of panes that share one. */
  range(group) {
    const [kind, unit] = group.split(" ");
    const found = this.view.windows[group];
    if (found) return found;
    if (kind === "difference") return [-(DIFFERENCE_REACH[unit] || 1), DIFFERENCE_REACH[unit] || 1];
    if (kind === "deviation") return [0, DEVIATION_REACH[unit] || 1];
    return FIRST_WINDOW[unit] || [0, 1];
  }

  look(pane) {
    const isInverted = pane.kind === "image" && this.isInverted(pane.unit);
    return { range: this.range(this.group(pane)), isInverted };
  }

  /** PET is black on white and CT white on black, until they are turned. */
  isInverted(unit) {
    return (unit === "SUV") !== this.view.isTurned;
  }

  setWindow(group, [low, high]) {
    const least = group.endsWith("HU") ? 1 : 0.01;
    this.view.windows[group] = [low, Math.max(high, low + least)];
    this.changed();
  }

  preset(k) {
    const range = Object.values(this.data.presets || {})[k];
    if (range) this.setWindow(this.mainGroup, range);
  }

  /** Right is wider, down is a higher level; a difference stays centred on zero, a deviation starts at it. */
  dragWindow(pane, start, dx, dy) {
    const width = start[1] - start[0];
    const wide = Math.max(width * (1 + dx / 200), width / 100);
    const level = (start[0] + start[1]) / 2 + (dy * width) / 400;
    const [kind, group] = [pane.kind, this.group(pane)];
    if (kind === "difference") this.setWindow(group, [-wide / 2, wide / 2]);
    else if (kind === "deviation") this.setWindow(group, [0, wide]);
    else this.setWindow(group, this.rounded(pane.unit, level - wide / 2, level + wide / 2));
  }

  rounded(unit, low, high) {
    const step = unit === "HU" ? 1 : 0.01;
    return [Math.round(low / step) * step, Math.round(high / step) * step];
  }

  invert() {
    this.view.isTurned = !this.view.isTurned;
    this.redraw();
  }

  // --------------------------------------------------------------------------------------- images on one another

  setStrength(strength) {
    this.view.strength = strength;
    this.fetch();
    this.changed();
  }

  tint() {
    if (!this.tintUnit) return;
    this.view.isTinted = !this.view.isTinted;
    this.fetch();
    this.changed();
  }

  get tintUnit() {
    return this.panes.find((pane) => pane.overlay)?.unit || "";
  }

  threshold(unit) {
    return this.view.thresholds[unit];
  }

  /** Moving it shows what it does. */
  setThreshold(value) {
    this.view.thresholds[this.tintUnit] = value;
    this.view.isTinted = true;
    this.fetch();
    this.changed();
  }

  setHeat({ opacity = this.view.heat.opacity, low = this.view.heat.range[0], high = this.view.heat.range[1] }) {
    this.view.heat = { opacity, range: [low, Math.max(high, low + 0.1)] };
    this.changed();
  }

  // ------------------------------------------------------------------------------------------- position and choices

  /** The pane that the keys and the wheel scroll: the one under the mouse, else the first. */
  get active() {
    const usable = this.visible.filter((cell) => cell.source.state === "ready");
    return usable.find((cell) => cell === this.hovered) || usable[0];
  }

  moveTo(volume, index) {
    const { w } = volume.frame(this.view.plane);
    const voxel = volume.voxel(this.view.mm);
    voxel[w.axis] = clamp(index, 0, w.size - 1);
    this.view.mm = at(volume.affine, voxel);
    this.hover = this.pointer && this.hovered?.source.volume ? this.hovered.position(...this.pointer) : null;
    this.changed();
  }

  /** Up is towards head, front and right, whatever way the slices are stored. */
  scroll(steps) {
    if (!this.active || !this.view.mm) return;
    const { volume } = this.active.source;
    const { w } = volume.frame(this.view.plane);
    this.moveTo(volume, Math.round(volume.voxel(this.view.mm)[w.axis]) + steps * w.sign);
  }

  setPlane(plane) {
    this.view.plane = plane;
    this.hover = null;
    const isBeside = this.active && this.view.mm && !this.active.source.place(plane, this.view.mm)?.isThere;
    if (isBeside) this.scroll(0);
    this.changed();
  }

  setLayout(layout) {
    this.view.layout = layout;
    this.view.isSwiping = false;
    if (layout > 1) this.cells.forEach((cell, k) => (cell.image = k));
    this.arrange();
    this.changed();
  }

  choose(cell, image) {
    if (image >= this.panes.length) return;
    cell.image = image;
    this.focus();
    this.arrange();
  }

  /** Swaps the first two images in place: position, window and zoom are the viewer's, not the image's. */
  flicker() {
    if (this.panes.length < 2) return;
    const [first, second] = this.visible;
    if (second) [first.image, second.image] = [second.image, first.image];
    else first.image = first.image === 0 ? 1 : 0;
    this.arrange();
  }

  toggleSwipe() {
    if (this.view.layout !== 1 || this.panes.length < 2) return;
    this.view.isSwiping = !this.view.isSwiping;
    this.arrange();
  }

  fit() {
    delete this.view.poses[this.view.plane];
    this.redraw();
  }

  /** The view changed: draw now, tell Python when it has been quiet for a while. */
  changed() {
    this.redraw();
    clearTimeout(this.report);
    this.report = setTimeout(() => this.tell(), REPORT_MS);
  }

  tell() {
    const cell = this.visible.find((one) => one.source.volume);
    if (!cell || !this.view.mm || this.isGone) return;
    const { plane, layout, mm, isTinted } = this.view;
    const strength = this.panes.some((pane) => pane.base) ? this.view.strength : 100;
    const place = cell.source.place(plane, mm);
    const window = this.range(this.mainGroup);
    const threshold = isTinted && this.tintUnit ? this.threshold(this.tintUnit) : null;
    const shown = { slice: place ? place.number : null, plane, window, position_mm: rounded(turned(mm), 2), layout };
    this.component.setStateValue("view", { ...shown, strength, threshold });
  }

  // --------------------------------------------------------------------------------------------- mouse and keyboard

  listen() {
    const on = (type, act) => this.grid.addEventListener(type, (event) => act.call(this, event), { passive: false });
    on("wheel", this.onWheel);
    on("pointerdown", this.onPress);
    on("pointermove", this.onMove);
    on("pointerup", this.onRelease);
    on("pointercancel", this.onCancel);
    on("pointerleave", this.onLeave);
    on("dblclick", (event) => this.cellOf(event) && !this.drawings.tool && this.fit());
    on("contextmenu", (event) => event.preventDefault());
    this.root.addEventListener("pointerenter", () => this.attend());
    this.root.addEventListener("keydown", (event) => this.onKey(event));
    this.root.addEventListener("keyup", (event) => this.onKeyUp(event));
  }

  /** Keys go to what the mouse is over, unless somebody is typing elsewhere. */
  attend() {
    const typing = document.activeElement?.closest?.("input, textarea, select, [contenteditable=true]");
    if (!typing) this.focus();
  }

  cellOf(event) {
    const body = event.target.closest?.(".body");
    const cell = body && this.cells.find((one) => one.body === body);
    const box = this.grid.getBoundingClientRect();
    const isRight = this.isSwiping && event.clientX > box.left + this.view.swipe * box.width;
    return cell && isRight ? this.cells[1] : cell;
  }

  inCell(cell, event) {
    const box = cell.body.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  onWheel(event) {
    const cell = this.cellOf(event);
    if (!cell) return;
    event.preventDefault();
    if (this.drag?.isDrawing) return; // what is drawn belongs to one slice
    this.hovered = cell;
    if (event.ctrlKey) this.zoomAt(cell, this.inCell(cell, event), Math.exp(-clamp(event.deltaY, -60, 60) / 300));
    else this.scroll(-this.notches(event));
  }

  notches({ deltaY, deltaMode }) {
    if (deltaMode !== 0 || Math.abs(deltaY) >= NOTCH) {
      this.carried = 0;
      return Math.sign(deltaY);
    }
    this.carried = (this.carried || 0) + deltaY;
    const steps = Math.trunc(this.carried / NOTCH);
    this.carried -= steps * NOTCH;
    return steps;
  }

  /** Enlarges so that what is under the mouse stays there. */
  zoomAt(cell, [x, y], factor) {
    if (!cell.source.volume || !this.view.mm) return;
    const { zoom, centre } = this.pose();
    const [u, v] = cell.display(x, y);
    const wanted = clamp(zoom * factor, 0.2, 40);
    const kept = zoom / wanted;
    this.setPose({ zoom: wanted, centre: [u + (centre[0] - u) * kept, v + (centre[1] - v) * kept] });
  }

  onPress(event) {
    if (event.target === this.divider) this.drag = { act: (x) => this.swipeTo(x) };
    else this.drag = this.dragOf(event, this.cellOf(event));
    if (!this.drag) return;
    event.preventDefault();
    this.attend();
    Object.assign(this.drag, { x: event.clientX, y: event.clientY, far: 0 });
    try {
      this.grid.setPointerCapture(event.pointerId);
    } catch {
      // a pointer that is gone already needs no capture
    }
  }

  dragOf(event, cell) {
    if (!cell || !cell.source.volume || !this.view.mm) return null;
    const { pane } = cell;
    const { centre, scale, zoom } = this.pose();
    const spot = this.inCell(cell, event);
    const drawing = event.button === 0 && !event.shiftKey && this.drawings.drag(cell, spot);
    if (drawing) return { ...drawing, isDrawing: true };
    if (event.button === 1 || (event.button === 0 && event.shiftKey)) {
      return { act: (x, y, dx, dy) => this.setPose({ centre: [centre[0] + dx / scale, centre[1] + dy / scale] }) };
    }
    if (event.button === 2) {
      return {
        act: (x, y, dx, dy) => {
          this.view.poses[this.view.plane] = { zoom, centre };
          this.zoomAt(cell, spot, Math.exp(-dy / 150));
        },
      };
    }
    const start = this.range(this.group(pane));
    return { act: (x, y, dx, dy) => this.dragWindow(pane, start, dx, dy), click: () => this.point(cell, spot) };
  }

  onMove(event) {
    if (this.drag) this.continueDrag(event);
    const cell = this.drag ? null : this.cellOf(event);
    if (this.drag) return;
    this.hovered = cell || this.hovered;
    this.pointer = cell ? this.inCell(cell, event) : null;
    this.hover = cell && cell.source.volume && this.view.mm && cell.width ? cell.position(...this.pointer) : null;
    const isLoose = this.hover && !this.drawings.tool && this.drawings.hit(cell, this.pointer);
    if (cell) cell.body.style.cursor = isLoose ? "move" : "";
    this.redraw();
  }

  continueDrag({ clientX, clientY }) {
    const { x, y } = this.drag;
    this.drag.far = Math.max(this.drag.far, Math.hypot(clientX - x, clientY - y));
    if (this.drag.far >= CLICK_PX || !this.drag.click) this.drag.act(clientX, clientY, clientX - x, clientY - y);
  }

  onRelease() {
    const { drag } = this;
    this.drag = null;
    if (drag?.click && drag.far < CLICK_PX) drag.click();
    else drag?.end?.();
  }

  onCancel() {
    this.drag?.abort?.();
    this.drag = null;
  }

  onLeave() {
    if (this.drag) return;
    this.pointer = this.hover = null;
    this.redraw();
  }

  point(cell, spot) {
    this.view.mm = cell.position(...spot);
    this.drawings.select(null);
    this.changed();
  }

  swipeTo(clientX) {
    const box = this.grid.getBoundingClientRect();
    this.view.swipe = clamp((clientX - box.left) / box.width, 0, 1);
    this.redraw();
  }

  onKey(event) {
    const isTyped = event.target.tagName === "SELECT" || event.target.type === "number";
    if (event.ctrlKey || event.metaKey || event.altKey || isTyped) return;
    if (this.drag?.isDrawing && event.key !== "Escape") return;
    if (event.code === "Space") this.holdSpace(event);
    const digit = /^(Digit|Numpad)([1-6])$/.exec(event.code);
    const act = digit ? this.digitAct(Number(digit[2]) - 1, event.shiftKey) : KEYS[event.key];
    if (!act && event.code !== "Space") return;
    event.preventDefault();
    event.stopPropagation(); // Streamlit has keys of its own: c and r
    if (act) act(this);
  }

  digitAct(k, isShifted) {
    if (isShifted) return () => this.preset(k);
    return this.view.layout === 1 && !this.isSwiping ? () => this.choose(this.cells[0], k) : null;
  }

  holdSpace(event) {
    if (event.repeat || this.isSwiping) return;
    this.heldSince = performance.now();
    this.flicker();
  }

  onKeyUp(event) {
    if (event.code !== "Space" || this.heldSince === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    if (performance.now() - this.heldSince > HOLD_MS) this.flicker();
    this.heldSince = undefined;
  }

  // ------------------------------------------------------------------------------------------------------------ end

  dispose() {
    this.isGone = true;
    this.abort.abort();
    clearTimeout(this.report);
    cancelAnimationFrame(this.pending);
    this.observer.disconnect();
    this.cells.forEach((cell) => cell.ready.then(() => cell.dispose()));
    this.root.remove();
  }
}

const KEYS = {
  ArrowUp: (viewer) => viewer.scroll(1),
  ArrowDown: (viewer) => viewer.scroll(-1),
  PageUp: (viewer) => viewer.scroll(10),
  PageDown: (viewer) => viewer.scroll(-10),
  Home: (viewer) => viewer.scroll(1e6),
  End: (viewer) => viewer.scroll(-1e6),
  a: (viewer) => viewer.setPlane("axial"),
  c: (viewer) => viewer.setPlane("coronal"),
  g: (viewer) => viewer.setPlane("sagittal"),
  i: (viewer) => viewer.invert(),
  r: (viewer) => viewer.fit(),
  s: (viewer) => viewer.toggleSwipe(),
  x: (viewer) => {
    viewer.view.areLinesShown = !viewer.view.areLinesShown;
    viewer.redraw();
  },
  u: (viewer) => viewer.tint(),
  "+": ({ drawings }) => drawings.rate(drawings.rated + 1),
  "-": ({ drawings }) => drawings.rate(drawings.rated - 1),
  Delete: ({ drawings }) => drawings.remove(),
  Backspace: ({ drawings }) => drawings.remove(),
  Escape: (viewer) => (viewer.drag?.isDrawing ? viewer.onCancel() : viewer.drawings.escape()),
  ...Object.fromEntries(Object.entries(TOOLS).map(([tool, key]) => [key, ({ drawings }) => drawings.use(tool)])),
};

function middleVoxel(volume) {
  return volume.dims.map((n) => Math.floor(n / 2));
}

// ------------------------------------------------------------------------------------------------------- mounting

const viewers = new WeakMap();

async function addStyle(parent) {
  const query = new URL(import.meta.url).search;
  const answer = await fetch(new URL(`./viewer.css${query}`, import.meta.url));
  element("style", "", parent, await answer.text());
}

/** Called at mounting and again after each run of the page: the second time there is a viewer already. */
export default function mount(component) {
  const parent = component.parentElement;
  const entry = viewers.get(parent) || {};
  const isNew = !viewers.has(parent);
  viewers.set(parent, entry);
  entry.component = component;
  if (entry.viewer) Object.assign(entry.viewer, { component }).take(component.data);
  if (isNew) begin(parent, entry);
  return () => leave(parent, entry, component);
}

async function begin(parent, entry) {
  await addStyle(parent);
  if (viewers.get(parent) !== entry) return;
  const root = element("div", "medidiff-viewer", parent);
  root.dataset.state = "loading";
  entry.viewer = new Viewer(entry.component, root);
}

/** Ends the viewer unless it was mounted again since or is at once, which happens when only the data changed. */
function leave(parent, entry, component) {
  setTimeout(() => {
    if (entry.component !== component || viewers.get(parent) !== entry) return;
    viewers.delete(parent);
    entry.viewer?.dispose();
  }, 0);
}
