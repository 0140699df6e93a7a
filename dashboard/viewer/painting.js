/* The colours of a slice: a window of grey or of a map, blended with the scan, tinted, with a PET on it.
 *
 * A pixel is first a number, level + 256 tint + 512 heat, and then the entry of that number in a table of colours:
 *
 *     level   0 to 255 in the window, of base + strength (volume - base) where there is a base
 *     tint    1 where the standard deviation reaches the threshold
 *     heat    0 to 255 in the PET's own window, of its value between its voxels at the pixel's place
 *
 * Each is a pass over the pixels that allocates nothing; the table changes with the looks, not with the slice.
 */

import { at, clamp, column } from "./space.js";
import { between } from "./volume.js";

const TINT = [255, 40, 200]; // magenta: neither grey nor a colour of the heat
const TINT_SHARE = 0.5;
const HEAT_FULL = 64; // below this level a PET fades out, so that the CT is not darkened where nothing took up

/** Colours of a window's levels, or of all the layers: `palette` and `heat` are RGBA bytes of 256 colours. */
export function colourTable(palette, heat, opacity) {
  const bytes = new Uint8ClampedArray(4 * 512 * (heat ? 256 : 1));
  for (let k = 0, to = 0; to < bytes.length; k += 1, to += 4) {
    const [level, warmth] = [4 * (k & 255), k >> 9];
    const share = opacity * Math.min(1, warmth / HEAT_FULL);
    for (let c = 0; c < 3; c += 1) {
      let value = palette[level + c];
      if (heat) value += share * (heat[4 * warmth + c] - value);
      if (k & 256) value += TINT_SHARE * (TINT[c] - value);
      bytes[to + c] = value;
    }
    bytes[to + 3] = 255;
  }
  return new Uint32Array(bytes.buffer);
}

/** Of whole numbers of 16 bits the colour of each, which is fastest; null for others. */
export function directTable(volume, [low, high], table) {
  if (!(volume.data instanceof Int16Array)) return null;
  const { slope, intercept } = volume;
  const factor = 255 / (high - low);
  const level = (stored) => clamp(Math.round((slope * stored + intercept - low) * factor), 0, 255);
  return Uint32Array.from({ length: 65536 }, (_, k) => table[level(k - 32768)]);
}

export function paintDirectly(out, { width, du, dv, start }, { data }, direct) {
  for (let to = 0, row = start; to < out.length; row += dv) {
    for (let k = 0, from = row; k < width; k += 1, from += du) out[to++] = direct[data[from] + 32768];
  }
}

/** Levels of `volume`, or of base + share (volume - base); whatever is no number is the lowest. */
export function paintLevels(out, { width, du, dv, start }, volume, base, share, [low, high]) {
  const factor = 255 / (high - low);
  const below = base || volume;
  const [part, rest] = base ? [share, 1 - share] : [1, 0];
  const a = part * volume.slope * factor;
  const b = rest * below.slope * factor;
  const c = (part * volume.intercept + rest * below.intercept - low) * factor + 0.5;
  const values = volume.data;
  const others = below.data;
  for (let to = 0, row = start; to < out.length; row += dv) {
    for (let k = 0, from = row; k < width; k += 1, from += du) {
      const level = a * values[from] + b * others[from] + c;
      out[to++] = level > 255 ? 255 : level > 0 ? level : 0;
    }
  }
}

/** Tints what deviates by the threshold or more. */
export function paintTint(out, { width, du, dv, start }, { data, slope, intercept }, threshold) {
  for (let to = 0, row = start; to < out.length; row += dv) {
    for (let k = 0, from = row; k < width; k += 1, from += du, to += 1) {
      if (slope * data[from] + intercept >= threshold) out[to] += 256;
    }
  }
}

/** Lays a volume of any grid on the slice `index` of `under`. */
export function paintHeat(out, under, plane, index, volume, [low, high]) {
  const { u, v, w } = under.frame(plane);
  const corner = [0, 0, 0];
  [u, v].forEach((a) => (corner[a.axis] = a.sign < 0 ? a.size - 1 : 0));
  corner[w.axis] = index;
  const start = volume.voxel(at(under.affine, corner));
  const [du, dv] = [u, v].map((a) => {
    const step = column(under.affine, a.axis).map((mm) => a.sign * mm);
    return volume.toVoxel.map((row) => row[0] * step[0] + row[1] * step[1] + row[2] * step[2]);
  });
  const [mx, my, mz] = volume.dims.map((n) => n - 0.5);
  const factor = 255 / (high - low);
  for (let to = 0, line = 0; to < out.length; line += 1) {
    let x = start[0] + line * dv[0];
    let y = start[1] + line * dv[1];
    let z = start[2] + line * dv[2];
    for (let k = 0; k < u.size; k += 1, to += 1, x += du[0], y += du[1], z += du[2]) {
      if (x < -0.5 || y < -0.5 || z < -0.5 || x > mx || y > my || z > mz) continue;
      const level = (between(volume, x, y, z) - low) * factor;
      if (level > 0.5) out[to] += 512 * (level > 255 ? 255 : (level + 0.5) | 0);
    }
  }
}

export function paintColours(out, table) {
  for (let k = 0; k < out.length; k += 1) out[k] = table[out[k]];
}
