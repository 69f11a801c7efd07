// The page's address names what it shows, so that a link opens the same view: #view=stitched&epoch=5&with=2.

/** Whether the page is in a frame, as in MLflow's preview: no address of its own, and usually no downloads. */
const PREVIEW = window.parent !== window;
const ADDRESS_DELAY_MS = 250; // some browsers limit how often the address may change

let addressTimer = 0;

function linkText() {
  const facts = new URLSearchParams({ view: state.view, epoch: shown().epoch });
  if (state.other !== null) facts.set("with", state.other);
  if (state.line) {
    facts.set("of", state.quantity);
    facts.set("line", lineInPixels().join(" "));
  }
  return `#${facts}`;
}

/** Update the link and the address. */
function showLink() {
  const link = linkText();
  if (PREVIEW) {
    $("link").replaceChildren("This preview has neither links nor downloads. For both, download the page and open it. This view is ", codeOf(link));
    return;
  }
  $("link").firstElementChild.setAttribute("href", link);
  clearTimeout(addressTimer);
  addressTimer = setTimeout(() => history.replaceState(null, "", link), ADDRESS_DELAY_MS);
}

function codeOf(link) {
  const code = document.createElement("code");
  code.textContent = `gallery.html${link}`;
  return code;
}

/** Show what the address names, and report what this gallery does not have. */
function openLink() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const [view, epoch, other] = ["view", "epoch", "with"].map((name) => asked.get(name));
  const names = [...$("view").options].map((option) => option.value);
  $("view").value = names.includes(view) ? view : names[0];
  state.other = other === null ? null : Number(other);
  chooseView($("view").value, epoch === null ? Infinity : Number(epoch));
  openLine(asked.get("of"), asked.get("line"));
  const missing = [];
  if (view !== null && view !== $("view").value) missing.push(view);
  if (epoch !== null && Number(epoch) !== shown()?.epoch) missing.push(`epoch ${epoch}`);
  if (other !== null && Number(other) !== state.other) missing.push(`epoch ${other}`);
  $("message").textContent = missing.length ? `Not in this gallery: ${missing.join(", ")}.` : "";
}

/** Show the profile along a line, given as text: x and y of the start, x and y of the end. */
function openLine(quantity, pixels) {
  const ends = (pixels ?? "").split(" ").map(Number);
  if (ends.length !== 4 || !ends.every(Number.isFinite)) return;
  if ([...$("quantity").options].some((option) => option.value === quantity)) chooseQuantity(quantity);
  $("inspect").open = true;
  setLine(ends);
}
