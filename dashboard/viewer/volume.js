/* Volumes in memory: NIfTI files as they came, and how they come. */

import { PLANES, at, clamp, column, inverse, length, voxelAxes } from "./space.js";

const TYPES = { 2: Uint8Array, 4: Int16Array, 8: Int32Array, 16: Float32Array, 512: Uint16Array, 64: Float64Array };
const SAME_MM = 0.01; // affines that differ by less are one grid

/** A NIfTI-1 file in memory; `above` slices of the series lie before its first (a first.nii holds the middle one). */
export class Volume {
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

  value(voxel) {
    return this.slope * this.data[voxel[0] + voxel[1] * this.strides[1] + voxel[2] * this.strides[2]] + this.intercept;
  }

  isInside(voxel) {
    return voxel.every((k, axis) => k >= -0.5 && k <= this.dims[axis] - 0.5);
  }

  /** Whether another volume has the same voxels at the same places. */
  isAlike(other) {
    const isNear = (row, r) => row.every((value, k) => Math.abs(value - other.affine[r][k]) < SAME_MM);
    return this.dims.every((n, axis) => n === other.dims[axis]) && this.affine.every(isNear);
  }

  /** Where a slice's pixels lie in `data`, u and v in the direction of the display: the first, and the steps. */
  walk(plane, index) {
    const { u, v, w } = this.frame(plane);
    const [du, dv] = [u, v].map((a) => a.sign * this.strides[a.axis]);
    const corner = [u, v].reduce((sum, a) => sum + (a.sign < 0 ? (a.size - 1) * this.strides[a.axis] : 0), 0);
    return { width: u.size, du, dv, start: index * this.strides[w.axis] + corner };
  }
}

/** The value between voxels, of the eight around; x, y, z lie inside (`isInside`), the outer half voxels are flat.
 *
 * No arrays are made: it is called for every pixel of a slice.
 */
export function between(volume, x, y, z) {
  const { data, dims, strides } = volume;
  const mx = dims[0] - 1;
  const my = dims[1] - 1;
  const mz = dims[2] - 1;
  const cx = x < 0 ? 0 : x > mx ? mx : x;
  const cy = y < 0 ? 0 : y > my ? my : y;
  const cz = z < 0 ? 0 : z > mz ? mz : z;
  const i = cx | 0;
  const j = cy | 0;
  const k = cz | 0;
  const dx = i < mx ? 1 : 0;
  const dy = j < my ? strides[1] : 0;
  const dz = k < mz ? strides[2] : 0;
  const a = i + j * strides[1] + k * strides[2];
  const near = inSquare(data, a, dx, dy, cx - i, cy - j);
  const far = inSquare(data, a + dz, dx, dy, cx - i, cy - j);
  return volume.slope * (near + (cz - k) * (far - near)) + volume.intercept;
}

function inSquare(data, a, dx, dy, fx, fy) {
  const low = data[a] + fx * (data[a + dx] - data[a]);
  const high = data[a + dy] + fx * (data[a + dy + dx] - data[a + dy]);
  return low + fy * (high - low);
}

/** An empty slice in display axes as a NIfTI file: what NiiVue has to know of its size and place. */
export function sliceFile({ u, v, w }) {
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

/** A volume of the server: nothing yet, its middle slice, or all of it; or why it could not be loaded. */
export class Source {
  constructor(name, slices, token, signal, changed) {
    Object.assign(this, { slices, signal, changed, volume: null, state: "loading", error: "", part: 0 });
    this.query = token ? `?token=${encodeURIComponent(token)}` : "";
    this.address = `/review/volumes/${encodeURIComponent(name)}`;
  }

  first() {
    const middle = Math.floor((this.slices || 1) / 2);
    this.firstTask ||= this.load(`${this.address}/first.nii`, middle, "first");
    return this.firstTask;
  }

  whole() {
    this.wholeTask ||= (this.firstTask || Promise.resolve()).then(
      () => this.state !== "error" && this.load(`${this.address}.nii`, 0, "ready"),
    );
    return this.wholeTask;
  }

  async load(url, above, state) {
    try {
      const buffer = await download(url + this.query, this.signal, (part) => this.heard(state, part));
      if (this.state === "ready") return; // a first slice that was asked for later
      this.volume = new Volume(buffer, above);
      this.state = state;
    } catch (error) {
      if (this.signal.aborted || this.state === "ready") return;
      this.state = "error";
      this.error = error.message;
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
    return this.volume ? this.volume.strides[2] * (this.slices || 1) * this.volume.data.BYTES_PER_ELEMENT : 0;
  }

  /** Slices of the plane, and where position `mm` lies among them; null where this volume has no such slice. */
  place(plane, mm) {
    const { w } = this.volume.frame(plane);
    const isPart = this.state !== "ready" && this.slices > 1;
    if (isPart && w.axis !== 2) return null;
    const wanted = Math.round(this.volume.voxel(mm)[w.axis]);
    const index = clamp(wanted, 0, w.size - 1);
    const total = isPart ? this.slices : w.size;
    return { index, number: this.volume.above + index, total, isThere: wanted === index };
  }
}
