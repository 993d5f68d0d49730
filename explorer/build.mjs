// Bundles the explorer into one static folder: node build.mjs [folder]. The same sources give the same bytes.
import { copyFile, mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import esbuild from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "../src/desi_fits_to_parquet/explorer/static");
await mkdir(out, { recursive: true });

const { metafile } = await esbuild.build({
  absWorkingDir: here,
  entryPoints: ["src/explorer.js", "src/explorer.css"],
  outdir: out,
  bundle: true,
  format: "iife", // no module: browsers refuse to load one from a file, and then nothing could tell why
  target: "es2022",
  charset: "utf8",
  minify: true,
  legalComments: "none", // they stand in LICENSES.txt
  metafile: true,
});
await copyFile(join(here, "src/index.html"), join(out, "index.html"));

// Each package of which something is in the bundle, with its licence.
const inputs = Object.keys(metafile.inputs).map((path) => path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)\//)?.[1]);
const texts = ["The explorer's bundle holds these packages.\n"];
for (const name of [...new Set(inputs)].filter(Boolean).sort()) {
  const folder = join(here, "node_modules", name);
  const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  const file = (await readdir(folder)).find((entry) => /^licen[cs]e/i.test(entry));
  if (!file) throw new Error(`${name} has no file with its licence`);
  const text = await readFile(join(folder, file), "utf8");
  texts.push(`${name} ${version} (${license})\n\n${text.trim()}\n`);
}
await writeFile(join(out, "LICENSES.txt"), texts.join(`\n${"-".repeat(78)}\n\n`));
