// Shows one page of the survey at a time and sends the participant's action to the server.
// An action is repeated until it is acknowledged; the acknowledgement carries the next page.

// ms from pictures visible to input accepted, so that input meant for the last page is ignored.
const ARM_AFTER = { feedback: 700, other: 300 };
const RETRY = [300, 700, 1500, 3000, 5000];
const PATIENCE = 12000; // ms to wait for one picture before an attempt counts as failed
const NOTICE_AFTER = 2000; // ms until a person who waits for an answer to be stored reads that
const DRAFT = "conceptevo-draft"; // key of the stored input of the current page
const FIELDS = "form :is(input:not([type=hidden]), textarea)"; // what a draft holds

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".survey");
  const survey = (root.survey ??= start(root, data.words));
  survey.offer(data);
  return () => survey.leave();
}

function start(root, words) {
  const view = root.querySelector(".view");
  const status = root.querySelector(".status");
  root.ownerDocument.documentElement.lang = root.lang;
  const state = {
    page: null, sending: false, armed: false, shownAt: 0, before: 0, pastes: 0, leaves: 0, clock: 0,
  };

  // A page from Streamlit's script (first visit, reconnect) is shown only if it is newer.
  function offer(page) {
    if (state.sending || (state.page && page.version <= state.page.version)) return;
    show(page);
  }

  async function show(page) {
    const first = state.page === null;
    clearInterval(state.clock);
    const nothing = { shownAt: 0, before: 0, pastes: 0, leaves: 0 };
    Object.assign(state, { page, armed: false, sending: false, ...nothing });
    root.querySelector("dialog")?.close();
    view.innerHTML = page.html;
    root.dataset.stage = page.stage;
    root.dataset.version = page.version;
    root.dataset.armed = "";
    if (!first) {
      view.querySelector("h1")?.focus({ preventScroll: true });
      root.ownerDocument.querySelector('[data-testid="stMain"]')?.scrollTo(0, 0);
    }
    restoreDraft(page);
    updateDependents();
    checkWidth();
    if (!(await picturesLoad(page))) return;
    await painted();
    if (state.page !== page) return;
    state.shownAt = performance.now();
    setTimeout(() => arm(page), ARM_AFTER[page.stage] ?? ARM_AFTER.other);
    for (const source of page.preload) new Image().src = source;
  }

  function arm(page) {
    if (state.page !== page) return;
    state.armed = true;
    root.dataset.armed = "yes";
    startClock(page);
  }

  // Wait for every picture that a question is about, so that nobody answers before seeing it (or is
  // called colour-blind for a plate that did not load); do not wait for other pictures.
  async function picturesLoad(page) {
    const pictures = [...view.querySelectorAll("img[data-stimulus], .question img")];
    const loaded = await Promise.all(pictures.map((image) => imageLoads(image, page)));
    if (state.page !== page) return false;
    if (loaded.every(Boolean)) {
      if (!state.sending) setStatus("");
      return true;
    }
    offerRetry(page);
    return false;
  }

  async function imageLoads(image, page) {
    for (let attempt = 0; state.page === page && attempt <= RETRY.length; attempt++) {
      try {
        await Promise.race([image.decode(), timeout(PATIENCE)]);
        return true;
      } catch {
        setStatus(words.loading);
        await pause(RETRY[Math.min(attempt, RETRY.length - 1)]);
        if (image.complete) { // it failed; it is not merely slow
          const source = image.getAttribute("src");
          image.src = "";
          image.src = source;
        }
      }
    }
    return false;
  }

  // A picture cannot be loaded: offer to try again or to go on without it.
  function offerRetry(page) {
    setStatus(words.missing);
    const bar = element("div", { className: "actions" });
    bar.append(
      quietButton(words.again, () => { setStatus(""); show(page); }),
      quietButton(words.skip, () => {
        if (view.querySelector("form.trial")) return deliver(page, {}, "picture");
        setStatus("");
        arm(page);
      }));
    status.append(bar);
    root.dataset.armed = "stuck";
  }

  // A trial with a time limit ends without a response when the time is over.
  function startClock(page) {
    const form = view.querySelector("form[data-timed]");
    if (!form) return;
    const seconds = Number(form.dataset.timed); // left
    const clock = view.querySelector(".clock");
    const tick = () => {
      const left = Math.ceil(seconds - (performance.now() - state.shownAt) / 1000);
      clock.textContent = words.left.replace("{seconds}", Math.max(0, left));
      clock.classList.toggle("soon", left <= 10);
      if (left > 0) return;
      clearInterval(state.clock);
      deliver(page, {}, "time");
    };
    tick();
    state.clock = setInterval(tick, 250);
  }

  function values(form, button) {
    const data = new FormData(form);
    const entered = Object.fromEntries(data);
    for (const box of form.querySelectorAll("[data-several]")) entered[box.name] = data.getAll(box.name);
    for (const box of form.querySelectorAll("[data-none]:checked")) entered[box.dataset.none] = null;
    if (button?.name) entered[button.name] = button.value;
    return entered;
  }

  function submit(form, button) {
    // One can withdraw while pictures do not load.
    if (state.sending || !(state.armed || button?.name === "withdraw")) return;
    const extra = form.hasAttribute("data-device") ? { device: device() } : {};
    deliver(state.page, { values: values(form, button), ...extra });
  }

  async function deliver(page, content, missing) {
    if (state.sending || state.page !== page) return;
    clearInterval(state.clock);
    state.sending = true;
    state.armed = false;
    root.dataset.armed = "";
    const action = {
      token: page.token,
      milliseconds: Math.round(elapsed()),
      pastes: state.pastes,
      tab_leaves: state.leaves,
      ...content,
      ...(missing ? { missing } : {}),
    };
    const next = await send(JSON.stringify(action));
    state.sending = false;
    if (next) {
      setStatus("");
      deleteDraft();
      show(next);
    } else if (next === null) {
      arm(page);
    }
  }

  // Return the next page; null if the input must be corrected; undefined if the page is outdated.
  async function send(body) {
    const notice = setTimeout(() => { setStatus(words.sending); }, NOTICE_AFTER);
    for (let attempt = 0; ; attempt++) {
      try {
        const reply = await fetch("act", {
          method: "POST",
          headers: { "Content-Type": "application/json" },
          body,
          keepalive: true,
          signal: AbortSignal.timeout?.(20000), // older browsers lack it
        });
        if (reply.ok) {
          const next = await reply.json();
          if (next.html) return next; // otherwise something on the way answered
        }
        if (reply.status === 422) {
          setStatus((await reply.json()).error);
          return null;
        }
        if ([400, 403, 413].includes(reply.status)) { // a retry would be refused as well
          setStatus(words.outdated);
          return undefined;
        }
      } catch {
        // No connection: say so and try again below.
      } finally {
        clearTimeout(notice);
      }
      setStatus(words.storing);
      await pause(RETRY[Math.min(attempt, RETRY.length - 1)]);
    }
  }

  // Milliseconds since the pictures of this page became visible, those before a reload included.
  function elapsed() {
    return state.before + (state.shownAt && performance.now() - state.shownAt);
  }

  // Keep input, time and events of this page, so that they survive a reload of this tab.
  function saveDraft() {
    const fields = [...view.querySelectorAll(FIELDS)].map((f) =>
      f.type === "radio" || f.type === "checkbox" ? f.checked : f.value);
    const { page: { token }, pastes, leaves } = state;
    withStorage((s) => s.setItem(DRAFT, JSON.stringify({ token, fields, before: elapsed(), pastes, leaves })));
  }

  function restoreDraft(page) {
    const draft = JSON.parse(withStorage((s) => s.getItem(DRAFT)) ?? "null");
    if (draft?.token !== page.token || !page.token) return;
    const { before, pastes, leaves } = draft;
    Object.assign(state, { before, pastes, leaves });
    [...view.querySelectorAll(FIELDS)].forEach((field, i) => {
      if (typeof draft.fields[i] === "boolean") field.checked = draft.fields[i];
      else if (draft.fields[i] !== undefined) field.value = draft.fields[i];
    });
  }

  function deleteDraft() {
    withStorage((s) => s.removeItem(DRAFT));
  }

  // Update fields that depend on others: a text on its "none" box, a question on an answer.
  function updateDependents() {
    for (const box of view.querySelectorAll("[data-none]")) {
      const field = view.querySelector(`input[name="${box.dataset.none}"]`);
      field.disabled = box.checked;
      if (box.checked) field.value = "";
    }
    for (const button of view.querySelectorAll("[data-clear]")) button.hidden = !chosen(button);
    for (const question of view.querySelectorAll("[data-if]")) {
      const checked = [...view.querySelectorAll(`input[name="${question.dataset.if}"]:checked:enabled`)];
      const answers = JSON.parse(question.dataset.among);
      question.disabled = question.hidden = !checked.some((c) => answers.includes(c.value));
    }
  }

  // The choice that a button of an optional question takes back.
  const chosen = (button) => view.querySelector(`input[name="${button.dataset.clear}"]:checked`);

  // If the window is too narrow for the pictures, show a note instead of the button of consent.
  function checkWidth() {
    const note = view.querySelector("[data-narrow]");
    if (!note) return;
    note.hidden = window.innerWidth >= Number(note.dataset.narrow);
    view.querySelector('button[value="yes"]').hidden = !note.hidden;
  }

  function setStatus(text) {
    if (status.textContent !== text) status.textContent = text;
  }

  // A number key chooses the answer that displays it, until the page is sent.
  function keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.composedPath()[0];
    const writing = /^text/.test(target?.type);
    if (event.key === "Enter" && event.repeat) {
      event.preventDefault(); // held down, perhaps since an earlier page
      return;
    }
    if (!state.armed || root.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && !writing && !/^(BUTTON|A|SUMMARY)$/.test(target?.tagName)) {
      const form = view.querySelector("form:not([data-native])");
      if (form?.querySelectorAll("button:not([type=button])").length === 1) {
        event.preventDefault();
        form.requestSubmit();
      }
      return;
    }
    if (writing) return;
    if (event.key === "+") return enlarge();
    const digit = /^[0-9]$/.test(event.key) ? event.key : /^(?:Digit|Numpad)([0-9])$/.exec(event.code)?.[1];
    const choice = digit && view.querySelector(`input[data-key="${digit}"]:enabled`);
    if (choice) setChecked(choice, true);
  }

  function setChecked(choice, checked) {
    choice.checked = checked;
    choice.focus({ preventScroll: true });
    choice.dispatchEvent(new Event("change", { bubbles: true }));
  }

  // Show one stimulus enlarged; the arrow keys go through all stimuli of the page.
  function enlarge(button) {
    const all = [...view.querySelectorAll("img[data-stimulus]")];
    const near = button?.parentElement.querySelector("img") ??
      view.querySelector(".tile input:checked ~ img");
    let at = Math.max(0, all.indexOf(near));
    if (!all.length) return;
    const dialog = element("dialog");
    const image = element("img");
    const draw = () => { image.src = all[at].src; image.alt = all[at].alt; dialog.ariaLabel = all[at].alt; };
    draw();
    dialog.append(image, quietButton(words.close));
    dialog.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => dialog.remove());
    dialog.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      at = (at + (root.dir === "rtl" && event.key.match(/Left|Right/) ? -step : step) + all.length) % all.length;
      draw();
    });
    root.append(dialog);
    dialog.showModal();
  }

  const onHide = () => {
    if (!document.hidden || !state.page) return;
    state.leaves++;
    saveDraft();
  };
  view.addEventListener("submit", (event) => {
    if (event.target.hasAttribute("data-native")) return;
    event.preventDefault();
    submit(event.target, event.submitter);
  });
  view.addEventListener("click", (event) => {
    const button = event.target.closest?.(".zoom");
    if (button) enlarge(button);
    const clear = event.target.closest?.("[data-clear]");
    if (clear && !state.sending) setChecked(chosen(clear), false);
  });
  for (const kind of ["input", "change"]) {
    view.addEventListener(kind, () => { updateDependents(); saveDraft(); });
  }
  // What is changed after it was sent would look like the answer. Arrow keys click, too.
  for (const kind of ["click", "beforeinput"]) {
    view.addEventListener(kind, (event) => { if (state.sending) event.preventDefault(); });
  }
  view.addEventListener("paste", () => state.pastes++);
  window.addEventListener("resize", checkWidth);
  document.addEventListener("keydown", keys);
  document.addEventListener("visibilitychange", onHide);
  return {
    offer,
    leave() {
      // Streamlit calls this before every re-render, so remove listeners only if the page is gone.
      setTimeout(() => {
        if (root.isConnected) return;
        window.removeEventListener("resize", checkWidth);
        document.removeEventListener("keydown", keys);
        document.removeEventListener("visibilitychange", onHide);
      }, 0);
    },
  };
}

const element = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);
const quietButton = (text, onclick) =>
  element("button", { type: "button", className: "quiet", textContent: text, onclick });

// Window size and browser family: enough to judge what was visible, too little to identify a person.
function device() {
  const agent = navigator.userAgent;
  const families = [
    ["edge", /Edg/], ["opera", /OPR|Opera/], ["samsung", /SamsungBrowser/], ["firefox", /Firefox|FxiOS/],
    ["chrome", /Chrome|CriOS|Chromium/], ["safari", /Safari/],
  ];
  return {
    width: window.innerWidth,
    height: window.innerHeight,
    pixel_ratio: window.devicePixelRatio,
    touch: window.matchMedia("(pointer: coarse)").matches,
    browser: families.find(([, pattern]) => pattern.test(agent))?.[0] ?? "other",
  };
}

// A browser may forbid storage, for example in a frame of another site; then nothing is kept.
function withStorage(use) {
  try {
    return use(window.sessionStorage);
  } catch {
    return null;
  }
}

// Wait for two animation frames of a visible window, after which the page has been painted.
function painted() {
  return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
}

function pause(milliseconds) {
  return new Promise((done) => setTimeout(done, milliseconds));
}

function timeout(milliseconds) {
  return new Promise((_, fail) => setTimeout(() => fail(new Error("late")), milliseconds));
}
