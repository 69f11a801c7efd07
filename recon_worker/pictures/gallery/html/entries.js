// The entries of a gallery, one per epoch, and their pictures.

const FRAME_MS = 350;
const decoded = new Map();

function picture(name) {
  if (!decoded.has(name)) decoded.set(name, decodePicture(DATA.pictures[name]));
  return decoded.get(name);
}

/** The chosen object or sample of an entry. */
const viewOf = (entry) => entry.views.find((view) => view.name === state.view);

function titleOfView(name) {
  const [kind, number] = name.split("_object_");
  if (kind.startsWith("patch_")) return `Sample ${Number(kind.split("_").at(-1))}`;
  return `Object ${number ?? ""}`.trim() + (kind === "refined" ? ", refined" : "");
}
