// HEALPix, nested: a pixel's place on the sky. Source: Gorski et al. 2005, ApJ 622, 759, section 5.
const RING = [2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4];
const PHI = [1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7];

function place(face, x, y) {
  const ring = RING[face] - x - y;
  const polar = ring < 1 ? ring : ring > 3 ? 4 - ring : 1;
  const z = ring < 1 ? 1 - (ring * ring) / 3 : ring > 3 ? (polar * polar) / 3 - 1 : ((2 - ring) * 2) / 3;
  const step = (PHI[face] * polar + x - y + 8) % 8;
  const ra = polar < 1e-12 ? 0 : (45 * step) / polar;
  return [ra, (Math.asin(Math.max(-1, Math.min(1, z))) * 180) / Math.PI];
}

// Centre and four corners (RA, Dec in degrees) of a pixel.
export function cell(order, pixel) {
  const side = 2 ** order;
  const face = Math.floor(pixel / (side * side));
  let rest = pixel % (side * side);
  let x = 0;
  let y = 0;
  for (let bit = 1; bit < side; bit *= 2) {
    const pair = rest % 4;
    if (pair & 1) x += bit;
    if (pair & 2) y += bit;
    rest = Math.floor(rest / 4);
  }
  const at = (i, j) => place(face, (x + i) / side, (y + j) / side);
  return { centre: at(0.5, 0.5), corners: [at(0, 0), at(1, 0), at(1, 1), at(0, 1)] };
}
