/* One place on the screen: a canvas with its NiiVue instance, what is drawn over it, and the words around it.
 *
 * NiiVue holds the geometry of one slice, and its texture gets the colours of the slice on screen (`painting.js`).
 */

import { Sheet } from "./drawings.js";
import { element, setText } from "./page.js";
import {
  colourTable, directTable, paintColours, paintDirectly, paintHeat, paintLevels, paintTint,
} from "./painting.js";
import { PLANES, at, clamp, turned } from "./space.js";
import { between, sliceFile } from "./volume.js";

const RADIOLOGICAL = { isRadiologicalConvention: true, sliceType: 0 };
const QUIET = {
  interactive: false, isResizeCanvas: false, isOrientationTextVisible: false, dragAndDropEnabled: false,
  crosshairWidth: 0, loadingText: "", logLevel: "error",
};
const COLORMAPS = { image: "gray", difference: "medidiff_difference", deviation: "inferno" };
const HEAT = "hot";
// ColorBrewer's RdBu, as in the figures of medidiff: blue is negative, white is zero, red is positive.
const DIFFERENCE = {
  R: [5, 33, 67, 146, 209, 247, 253, 244, 214, 178, 103], G: [48, 102, 147, 197, 229, 247, 219, 165, 96, 24, 0],
  B: [97, 172, 195, 222, 240, 247, 199, 130, 77, 43, 31], A: new Array(11).fill(255),
  I: [0, 26, 51, 77, 102, 128, 153, 179, 204, 230, 255],
};
const PAINT_MS = 30;

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

export class Cell {
  constructor(grid, viewer) {
    Object.assign(this, { viewer, image: 0, images: new Map(), drawn: "", content: "", error: "", place: null });
    this.root = element("div", "cell", grid);
    const bar = element("div", "bar", this.root);
    this.choice = element("select", "title", bar);
    this.choice.addEventListener("change", () => viewer.choose(this, Number(this.choice.value)));
    this.name = element("span", "title", bar); // in its place where images must not be told apart
    this.range = element("span", "range", bar);
    this.body = element("div", "body", this.root);
    this.canvas = element("canvas", "", this.body);
    this.lines = { u: element("i", "line upright", this.body), v: element("i", "line level", this.body) };
    this.sheet = new Sheet(this.body);
    this.letters = ["left", "right", "top", "bottom"].map((side) => [side, element("b", side, this.body)]);
    this.bar = element("div", "scale", this.body);
    this.barText = element("span", "", this.bar);
    this.note = element("div", "note", this.body);
    this.status = element("div", "status", this.root);
    // One after the other, with a pause in which the browser paints: NiiVue compiles its shaders for a second where
    // there is no graphics card, and the first pane should not wait for the fourth.
    this.ready = viewer.starting = viewer.starting.then(() => this.start()).then(() => pause(PAINT_MS));
  }

  async start() {
    if (this.viewer.isGone) return;
    try {
      const { Niivue, NVImage } = await this.viewer.library;
      this.NVImage = NVImage;
      const nv = new Niivue({ ...QUIET, ...RADIOLOGICAL });
      await nv.attachToCanvas(this.canvas, false);
      nv.addColormap(COLORMAPS.difference, DIFFERENCE);
      this.nv = nv; // not before: until it is attached, drawing with it does nothing
    } catch (error) {
      this.error = `This browser cannot show images: ${error.message}`;
    }
    this.canvas.addEventListener("webglcontextlost", () => this.lost());
    this.viewer.redraw();
  }

  lost() {
    if (this.viewer.isGone) return;
    this.error = "The browser took the graphics memory away: reload the page.";
    this.viewer.redraw();
  }

  get pane() {
    return this.viewer.panes[this.image];
  }

  get source() {
    return this.pane.source;
  }

  get isVisible() {
    return !this.root.hidden;
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    this.width = this.body.clientWidth;
    this.height = this.body.clientHeight;
    const [width, height] = [Math.round(this.width * ratio), Math.round(this.height * ratio)];
    if (this.canvas.width === width && this.canvas.height === height) return;
    this.canvas.width = width; // this clears the canvas, so the next frame must draw
    this.canvas.height = height;
    this.drawn = "";
  }

  // --------------------------------------------------------------------------------------------------------- places

  /** Pixels a millimetre at which the whole slice of a volume just fits. */
  fit(volume) {
    const { u, v } = volume.frame(this.viewer.view.plane);
    return Math.min(this.width / (u.size * u.step), this.height / (v.size * v.step));
  }

  /** Screen (CSS pixels of the canvas) of display position (u, v), and back. */
  screen(u, v) {
    const { centre, scale } = this.viewer.pose();
    return [this.width / 2 - (u - centre[0]) * scale, this.height / 2 - (v - centre[1]) * scale];
  }

  display(x, y) {
    const { centre, scale } = this.viewer.pose();
    return [centre[0] - (x - this.width / 2) / scale, centre[1] - (y - this.height / 2) / scale];
  }

  /** RAS mm of a screen position, in the slice on screen. */
  position(x, y) {
    const { volume } = this.source;
    const { plane, mm } = this.viewer.view;
    const { u, v, w } = volume.frame(plane);
    const [pu, pv] = this.display(x, y);
    const voxel = [0, 0, 0];
    voxel[u.axis] = (u.size - 1) / 2 + (u.sign * (pu - u.middle)) / u.step;
    voxel[v.axis] = (v.size - 1) / 2 + (v.sign * (pv - v.middle)) / v.step;
    voxel[w.axis] = clamp(Math.round(volume.voxel(mm)[w.axis]), 0, w.size - 1);
    return at(volume.affine, voxel);
  }

  /** Display (u, v) of a position. */
  project(mm) {
    const { volume } = this.source;
    const { u, v } = volume.frame(this.viewer.view.plane);
    const voxel = volume.voxel(mm);
    return [u, v].map((a) => a.middle + a.sign * a.step * (voxel[a.axis] - (a.size - 1) / 2));
  }

  // -------------------------------------------------------------------------------------------------------- drawing

  /** Draws what changed; says whether the canvas was drawn. */
  draw() {
    const { plane, mm } = this.viewer.view;
    this.place = (this.source.volume && mm && this.source.place(plane, mm)) || null;
    const layers = this.place && this.layers();
    this.describe(layers);
    this.sheet.draw(this, this.place, this.viewer.drawings);
    if (!this.isShown || !this.nv || this.error || !this.width) return this.blank();
    const { volume } = this.source;
    const frame = volume.frame(plane);
    const image = this.geometry(frame);
    if (!image) return false;
    const { centre, scale } = this.viewer.pose();
    const content = [volume.serial, plane, this.place.index, this.pane.kind, ...layers.names].join();
    const wanted = [content, centre, scale].join();
    if (wanted === this.drawn) return false;
    this.canvas.style.visibility = "";
    if (this.nv.volumes[0] !== image) this.take(image);
    if (this.content !== content) this.paint(frame, layers);
    this.pan(image, frame, centre, scale);
    this.nv.opts.backColor = layers.isInverted ? [1, 1, 1, 1] : [0, 0, 0, 1];
    this.nv.drawScene();
    this.content = content;
    this.drawn = wanted;
    return true;
  }

  /** A part of a volume is shown while the rest comes; a volume that does not reach to this position is not. */
  get isShown() {
    return this.place && (this.place.isThere || this.source.state !== "ready");
  }

  blank() {
    if (!this.isShown) this.canvas.style.visibility = "hidden";
    this.drawn = "";
    return false;
  }

  /** What is painted: the pane's own image, and what lies under and over it as far as it is there. */
  layers() {
    const { pane, viewer } = this;
    const { strength, isTinted, heat } = viewer.view;
    const { range, isInverted } = viewer.look(pane);
    const share = strength / 100;
    const base = share < 1 ? this.alike(pane.base) : null;
    const deviation = this.alike(pane.overlay);
    const tint = isTinted ? deviation : null;
    const hot = pane.fused?.state === "ready" ? pane.fused.volume : null;
    const threshold = viewer.threshold(pane.unit);
    const names = [
      range, isInverted, base && [base.serial, share], tint && [tint.serial, threshold],
      hot && [hot.serial, heat.range, heat.opacity],
    ];
    return { range, isInverted, share, base, deviation, tint, threshold, hot, heat, names };
  }

  /** The volume of another source, where it has the same voxels. */
  alike(source) {
    return source?.volume?.isAlike(this.source.volume) ? source.volume : null;
  }

  /** NiiVue's image of a slice's size and place, which all volumes of one grid share; null until it is made. */
  geometry(frame) {
    const name = JSON.stringify([frame.u, frame.v].map(({ size, step, middle }) => [size, step, middle]));
    if (!this.images.has(name)) {
      this.images.set(name, null);
      this.NVImage.new(sliceFile(frame), "slice.nii", "gray", 1, null, 0, 1).then((image) => {
        this.images.set(name, image);
        this.viewer.redraw();
      });
    }
    return this.images.get(name);
  }

  /** Lets NiiVue make its texture for another geometry. */
  take(image) {
    this.nv.volumes = [image];
    this.nv.setVolume(image, 0);
    this.content = "";
  }

  /** NiiVue's pan and zoom: it enlarges about the origin of the millimetres, not about the middle of the screen. */
  pan(image, frame, centre, scale) {
    const zoom = scale / this.fit(this.source.volume);
    const middle = [0, 1].map((k) => (image.extentsMinOrtho[k] + image.extentsMaxOrtho[k]) / 2);
    const shown = [middle[0] + centre[0] - frame.u.middle, middle[1] + centre[1] - frame.v.middle];
    this.nv.scene.pan2Dxyzmm = [middle[0] - shown[0] * zoom, middle[1] - shown[1] * zoom, 0, zoom];
    this.nv.scene.crosshairPos = [0.5, 0.5, 0.5];
  }

  /** Paints the slice and puts it into NiiVue's texture. */
  paint(frame, layers) {
    const [width, height] = [frame.u.size, frame.v.size];
    if (this.pixels?.length !== width * height) {
      this.pixels = new Uint32Array(width * height);
      this.bytes = new Uint8Array(this.pixels.buffer);
    }
    this.colour(layers);
    const { gl } = this.nv;
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_3D, this.nv.volumeTexture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 4);
    gl.texSubImage3D(gl.TEXTURE_3D, 0, 0, 0, 0, width, height, 1, gl.RGBA, gl.UNSIGNED_BYTE, this.bytes);
  }

  colour({ range, isInverted, share, base, tint, threshold, hot, heat }) {
    const { pixels } = this;
    const { volume } = this.source;
    const { plane } = this.viewer.view;
    const walk = volume.walk(plane, this.place.index);
    const table = this.table(isInverted, hot ? heat.opacity : null);
    const direct = base || tint || hot ? null : this.direct(volume, range, table);
    if (direct) return paintDirectly(pixels, walk, volume, direct);
    paintLevels(pixels, walk, volume, base, share, range);
    if (tint) paintTint(pixels, walk, tint, threshold);
    if (hot) paintHeat(pixels, volume, plane, this.place.index, hot, heat.range);
    return paintColours(pixels, table);
  }

  /** Made again when the looks change, not with the slice. */
  table(isInverted, opacity) {
    const name = [this.pane.kind, isInverted, opacity].join();
    if (this.tableName !== name) {
      const palette = this.nv.colormap(COLORMAPS[this.pane.kind] || "gray", isInverted);
      this.lastTable = colourTable(palette, opacity === null ? null : this.nv.colormap(HEAT, false), opacity);
      this.tableName = name;
    }
    return this.lastTable;
  }

  direct(volume, range, table) {
    const name = [volume.serial, range, this.tableName].join();
    if (this.directName !== name) {
      this.lastDirect = directTable(volume, range, table);
      this.directName = name;
    }
    return this.lastDirect;
  }

  // ------------------------------------------------------------------------------------------------ words and lines

  describe(layers) {
    const { source, viewer, pane, place } = this;
    const { range, isInverted } = viewer.look(pane);
    this.root.dataset.state = this.error ? "error" : source.state;
    this.root.dataset.image = this.image;
    this.root.dataset.slice = place ? place.number : "";
    this.title(layers);
    setText(this.note, this.error || this.complaint() || this.waiting());
    setText(this.range, this.words(range));
    setText(this.status, place ? this.reading(layers) : " ");
    this.root.classList.toggle("pale", isInverted);
    this.letters.forEach(([side, node]) => setText(node, PLANES[viewer.view.plane].letters[side]));
    if (source.volume && viewer.view.mm && this.width) this.measure();
  }

  /** What is shown, and how much of it where it is blended with the scan. */
  title(layers) {
    const text = layers?.base ? `${this.pane.title}, ${this.viewer.view.strength} %` : this.pane.title;
    this.choice.value = String(this.image);
    this.choice.hidden = this.viewer.isBlind;
    this.name.hidden = !this.viewer.isBlind;
    setText(this.name, text);
    [...this.choice.options].forEach((option, k) => {
      setText(option, k === this.image ? text : this.viewer.panes[k].title);
    });
  }

  /** Why something of the pane cannot be seen. */
  complaint() {
    const { pane, source } = this;
    if (source.error) return `“${pane.title}” could not be loaded: ${source.error}.`;
    for (const [name, other] of this.viewer.needed(pane)) {
      if (other.error) return `${name} of “${pane.title}” could not be loaded: ${other.error}.`;
      const isComplete = other !== pane.fused && other.state === "ready" && source.state === "ready";
      if (isComplete && !this.alike(other)) return `${name} of “${pane.title}” has another grid and is not shown.`;
    }
    return "";
  }

  waiting() {
    const { source, place } = this;
    const part = source.part ? ` ${source.part} %` : "";
    if (source.state === "ready") return place && !place.isThere ? "this position lies outside of the image" : "";
    if (!place) return `loading${part}`;
    return place.isThere ? "" : `this slice is being loaded${part}`;
  }

  words([low, high]) {
    const { kind, unit, fused } = this.pane;
    const digits = unit === "HU" ? 0 : 1;
    const show = (value) => value.toFixed(digits);
    if (kind === "difference") return `±${high.toFixed(digits ? 2 : 0)} ${unit}`;
    if (kind === "deviation" || unit === "SUV") return `${show(low)} to ${show(high)} ${unit}`;
    const [coldest, hottest] = this.viewer.view.heat.range.map((value) => value.toFixed(1));
    const heat = fused ? `   PET ${coldest} to ${hottest} SUV` : "";
    return `W ${show(high - low)} L ${show((low + high) / 2)}${heat}`;
  }

  /** "slice 151/300   x -12.3  y 40.1  z 7.0 mm   -43 HU ± 8.2", in DICOM's LPS millimetres. */
  reading(layers) {
    const { place } = this;
    const mm = this.viewer.hover || this.viewer.view.mm;
    const [x, y, z] = turned(mm).map((value) => (Math.abs(value) < 0.05 ? 0 : value).toFixed(1));
    const said = (place.isThere && this.value(mm, layers)) || "outside";
    const parts = [["", this.source], ...this.viewer.needed(this.pane)];
    const late = parts.filter(([, { state }]) => state === "first" || state === "loading");
    const loading = late.map(([name, { part }]) => `   ${name ? `${name}: ` : ""}loading ${part} %`).join("");
    return `slice ${place.number + 1}/${place.total}   x ${x}  y ${y}  z ${z} mm   ${said}${loading}`;
  }

  /** What the voxel at a position holds, in words; "" outside. */
  value(mm, { base, share, deviation, hot }) {
    const { volume } = this.source;
    const { w } = volume.frame(this.viewer.view.plane);
    const voxel = volume.voxel(mm);
    voxel[w.axis] = this.place.index;
    if (!volume.isInside(voxel)) return "";
    const nearest = voxel.map((k, axis) => clamp(Math.round(k), 0, volume.dims[axis] - 1));
    const own = volume.value(nearest);
    const value = base ? base.value(nearest) + share * (own - base.value(nearest)) : own;
    if (Number.isNaN(value)) return "";
    const { unit } = this.pane;
    const sd = deviation && deviation.value(nearest).toFixed(unit === "HU" ? 1 : 2);
    const spread = sd ? ` ${base ? "deviation" : "±"} ${sd}` : "";
    return `${value.toFixed(this.digits(value))} ${unit}${spread}${hot ? this.uptake(volume, voxel, hot) : ""}`;
  }

  /** Where images must not be told apart, all have as many digits, whole numbers or not. */
  digits(value) {
    if (this.pane.unit !== "HU") return 2;
    return this.viewer.isBlind || Number.isInteger(value) ? 0 : 1;
  }

  uptake(volume, voxel, hot) {
    const there = hot.voxel(at(volume.affine, voxel));
    return hot.isInside(there) ? `   ${between(hot, ...there).toFixed(2)} SUV` : "";
  }

  /** The lines through the position, and a bar of a round number of millimetres. */
  measure() {
    const { mm } = this.viewer.view;
    const { scale } = this.viewer.pose();
    const [x, y] = this.screen(...this.project(mm));
    this.lines.u.style.transform = `translateX(${Math.round(x)}px)`;
    this.lines.v.style.transform = `translateY(${Math.round(y)}px)`;
    const fitting = [1, 2, 5, 10, 20, 50, 100, 200].filter((size) => size * scale <= 0.3 * this.width);
    const size = fitting.length ? fitting[fitting.length - 1] : 1;
    this.bar.style.width = `${size * scale}px`;
    setText(this.barText, `${size} mm`);
  }

  dispose() {
    if (!this.nv) return;
    this.nv.cleanup();
    this.canvas.getContext("webgl2")?.getExtension("WEBGL_lose_context")?.loseContext();
  }
}
