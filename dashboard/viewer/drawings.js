/* What readers draw: regions of a slice, and marks.
 *
 * Both are kept as Python has them, in LPS millimetres, so that they lie at the same place in every pane, at every zoom
 * and on every grid. A region is seen on its own slice of its own plane; a mark in its own pane, on slices near it.
 *
 *     circle centre and rim   rectangle two opposite corners   freehand a closed outline   line two ends
 */

import { drawn } from "./page.js";
import { clamp, rounded, turned } from "./space.js";

export const TOOLS = { circle: "o", rectangle: "b", freehand: "f", line: "l", mark: "m" }; // and their keys
const NEAR_PX = 6; // a press that is this near to an edge takes hold of it
const STEP_PX = 2; // between the points of a freehand outline
const LEAST_PX = 3;
const MARK_PX = 8;
const MARK_REACH_MM = 5;
const RIM = 96; // points of a circle
const DIGITS = 3; // of a millimetre
const REMEMBERED = 50;

const stable = (items) => JSON.stringify((items || []).map((item) => Object.entries(item).sort()));
const copy = (items) => JSON.parse(JSON.stringify(items || []));
const told = (mm) => rounded(turned(mm), DIGITS);
const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);

function distanceToSegment(p, a, b) {
  const [x, y] = [b[0] - a[0], b[1] - a[1]];
  const along = ((p[0] - a[0]) * x + (p[1] - a[1]) * y) / (x * x + y * y || 1);
  const share = clamp(along, 0, 1);
  return distance(p, [a[0] + share * x, a[1] + share * y]);
}

/** A region's outline on the screen of a pane, closed but for a line. */
function outline({ kind, points_mm: points }, cell) {
  const shown = points.map((mm) => cell.project(turned(mm)));
  const [[u, v], [p, q]] = shown;
  let corners = shown;
  if (kind === "rectangle") corners = [[u, v], [p, v], [p, q], [u, q]];
  if (kind === "circle") {
    const radius = Math.hypot(p - u, q - v);
    const angles = Array.from({ length: RIM }, (_, k) => (2 * Math.PI * k) / RIM);
    corners = angles.map((angle) => [u + radius * Math.cos(angle), v + radius * Math.sin(angle)]);
  }
  const screen = corners.map((corner) => cell.screen(...corner));
  return kind === "line" ? screen : [...screen, screen[0]];
}

const path = (points) => `M${points.map(([x, y]) => `${x.toFixed(2)} ${y.toFixed(2)}`).join("L")}`;

export class Drawings {
  constructor(viewer) {
    Object.assign(this, { viewer, rois: [], marks: [], tools: [], levels: [], level: 1, revision: 0, last: {} });
    Object.assign(this, { tool: null, selected: null, draft: null, told: { rois: [], marks: [] } });
  }

  /** Takes what Python gives; what it repeats, or echoes of what it was told, leaves the reader's drawings alone. */
  take(before, data) {
    this.tools = Object.keys(TOOLS).filter((tool) => (data.tools || []).includes(tool));
    if (!this.tools.includes(this.tool)) this.tool = null;
    const levels = data.mark_levels || [];
    if (JSON.stringify(levels) !== JSON.stringify(this.levels)) {
      this.levels = [...levels];
      this.level = Math.max(1, Math.ceil(levels.length / 2));
    }
    for (const name of ["rois", "marks"]) {
      const given = stable(data[name]);
      if (given === stable(before[name]) || this.isEcho(name, given) || given === stable(this[name])) continue;
      this[name] = copy(data[name]);
      this.selected = null;
    }
    this.redraw();
  }

  isEcho(name, given) {
    const k = this.told[name].indexOf(given);
    if (k >= 0) this.told[name].splice(0, k + 1); // older ones will not come any more
    return k >= 0;
  }

  redraw() {
    this.revision += 1;
    this.viewer.redraw();
  }

  /** Python hears at once. */
  tell(item) {
    const name = item.position_mm ? "marks" : "rois";
    this.told[name] = [...this.told[name], stable(this[name])].slice(-REMEMBERED);
    this.viewer.component.setStateValue(name, copy(this[name]));
    this.redraw();
  }

  // ------------------------------------------------------------------------------------------------- tools and choices

  use(tool) {
    if (!this.tools.includes(tool)) return;
    this.tool = this.tool === tool ? null : tool;
    this.redraw();
  }

  /** Ends the tool, else the selection. */
  escape() {
    if (this.tool) this.tool = null;
    else this.selected = null;
    this.redraw();
  }

  select(item) {
    this.selected = item;
    this.redraw();
  }

  remove() {
    const item = this.selected;
    if (!item) return;
    this.selected = null;
    const name = item.position_mm ? "marks" : "rois";
    this[name] = this[name].filter((one) => one !== item);
    this.tell(item);
  }

  /** The confidence of the mark that is selected, and of the next one. */
  rate(level) {
    if (!this.levels.length) return;
    this.level = clamp(level, 1, this.levels.length);
    const mark = this.marks.includes(this.selected) ? this.selected : null;
    if (mark && mark.confidence !== this.level) {
      mark.confidence = this.level;
      this.tell(mark);
    }
    this.redraw();
  }

  get rated() {
    return this.marks.includes(this.selected) ? this.selected.confidence : this.level;
  }

  // --------------------------------------------------------------------------------------------------- what is where

  /** What a pane shows, the last on top. */
  shown(cell, place) {
    if (!place?.isThere) return [];
    const { plane } = this.viewer.view;
    const { volume } = cell.source;
    const { w } = volume.frame(plane);
    const along = (mm) => volume.voxel(turned(mm))[w.axis];
    const isNear = (mark) => Math.abs(along(mark.position_mm) - place.index) * w.step <= MARK_REACH_MM;
    return [
      ...this.rois.filter((roi) => roi.plane === plane && Math.round(along(roi.points_mm[0])) === place.index),
      ...this.marks.filter((mark) => mark.pane === cell.image && isNear(mark)),
    ];
  }

  /** What can be taken hold of at a place of a pane; only what there is a tool for. */
  hit(cell, spot) {
    const isNear = (item) => {
      if (item.position_mm) return distance(spot, this.spot(cell, item)) <= MARK_PX;
      const points = outline(item, cell);
      return points.some((point, k) => k > 0 && distanceToSegment(spot, points[k - 1], point) <= NEAR_PX);
    };
    const movable = this.shown(cell, cell.place).filter((item) => this.tools.includes(item.kind || "mark"));
    return movable.reverse().find(isNear) || null;
  }

  spot(cell, mark) {
    return cell.screen(...cell.project(turned(mark.position_mm)));
  }

  newId(letter, items) {
    const numbers = items.map(({ id }) => Number(/^[A-Z](\d+)$/.exec(id)?.[1] || 0));
    this.last[letter] = Math.max(this.last[letter] || 0, ...numbers) + 1;
    return `${letter}${this.last[letter]}`; // no name is given twice, for tables may remember the first
  }

  // -------------------------------------------------------------------------------------------------------- dragging

  /** What a press of the left button does with a tool, or on what is drawn; null where neither is. */
  drag(cell, spot) {
    if (!cell.place?.isThere) return null;
    if (this.tool) return this.drawing(cell, spot);
    const item = this.hit(cell, spot);
    return item && this.moving(cell, spot, item);
  }

  drawing(cell, spot) {
    const select = () => this.select(this.hit(cell, spot));
    if (this.tool === "mark") {
      const put = () => (this.hit(cell, spot) ? select() : this.mark(cell, spot));
      return { act: () => {}, click: put, end: put };
    }
    const { plane } = this.viewer.view;
    const point = told(cell.position(...spot));
    const draft = { id: "", kind: this.tool, plane, slice: cell.place.number, points_mm: [point, point] };
    const act = (x, y, dx, dy) => this.extend(draft, cell, [spot[0] + dx, spot[1] + dy]);
    const abort = () => {
      this.draft = null;
      this.redraw();
    };
    return { act, click: select, end: () => this.finish(draft, cell), abort };
  }

  extend(draft, cell, [x, y]) {
    const spot = [clamp(x, 0, cell.width), clamp(y, 0, cell.height)];
    const point = told(cell.position(...spot));
    const last = draft.points_mm[draft.points_mm.length - 1];
    if (draft.kind !== "freehand") draft.points_mm = [draft.points_mm[0], point];
    else if (distance(spot, cell.screen(...cell.project(turned(last)))) >= STEP_PX) draft.points_mm.push(point);
    this.draft = draft;
    this.redraw();
  }

  finish(draft, cell) {
    this.draft = null;
    const { kind, plane, slice } = draft;
    const points = kind === "freehand" ? draft.points_mm.slice(1) : draft.points_mm;
    const [xs, ys] = [0, 1].map((k) => outline(draft, cell).map((point) => point[k]));
    const [width, height] = [xs, ys].map((values) => Math.max(...values) - Math.min(...values));
    const size = kind === "line" ? Math.hypot(width, height) : Math.min(width, height);
    if (size < LEAST_PX || (kind === "freehand" && points.length < 3)) return this.redraw();
    const roi = { id: this.newId("R", this.rois), kind, plane, slice, points_mm: points };
    this.rois = [...this.rois, roi];
    this.selected = roi;
    return this.tell(roi);
  }

  mark(cell, spot) {
    const { plane } = this.viewer.view;
    const position = told(cell.position(...spot));
    const given = { slice: cell.place.number, plane, position_mm: position, pane: cell.image, confidence: this.level };
    const mark = { id: this.newId("M", this.marks), ...given };
    this.marks = [...this.marks, mark];
    this.selected = mark;
    this.tell(mark);
  }

  /** Moves within the slice; Python hears at the end. */
  moving(cell, spot, item) {
    const name = item.position_mm ? "position_mm" : "points_mm";
    const start = item[name];
    const from = turned(cell.position(...spot));
    const shift = (to) => (point) => rounded(point.map((mm, k) => mm + to[k] - from[k]), DIGITS);
    this.select(item);
    const act = (x, y, dx, dy) => {
      const by = shift(turned(cell.position(spot[0] + dx, spot[1] + dy)));
      item[name] = name === "points_mm" ? start.map(by) : by(start);
      this.redraw();
    };
    const abort = () => {
      item[name] = start;
      this.redraw();
    };
    return { act, click: () => {}, end: () => this.tell(item), abort };
  }

  // --------------------------------------------------------------------------------------------------------- drawing

  label(item) {
    if (item.position_mm) return `${item.id} ${this.levels[item.confidence - 1] ?? ""}`.trim();
    if (item.kind !== "line") return item.id;
    const [a, b] = item.points_mm;
    return `${item.id} ${Math.hypot(...a.map((mm, k) => mm - b[k])).toFixed(1)} mm`.trim();
  }
}

/** The drawings over one pane. */
export class Sheet {
  constructor(body) {
    this.svg = drawn("svg", { class: "sheet" }, body);
    this.name = "";
  }

  draw(cell, place, drawings) {
    const { view } = cell.viewer;
    const items = place && view.mm && cell.width ? drawings.shown(cell, place) : [];
    if (drawings.draft?.plane === view.plane && place?.isThere) items.push(drawings.draft);
    const pose = items.length ? cell.viewer.pose() : null;
    const ids = items.map(({ id }) => id);
    const name = JSON.stringify([drawings.revision, ids, view.plane, cell.image, pose, cell.width, cell.height]);
    if (name === this.name || (!items.length && !this.svg.firstChild)) return;
    this.name = name;
    this.svg.replaceChildren();
    items.forEach((item) => this.add(cell, item, drawings));
  }

  add(cell, item, drawings) {
    const isSelected = item === drawings.selected || item === drawings.draft;
    const kind = item.kind || "mark";
    const group = drawn("g", { class: isSelected ? "selected" : "", "data-id": item.id, "data-kind": kind }, this.svg);
    const points = item.position_mm ? null : outline(item, cell);
    const [x, y] = points ? points.reduce((a, b) => (b[1] < a[1] ? b : a)) : drawings.spot(cell, item);
    if (points) ["halo", "edge"].forEach((part) => drawn("path", { class: part, d: path(points) }, group));
    else this.addMark(group, x, y);
    const place = points ? { x: x + 4, y: y - 4 } : { x: x + MARK_PX + 3, y: y + 4 };
    drawn("text", place, group, drawings.label(item));
  }

  addMark(group, x, y) {
    for (const part of ["halo", "edge"]) {
      drawn("circle", { class: part, cx: x, cy: y, r: MARK_PX - 2 }, group);
      const [left, right, top, bottom] = [x - MARK_PX, x + MARK_PX, y - MARK_PX, y + MARK_PX];
      drawn("path", { class: part, d: `M${left} ${y}h4M${right} ${y}h-4M${x} ${top}v4M${x} ${bottom}v-4` }, group);
    }
  }
}
