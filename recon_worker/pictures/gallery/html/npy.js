// Downloads of the arrays behind the pictures, as NumPy's NPY files.

/** The values of a picture as an NPY file, version 1.0: (height, width) float32, row 0 on top. */
function npyOf(picture) {
  const { width, height } = picture;
  const facts = `{'descr': '<f4', 'fortran_order': False, 'shape': (${height}, ${width}), }`;
  const header = new TextEncoder().encode(facts.padEnd(64 * Math.ceil((facts.length + 11) / 64) - 11) + "\n"); // 10 bytes precede it
  const start = Uint8Array.of(0x93, ...new TextEncoder().encode("NUMPY"), 1, 0, header.length & 255, header.length >> 8);
  const body = new DataView(new ArrayBuffer(4 * width * height));
  valuesOf(picture).forEach((value, at) => body.setFloat32(4 * at, value, true));
  return new Blob([start, header, body], { type: "application/octet-stream" });
}

function npyName(kind) {
  const [own, other] = [shown(), frameOf(state.other)];
  const [group, role] = kind.split("_");
  if (role === "change") return `${own.folder}_minus_${other.folder}_${state.view}_${group}.npy`;
  return `${(role === "other" ? other : own).folder}_${state.view}_${fileKind(kind)}.npy`;
}

function save(blob, name) {
  const link = document.createElement("a");
  const address = URL.createObjectURL(blob);
  link.setAttribute("href", address);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000); // the browser may still be reading
}

/** A button for each picture shown. */
function showDownloads() {
  $("arrays").hidden = PREVIEW;
  const pictures = [...state.panels].filter(([, one]) => one.picture);
  $("arrays").lastElementChild.replaceChildren(...pictures.map(([kind, one]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = npyName(kind);
    button.addEventListener("click", () => save(npyOf(one.picture), button.textContent));
    return button;
  }));
}
