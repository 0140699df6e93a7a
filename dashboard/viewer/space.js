/* Places: the planes and their letters, affines, and which way voxels run.
 *
 * Positions are RAS millimetres in the viewer, as in NIfTI; readers and Python see LPS millimetres, as in DICOM.
 */

export const PLANES = {
  axial: { u: 0, v: 1, w: 2, letters: { left: "R", right: "L", top: "A", bottom: "P" }, key: "a" },
  coronal: { u: 0, v: 2, w: 1, letters: { left: "R", right: "L", top: "S", bottom: "I" }, key: "c" },
  sagittal: { u: 1, v: 2, w: 0, letters: { left: "A", right: "P", top: "S", bottom: "I" }, key: "g" },
};

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
export const at = (affine, p) => affine.map((row) => row[0] * p[0] + row[1] * p[1] + row[2] * p[2] + row[3]);
export const column = (affine, axis) => affine.map((row) => row[axis]);
export const length = (vector) => Math.hypot(...vector);
export const turned = ([x, y, z]) => [-x, -y, z]; // RAS to LPS, and back
export const rounded = (mm, digits) => mm.map((value) => Number(value.toFixed(digits)) + 0); // + 0: there is no -0

export function inverse(affine) {
  const [[a, b, c, x], [d, e, f, y], [g, h, i, z]] = affine;
  const determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  const rows = [
    [e * i - f * h, c * h - b * i, b * f - c * e],
    [f * g - d * i, a * i - c * g, c * d - a * f],
    [d * h - e * g, b * g - a * h, a * e - b * d],
  ].map((row) => row.map((value) => value / determinant));
  return rows.map((row) => [...row, -(row[0] * x + row[1] * y + row[2] * z)]);
}

/** Which voxel axis runs along R, A and S: the assignment with the largest sum of cosines. */
export function voxelAxes(affine) {
  const orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
  const cosine = (world, axis) => Math.abs(affine[world][axis]) / length(column(affine, axis));
  const score = (order) => order.reduce((sum, axis, world) => sum + cosine(world, axis), 0);
  return orders.reduce((best, order) => (score(order) > score(best) + 1e-9 ? order : best));
}
