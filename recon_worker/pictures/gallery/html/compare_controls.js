// Controls, keyboard shortcuts and start of the comparison page.

function play(on) {
  clearTimeout(state.timer);
  if (on && state.index === state.epochs.length - 1) goTo(0);
  state.timer = on ? setTimeout(advance, FRAME_MS) : 0;
  $("play").textContent = on ? "Stop" : "Play";
  $("play").setAttribute("aria-pressed", String(on));
}

/** Show the next epoch; wait for it, so that no epoch is skipped where drawing takes longer than a frame. */
async function advance() {
  const timer = state.timer;
  await goTo(state.index + 1);
  if (timer !== state.timer) return; // stopped or started again meanwhile
  if (state.index === state.epochs.length - 1) play(false);
  else state.timer = setTimeout(advance, FRAME_MS);
}

function stepTo(index) {
  play(false);
  if (!state.mode) goTo(index);
}

const togglePlay = () => !$("play").disabled && play(!state.timer);

const KEYS = {
  ArrowLeft: () => stepTo(state.index - 1),
  ArrowRight: () => stepTo(state.index + 1),
  Home: () => stepTo(0),
  End: () => stepTo(state.epochs.length - 1),
  " ": togglePlay,
  "+": () => state.space.step(1),
  "=": () => state.space.step(1),
  "-": () => state.space.step(-1),
  0: () => state.space.reset(),
  "?": () => $("help").showModal(),
};

function start() {
  $("title").textContent = `${NAMES.length} runs`;
  fill($("view"), DATA.views.map((name) => [name, titleOfView(name)]));
  $("view-label").hidden = DATA.views.length < 2;
  $("legend").replaceChildren(...NAMES.map((name, run) => {
    const made = document.createElement("span");
    made.append(swatch(run), name);
    return made;
  }));
  fillTable($("settings"), NAMES, Object.entries(DATA.settings));
  if (!Object.keys(DATA.settings).length) $("settings").replaceChildren("none");
  $("view").addEventListener("change", () => chooseView($("view").value));
  for (const name of ["mode", "reference"]) {
    $(name).addEventListener("change", () => {
      play(false);
      state[name] = $(name).value;
      goTo(state.index);
    });
  }
  $("slider").addEventListener("input", () => stepTo(Number($("slider").value)));
  const clicks = { previous: "ArrowLeft", next: "ArrowRight", play: " ", "zoom-in": "+", "zoom-out": "-", "zoom-reset": "0", "help-button": "?" };
  for (const [id, key] of Object.entries(clicks)) $(id).addEventListener("click", KEYS[key]);
  listenToKeys((event) => KEYS[event.key]);
  chooseView(DATA.views[0]);
}

start();
