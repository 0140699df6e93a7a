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
 * Positions are RAS millimetres here, as in NIfTI; readers and Python see LPS millimetres, as in DICOM.
 */

const DISCLAIMER = "research use only, not for diagnosis";
const RADIOLOGICAL = { isRadiologicalConvention: true, sliceType: 0 };
const QUIET = {
  interactive: false, isResizeCanvas: false, isOrientationTextVisible: false, dragAndDropEnabled: false,
  crosshairWidth: 0, loadingText: "", logLevel: "error",
};
const PLANES = {
  axial: { u: 0, v: 1, w: 2, letters: { left: "R", right: "L", top: "A", bottom: "P" }, key: "a" },
  coronal: { u: 0, v: 2, w: 1, letters: { left: "R", right: "L", top: "S", bottom: "I" }, key: "c" },
  sagittal: { u: 1, v: 2, w: 0, letters: { left: "A", right: "P", top: "S", bottom: "I" }, key: "g" },
};
const LAYOUTS = [1, 2, 4];
const FIRST_WINDOW = { HU: [-160, 240], SUV: [0, 7] };
const DIFFERENCE_REACH = { HU: 100, SUV: 1 };
const DEVIATION_REACH = { HU: 50, SUV: 1 };
const COLORMAPS = { image: "gray", difference: "medidiff_difference", deviation: "inferno" };
// ColorBrewer's RdBu, as in the figures of medidiff: blue is negative, white is zero, red is positive.
const DIFFERENCE = {
  R: [5, 33, 67, 146, 209, 247, 253, 244, 214, 178, 103], G: [48, 102, 147, 197, 229, 247, 219, 165, 96, 24, 0],
  B: [97, 172, 195, 222, 240, 247, 199, 130, 77, 43, 31], A: new Array(11).fill(255),
  I: [0, 26, 51, 77, 102, 128, 153, 179, 204, 230, 255],
};
const REPORT_MS = 500;
const HOLD_MS = 300; // a space bar held longer than this swaps back when it is let go
const CLICK_PX = 3; // a press that moved less sets the position instead of the window
const PAINT_MS = 30;
const NOTCH = 50; // a wheel's notch is one slice however large; a touchpad's small steps add up
const PREFETCH_BYTES = 1.5e9; // images out of sight are fetched ahead up to this sum
const HELP = [
  "wheel, arrows: slices; page up and down: ten; home, end: first and last",
  "left drag: window (right is wider, down is a higher level); shift or middle drag: move",
  "ctrl + wheel or right drag: zoom; double click or r: fit; click: set the position; x: lines",
  "a, c, g: axial, coronal, sagittal; i: invert; shift + 1, 2, ...: presets",
  "one pane: 1 to 6: image; space: swap the first two (hold or press); s: swipe them",
].join("\n");

// ---------------------------------------------------------------------------------------------------- small helpers

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const at = (affine, p) => affine.map((row) => row[0] * p[0] + row[1] * p[1] + row[2] * p[2] + row[3]);

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function element(tag, className, parent, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  if (parent) parent.appendChild(made);
  return made;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text; // unchanged text must cost no layout
}

function inverse(affine) {
  const [[a, b, c, x], [d, e, f, y], [g, h, i, z]] = affine;
  const determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  const rows = [
    [e * i - f * h, c * h - b * i, b * f - c * e],
    [f * g - d * i, a * i - c * g, c * d - a * f],
    [d * h - e * g, b * g - a * h, a * e - b * d],
  ].map((row) => row.map((value) => value / determinant));
  return rows.map((row) => [...row, -(row[0] * x + row[1] * y + row[2] * z)]);
}

const column = (affine, axis) => affine.map((row) => row[axis]);
const length = (vector) => Math.hypot(...vector);

/** Which voxel axis runs along R, A and S: the assignment with the largest sum of cosines. */
function voxelAxes(affine) {
  const orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
  const cosine = (world, axis) => Math.abs(affine[world][axis]) / length(column(affine, axis));
  const score = (order) => order.reduce((sum, axis, world) => sum + cosine(world, axis), 0);
  return orders.reduce((best, order) => (score(order) > score(best) + 1e-9 ? order : best));
}

// ----------------------------------------------------------------------------------------------------------- volumes

const TYPES = { 2: Uint8Array, 4: Int16Array, 8: Int32Array, 16: Float32Array, 512: Uint16Array, 64: Float64Array };

/** A NIfTI-1 file in memory; `above` slices of the series lie before its first (a first.nii holds the middle one). */
class Volume {
  constructor(buffer, above = 0) {
    const header = new DataView(buffer);
    if (buffer.byteLength < 352 || header.getInt32(0, true) !== 348) throw new Error("it is no NIfTI file");
    const Type = TYPES[header.getInt16(70, true)];
    if (!Type) throw new Error("its data type is not supported");
    this.dims = [0, 1, 2].map((axis) => header.getInt16(42 + 2 * axis, true));
    this.slope = header.getFloat32(112, true) || 1;
    this.intercept = header.getFloat32(116, true) || 0;
    this.affine = [0, 1, 2].map((row) => [0, 1, 2, 3].map((k) => header.getFloat32(280 + 16 * row + 4 * k, true)));
    if (header.getInt16(254, true) < 1) throw new Error("it says nothing of its place in the patient");
    const count = this.dims[0] * this.dims[1] * this.dims[2];
    const start = header.getFloat32(108, true);
    if (buffer.byteLength < start + count * Type.BYTES_PER_ELEMENT) throw new Error("it came incomplete");
    this.data = new Type(buffer, start, count);
    this.above = above;
    this.toVoxel = inverse(this.affine);
    this.axes = voxelAxes(this.affine);
    this.strides = [1, this.dims[0], this.dims[0] * this.dims[1]];
    this.serial = Volume.count = (Volume.count || 0) + 1;
  }

  /** The display axes of a plane: voxel axis, size, step in mm, direction along the world's axis, middle in mm. */
  axis(world) {
    const axis = this.axes[world];
    const middle = at(this.affine, this.dims.map((n) => (n - 1) / 2));
    const vector = column(this.affine, axis);
    const sign = Math.sign(vector[world]) || 1;
    return { axis, size: this.dims[axis], step: length(vector), sign, middle: middle[world] };
  }

  frame(plane) {
    return { u: this.axis(PLANES[plane].u), v: this.axis(PLANES[plane].v), w: this.axis(PLANES[plane].w) };
  }

  voxel(mm) {
    return at(this.toVoxel, mm);
  }

  /** The voxel that a position lies in, or null outside. */
  inside(mm) {
    const voxel = this.voxel(mm).map(Math.round);
    return voxel.every((k, axis) => k >= 0 && k < this.dims[axis]) ? voxel : null;
  }

  value(mm) {
    const voxel = this.inside(mm);
    if (!voxel) return null;
    return this.slope * this.data[voxel[0] + voxel[1] * this.strides[1] + voxel[2] * this.strides[2]] + this.intercept;
  }

  /** Gives `colours` of every pixel of a slice to `out`, u fastest, both axes in the direction of the display. */
  colour(plane, index, out, colours) {
    const { u, v, w } = this.frame(plane);
    const [du, dv] = [u, v].map((a) => a.sign * this.strides[a.axis]);
    const corner = [u, v].reduce((sum, a) => sum + (a.sign < 0 ? (a.size - 1) * this.strides[a.axis] : 0), 0);
    const { data } = this;
    let row = index * this.strides[w.axis] + corner;
    for (let to = 0; to < out.length; row += dv) {
      for (let k = 0, from = row; k < u.size; k += 1, from += du) out[to++] = colours(data[from]);
    }
  }
}

/** An empty slice in display axes as a NIfTI file: what NiiVue has to know of its size and place. */
function sliceFile({ u, v, w }) {
  const buffer = new ArrayBuffer(352 + u.size * v.size);
  const header = new DataView(buffer);
  header.setInt32(0, 348, true);
  [3, u.size, v.size, 1, 1, 1, 1, 1].forEach((n, k) => header.setInt16(40 + 2 * k, n, true));
  header.setInt16(70, 2, true);
  header.setInt16(72, 8, true);
  [1, u.step, v.step, w.step, 1, 1, 1, 1].forEach((n, k) => header.setFloat32(76 + 4 * k, n, true));
  header.setFloat32(108, 352, true);
  header.setFloat32(112, 1, true);
  header.setUint8(123, 2); // mm
  header.setInt16(254, 1, true);
  const origin = (a) => a.middle - (a.step * (a.size - 1)) / 2;
  const rows = [[u.step, 0, 0, origin(u)], [0, v.step, 0, origin(v)], [0, 0, w.step, 0]];
  rows.forEach((row, r) => row.forEach((n, k) => header.setFloat32(280 + 16 * r + 4 * k, n, true)));
  [0x6e, 0x2b, 0x31, 0].forEach((n, k) => header.setUint8(344 + k, n));
  return buffer;
}

/** Stored value -> colour as a 32-bit number; for whole numbers from a table, which is fast. */
function colouring(volume, [low, high], palette) {
  const { slope, intercept } = volume;
  const factor = 255 / (high - low);
  const direct = (stored) => palette[clamp(Math.round((slope * stored + intercept - low) * factor), 0, 255) | 0];
  if (!(volume.data instanceof Int16Array)) return direct;
  const table = Uint32Array.from({ length: 65536 }, (_, k) => direct(k - 32768));
  return (stored) => table[stored + 32768];
}

// ----------------------------------------------------------------------------------------------------------- loading

/** The bytes of an address; `tell` hears of the part that has come, where the server says how much there is. */
async function download(url, signal, tell) {
  let answer;
  try {
    answer = await fetch(url, { signal });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Error("the server does not answer");
  }
  if (!answer.ok) throw new Error(`the server says ${answer.status}`);
  const total = Number(answer.headers.get("Content-Length"));
  if (!total || answer.headers.get("Content-Encoding")) return answer.arrayBuffer();
  const bytes = new Uint8Array(total);
  const reader = answer.body.getReader();
  let filled = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (filled + part.value.length > total) throw new Error("it came incomplete");
    bytes.set(part.value, filled);
    filled += part.value.length;
    tell(filled / total);
  }
  if (filled < total) throw new Error("it came incomplete");
  return bytes.buffer;
}

/** An image that may be shown: nothing yet, its middle slice, or all of it; or the sentence that says why not. */
class Source {
  constructor(pane, token, signal, changed) {
    Object.assign(this, { pane, signal, changed, volume: null, state: "loading", error: "", part: 0 });
    this.query = token ? `?token=${encodeURIComponent(token)}` : "";
    this.address = `/review/volumes/${encodeURIComponent(pane.volume)}`;
  }

  first() {
    const middle = Math.floor((this.pane.slices || 1) / 2);
    this.firstTask ||= this.load(`${this.address}/first.nii`, middle, "first");
    return this.firstTask;
  }

  whole() {
    this.wholeTask ||= this.first().then(() => this.state !== "error" && this.load(`${this.address}.nii`, 0, "ready"));
    return this.wholeTask;
  }

  async load(url, above, state) {
    try {
      const buffer = await download(url + this.query, this.signal, (part) => this.heard(state, part));
      this.volume = new Volume(buffer, above);
      this.state = state;
    } catch (error) {
      if (this.signal.aborted) return;
      this.state = "error";
      this.error = `“${this.pane.title}” could not be loaded: ${error.message}.`;
    }
    this.changed();
  }

  heard(state, part) {
    const percent = Math.floor(100 * part);
    if (state !== "ready" || percent === this.part) return;
    this.part = percent;
    this.changed();
  }

  get bytes() {
    return this.volume ? this.volume.strides[2] * this.pane.slices * this.volume.data.BYTES_PER_ELEMENT : 0;
  }

  /** Slices of the plane, and where position `mm` lies among them; null where this volume has no such slice. */
  place(plane, mm) {
    const { w } = this.volume.frame(plane);
    const isPart = this.state !== "ready" && this.pane.slices > 1;
    if (isPart && w.axis !== 2) return null;
    const wanted = Math.round(this.volume.voxel(mm)[w.axis]);
    const index = clamp(wanted, 0, w.size - 1);
    const total = isPart ? this.pane.slices : w.size;
    return { index, number: this.volume.above + index, total, isThere: !isPart || wanted === index };
  }
}

// ------------------------------------------------------------------------------------------------------------- cells

/** One place on the screen: a canvas with its NiiVue instance, and the words around it. */
class Cell {
  constructor(grid, viewer) {
    Object.assign(this, { viewer, image: 0, images: new Map(), drawn: "", content: "", error: "" });
    this.root = element("div", "cell", grid);
    const bar = element("div", "bar", this.root);
    this.choice = element("select", "title", bar);
    this.choice.addEventListener("change", () => viewer.choose(this, Number(this.choice.value)));
    this.range = element("span", "range", bar);
    this.body = element("div", "body", this.root);
    this.canvas = element("canvas", "", this.body);
    this.lines = { u: element("i", "line upright", this.body), v: element("i", "line level", this.body) };
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

  get source() {
    return this.viewer.sources[this.image];
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

  /** Pixels a millimetre at which the whole slice just fits. */
  fit() {
    const { u, v } = this.source.volume.frame(this.viewer.view.plane);
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

  /** Draws what changed; says whether the canvas was drawn. */
  draw() {
    const { plane, mm } = this.viewer.view;
    const place = this.source.volume && mm && this.source.place(plane, mm);
    this.describe(place);
    if (!place || !this.nv || this.error || !this.width) return this.blank(place);
    const { volume, pane } = this.source;
    const frame = volume.frame(plane);
    const image = this.geometry(frame);
    if (!image) return false;
    const { range, isInverted } = this.viewer.look(pane);
    const { centre, scale } = this.viewer.pose();
    const content = [volume.serial, plane, place.index, range, isInverted, pane.kind].join();
    const wanted = [content, centre, scale].join();
    if (wanted === this.drawn) return false;
    this.canvas.style.visibility = "";
    if (this.nv.volumes[0] !== image) this.take(image);
    if (this.content !== content) this.colour(frame, place.index, range, isInverted);
    this.pan(image, frame, centre, scale);
    this.nv.opts.backColor = isInverted ? [1, 1, 1, 1] : [0, 0, 0, 1];
    this.nv.drawScene();
    this.content = content;
    this.drawn = wanted;
    return true;
  }

  blank(place) {
    if (!place) this.canvas.style.visibility = "hidden";
    this.drawn = "";
    return false;
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
    const zoom = scale / this.fit();
    const middle = [0, 1].map((k) => (image.extentsMinOrtho[k] + image.extentsMaxOrtho[k]) / 2);
    const shown = [middle[0] + centre[0] - frame.u.middle, middle[1] + centre[1] - frame.v.middle];
    this.nv.scene.pan2Dxyzmm = [middle[0] - shown[0] * zoom, middle[1] - shown[1] * zoom, 0, zoom];
    this.nv.scene.crosshairPos = [0.5, 0.5, 0.5];
  }

  /** Colours the slice and puts it into NiiVue's texture. */
  colour(frame, index, range, isInverted) {
    const [width, height] = [frame.u.size, frame.v.size];
    if (this.pixels?.length !== width * height) this.pixels = new Uint32Array(width * height);
    const { volume } = this.source;
    volume.colour(this.viewer.view.plane, index, this.pixels, this.colours(volume, range, isInverted));
    const { gl } = this.nv;
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_3D, this.nv.volumeTexture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 4);
    const bytes = new Uint8Array(this.pixels.buffer);
    gl.texSubImage3D(gl.TEXTURE_3D, 0, 0, 0, 0, width, height, 1, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
  }

  colours(volume, range, isInverted) {
    const name = [volume.serial, range, isInverted, this.source.pane.kind].join();
    if (this.coloursName !== name) {
      const map = this.nv.colormap(COLORMAPS[this.source.pane.kind] || "gray", isInverted);
      const palette = new Uint32Array(Uint8Array.from(map, (level, k) => (k % 4 === 3 ? 255 : level)).buffer);
      this.lastColours = colouring(volume, range, palette);
      this.coloursName = name;
    }
    return this.lastColours;
  }

  // ------------------------------------------------------------------------------------------------ words and lines

  describe(place) {
    const { source, viewer } = this;
    this.root.dataset.state = this.error ? "error" : source.state;
    this.root.dataset.image = this.image;
    this.root.dataset.slice = place ? place.number : "";
    this.choice.value = String(this.image);
    setText(this.note, this.error || source.error || this.waiting(place));
    setText(this.range, this.words(viewer.look(source.pane).range));
    setText(this.status, place ? this.reading(place) : " ");
    this.root.classList.toggle("pale", viewer.look(source.pane).isInverted);
    this.letters.forEach(([side, node]) => setText(node, PLANES[viewer.view.plane].letters[side]));
    if (source.volume && viewer.view.mm && this.width) this.measure();
  }

  waiting(place) {
    if (this.source.state === "ready") return "";
    const part = this.source.part ? ` ${this.source.part} %` : "";
    if (!place) return `loading${part}`;
    return place.isThere ? "" : `this slice is being loaded${part}`;
  }

  words([low, high]) {
    const digits = this.source.pane.unit === "HU" ? 0 : 1;
    const show = (value) => value.toFixed(digits);
    const { kind, unit } = this.source.pane;
    if (kind === "difference") return `±${high.toFixed(digits ? 2 : 0)} ${unit}`;
    if (kind === "deviation" || unit === "SUV") return `${show(low)} to ${show(high)} ${unit}`;
    return `W ${show(high - low)} L ${show((low + high) / 2)}`;
  }

  /** "slice 151/300   x -12.3  y 40.1  z 7.0 mm   -43 HU", in DICOM's LPS millimetres. */
  reading(place) {
    const mm = this.viewer.hover || this.viewer.view.mm;
    const [x, y, z] = [-mm[0], -mm[1], mm[2]].map((value) => (Math.abs(value) < 0.05 ? 0 : value).toFixed(1));
    const value = place.isThere ? this.source.volume.value(mm) : null;
    const digits = this.source.pane.unit !== "HU" ? 2 : Number.isInteger(value) ? 0 : 1;
    const isOutside = value === null || Number.isNaN(value);
    const said = isOutside ? "outside" : `${value.toFixed(digits)} ${this.source.pane.unit}`;
    const loading = this.source.state === "first" ? `   loading ${this.source.part} %` : "";
    return `slice ${place.number + 1}/${place.total}   x ${x}  y ${y}  z ${z} mm   ${said}${loading}`;
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

// ------------------------------------------------------------------------------------------------------------ viewer

class Viewer {
  constructor(component, root) {
    Object.assign(this, { component, root, cells: [], sources: [], hover: null, isGone: false, frames: 0 });
    this.starting = Promise.resolve();
    this.abort = new AbortController();
    this.library = import(new URL(`./niivue.js${new URL(import.meta.url).search}`, import.meta.url).href);
    this.library.catch(() => {}); // each cell says so
    const { data } = component;
    const isPet = data.modality === "PT";
    this.view = {
      plane: data.plane in PLANES ? data.plane : "axial", layout: data.layout, mm: null, poses: {}, windows: {},
      isInverted: isPet, isSwiping: false, swipe: 0.5, areLinesShown: true,
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
    this.grid = element("div", "grid", this.root);
    this.divider = element("div", "divider", this.grid);
    element("div", "disclaimer", this.root, DISCLAIMER);
    this.buttons = [];
    for (const n of LAYOUTS) {
      this.button(`${n}`, `${n} at a time`, () => this.setLayout(n), () => this.view.layout === n);
    }
    this.gap();
    for (const [plane, { key }] of Object.entries(PLANES)) {
      this.button(plane, `key ${key}`, () => this.setPlane(plane), () => this.view.plane === plane);
    }
    this.gap();
    this.presets = element("span", "presets", this.tools);
    this.button("invert", "key i", () => this.invert(), () => this.view.isInverted);
    this.button("swipe", "key s, one pane", () => this.toggleSwipe(), () => this.isSwiping);
    this.button("fit", "key r", () => this.fit(), () => false);
    element("span", "help", this.tools, "?").title = HELP;
    this.listen();
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
      this.root.focus({ preventScroll: true }); // or the space bar would press the button again
    });
    this.buttons.push([made, isOn]);
  }

  /** Takes what Python gives; what it repeats leaves the reader's view alone. */
  take(data) {
    const before = this.data || {};
    this.data = data;
    this.root.style.height = `${data.height || 720}px`;
    if (!same(before.panes, data.panes) || before.token !== data.token) this.takePanes(data);
    if (!same(before.presets, data.presets)) this.takePresets(data.presets || {});
    if (data.window && !same(before.window, data.window)) this.view.windows[this.mainGroup] = [...data.window];
    if (before.layout !== data.layout) this.view.layout = LAYOUTS.includes(data.layout) ? data.layout : 1;
    if (before.plane !== data.plane && data.plane in PLANES) this.view.plane = data.plane;
    if (before.slice !== data.slice) this.goal = data.slice;
    this.arrange();
  }

  takePanes(data) {
    const known = new Map(this.sources.map((source) => [source.pane.volume, source]));
    this.sources = (data.panes || []).slice(0, 6).map((pane) => {
      const old = known.get(pane.volume);
      if (old && old.state !== "error") return Object.assign(old, { pane });
      return new Source(pane, data.token, this.abort.signal, () => this.loaded());
    });
    this.cells.forEach((cell) => {
      cell.image = Math.min(cell.image, this.sources.length - 1);
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
    this.sources.forEach(({ pane }, k) => (element("option", "", cell.choice, pane.title).value = String(k)));
  }

  get isSwiping() {
    return this.view.isSwiping && this.view.layout === 1 && this.sources.length > 1;
  }

  get visible() {
    return this.cells.filter((cell) => cell.isVisible);
  }

  /** Makes and hides cells as the layout needs them, and loads what they show. */
  arrange() {
    const shown = this.isSwiping ? 2 : Math.min(this.view.layout, this.sources.length);
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
    await Promise.all(seen.map((source) => source.first()));
    for (const source of [...seen, ...this.ahead()]) {
      if (turn !== this.turn || this.isGone) return;
      await source.whole();
    }
  }

  ahead() {
    const total = this.sources.length * Math.max(0, ...this.sources.map((source) => source.bytes));
    return total < PREFETCH_BYTES ? this.sources : this.sources.slice(0, 2);
  }

  loaded() {
    const reference = this.sources.find((source) => source.volume);
    if (reference && !this.view.mm) this.view.mm = at(reference.volume.affine, middleVoxel(reference.volume));
    this.reachGoal();
    this.redraw();
  }

  reachGoal() {
    const ready = this.sources.find((source) => source.state === "ready");
    if (!Number.isInteger(this.goal) || !ready) return;
    this.moveTo(ready.volume, this.goal);
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
    if (!cell.drawn) return 0;
    return cell.source.state === "ready" ? 2 : 1;
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
    const cell = this.visible.find((one) => one.source.volume);
    const { u, v } = cell.source.volume.frame(this.view.plane);
    const { zoom, centre } = found || { zoom: 1, centre: null };
    return { centre: centre || [u.middle, v.middle], scale: cell.fit() * zoom, zoom };
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

  get mainGroup() {
    return `image ${this.data.modality === "PT" ? "SUV" : "HU"}`;
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
    const isInverted = pane.kind === "image" && this.view.isInverted;
    return { range: this.range(this.group(pane)), isInverted };
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
    this.view.isInverted = !this.view.isInverted;
    this.redraw();
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
    if (image >= this.sources.length) return;
    cell.image = image;
    this.root.focus({ preventScroll: true });
    this.arrange();
  }

  /** Swaps the first two images in place: position, window and zoom are the viewer's, not the image's. */
  flicker() {
    if (this.sources.length < 2) return;
    const [first, second] = this.visible;
    if (second) [first.image, second.image] = [second.image, first.image];
    else first.image = first.image === 0 ? 1 : 0;
    this.arrange();
  }

  toggleSwipe() {
    if (this.view.layout !== 1 || this.sources.length < 2) return;
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
    const { plane, layout, mm } = this.view;
    const place = cell.source.place(plane, mm);
    const position = [-mm[0], -mm[1], mm[2]].map((value) => Math.round(100 * value) / 100 + 0);
    const window = this.range(this.mainGroup);
    const slice = place ? place.number : null;
    this.component.setStateValue("view", { slice, plane, window, position_mm: position, layout });
  }

  // --------------------------------------------------------------------------------------------- mouse and keyboard

  listen() {
    const on = (type, act) => this.grid.addEventListener(type, (event) => act.call(this, event), { passive: false });
    on("wheel", this.onWheel);
    on("pointerdown", this.onPress);
    on("pointermove", this.onMove);
    on("pointerup", this.onRelease);
    on("pointercancel", this.onRelease);
    on("pointerleave", this.onLeave);
    on("dblclick", (event) => this.cellOf(event) && this.fit());
    on("contextmenu", (event) => event.preventDefault());
    this.root.addEventListener("pointerenter", () => this.attend());
    this.root.addEventListener("keydown", (event) => this.onKey(event));
    this.root.addEventListener("keyup", (event) => this.onKeyUp(event));
  }

  /** Keys go to what the mouse is over, unless somebody is typing elsewhere. */
  attend() {
    const typing = document.activeElement?.closest?.("input, textarea, select, [contenteditable=true]");
    if (!typing) this.root.focus({ preventScroll: true });
  }

  cellOf(event) {
    const body = event.target.closest?.(".body");
    return body && this.cells.find((cell) => cell.body === body);
  }

  inCell(cell, event) {
    const box = cell.body.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  onWheel(event) {
    const cell = this.cellOf(event);
    if (!cell) return;
    event.preventDefault();
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
    const { pane } = cell.source;
    const { centre, scale, zoom } = this.pose();
    const spot = this.inCell(cell, event);
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
    this.redraw();
  }

  continueDrag({ clientX, clientY }) {
    const { x, y } = this.drag;
    this.drag.far = Math.max(this.drag.far, Math.hypot(clientX - x, clientY - y));
    if (this.drag.far >= CLICK_PX || !this.drag.click) this.drag.act(clientX, clientY, clientX - x, clientY - y);
  }

  onRelease() {
    if (this.drag?.click && this.drag.far < CLICK_PX) this.drag.click();
    this.drag = null;
  }

  onLeave() {
    if (this.drag) return;
    this.pointer = this.hover = null;
    this.redraw();
  }

  point(cell, spot) {
    this.view.mm = cell.position(...spot);
    this.changed();
  }

  swipeTo(clientX) {
    const box = this.grid.getBoundingClientRect();
    this.view.swipe = clamp((clientX - box.left) / box.width, 0, 1);
    this.redraw();
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
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
