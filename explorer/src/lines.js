// Lines by rest wavelength in vacuum, in Angstrom: DESI's wavelengths are those of vacuum.
// Source: NIST Atomic Spectra Database; blends and broad lines: Vanden Berk et al. 2001, AJ 122, 549.
export const EMISSION = [
  ["Lyβ", 1025.72], ["O VI", 1033.83], ["Lyα", 1215.67], ["N V", 1240.15], ["Si IV", 1396.76],
  ["C IV", 1549.06], ["He II", 1640.42], ["C III]", 1908.73], ["Mg II", 2799.12], ["[Ne V]", 3426.85],
  ["[O II]", 3728.48], ["[Ne III]", 3869.86], ["Hδ", 4102.89], ["Hγ", 4341.68], ["[O III]", 4364.44],
  ["He II", 4687.02], ["Hβ", 4862.68], ["[O III]", 4960.3], ["[O III]", 5008.24], ["He I", 5877.25],
  ["[O I]", 6302.05], ["[N II]", 6549.86], ["Hα", 6564.61], ["[N II]", 6585.27], ["[S II]", 6718.29],
  ["[S II]", 6732.67], ["[S III]", 9071.1],
];
export const ABSORPTION = [
  ["Lyman limit", 911.75], ["Si II", 1260.42], ["O I", 1302.17], ["C II", 1334.53], ["Si II", 1526.71],
  ["C IV", 1548.2], ["C IV", 1550.77], ["Al II", 1670.79], ["Al III", 1854.72], ["Al III", 1862.79],
  ["Fe II", 2344.21], ["Fe II", 2382.76], ["Fe II", 2586.65], ["Fe II", 2600.17], ["Mg II", 2796.35],
  ["Mg II", 2803.53], ["Ca K", 3934.78], ["Ca H", 3969.59], ["G", 4305.61], ["Mg b", 5176.63],
  ["Na D", 5895.6], ["Ca II", 8500.36], ["Ca II", 8544.44], ["Ca II", 8664.52],
];
