// Below the pictures: special colours, notes, and the full-size files.

function showNotes(entry) {
  const present = new Map();
  for (const { panel } of state.panels.values()) {
    for (const index of new Set(panel.picture?.indices)) if (index >= LEVELS) present.set(index, panel.picture.palette);
  }
  $("special").replaceChildren(...[...present].sort(([a], [b]) => a - b).map(([index, palette]) => {
    const item = document.createElement("span");
    item.className = "special";
    item.innerHTML = "<span class='swatch'></span>";
    item.firstChild.style.background = `rgb(${palette.subarray(3 * index, 3 * index + 3).join(",")})`;
    item.append(SPECIAL[index - LEVELS]);
    return item;
  }));
  $("notes").textContent = notes(entry).join(" ");
  $("files").replaceChildren("Full-size pictures: ", ...fileNames(entry), ...tilesPage(entry));
}

function notes(entry) {
  const found = [];
  const pictures = Object.values(viewOf(entry).pictures);
  const [{ block_px: block, full_size: [height, width] }] = pictures;
  if (block > 1) found.push(`Full size is ${width} \u00d7 ${height} px, shown here averaged over ${block} \u00d7 ${block} px.`);
  if (entry.pixel_size_m) found.push(`Pixel size ${lengthText(entry.pixel_size_m)}.`);
  if (state.frames.length < DATA.entries.length) {
    found.push(`${state.frames.length} of ${DATA.entries.length} logged epochs have pictures here, to limit the size of this file.`);
  }
  if ("amp_error" in viewOf(entry).pictures || "phase_error" in viewOf(entry).pictures) {
    found.push("Predictions are aligned with the truth before errors are computed; the picture files show them as they are.");
  }
  const contrasts = [...state.contrast.keys()].map((quantity) => titleOfQuantity(quantity).toLowerCase());
  if (contrasts.length) found.push(`Contrast changed: ${contrasts.join(", ")}.`);
  if (state.other !== null) found.push(...notesOnDifference());
  if (hasDimmedBorder(entry)) found.push("The dimmed border of the patch is not compared.");
  return found;
}

function notesOnDifference() {
  const steps = [...state.panels].filter(([kind, { panel }]) => kind.endsWith("_pred") && panel.picture).map(([kind, { panel }]) => {
    const { vmin, vmax, unit } = panel.picture;
    return `${GROUPS[kind.split("_")[0]].toLowerCase()} ${withUnit(numberText((vmax - vmin) / (LEVELS - 1)), unit)}`;
  });
  const aligned = "amp_gt" in viewOf(shown()).pictures
    ? "" : " Without a truth, epochs are not aligned: the difference includes global phase, amplitude scale and phase ramp.";
  return [`Difference: epoch ${shown().epoch} minus epoch ${state.other}, exact to one colour step (${steps.join(", ")}); unknown where both are beyond the colours.${aligned}`];
}

function lengthText(metres) {
  const [factor, unit] = [[1e-3, "mm"], [1e-6, "µm"], [1e-9, "nm"], [0, "pm"]].find(([least]) => metres >= least * 0.999);
  return `${numberText(metres / (factor || 1e-12))} ${unit}`;
}

/** Link the files if the gallery was opened from disk, next to the pictures; otherwise only name them. */
function fileNames(entry) {
  const folder = `${entry.folder}/${state.view}/`;
  const names = Object.keys(viewOf(entry).pictures).map((kind) => `${kind}.png`);
  if (location.protocol !== "file:") return [`${folder} ${names.join(" ")}`];
  return names.flatMap((name) => {
    const link = document.createElement("a");
    link.href = `../${folder}${name}`;
    link.textContent = name;
    return [link, " "];
  });
}

/** Link the page that zooms to single pixels, if there are tiles. */
function tilesPage(entry) {
  if (!viewOf(entry).tiles) return [];
  if (location.protocol !== "file:") return [". To zoom to single pixels: recon_log/tiles.html"];
  const link = document.createElement("a");
  link.href = "../recon_log/tiles.html";
  link.textContent = "zoom to single pixels";
  return [link];
}
