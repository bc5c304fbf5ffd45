// One page of the survey at a time: draws what the server says, sends what the participant does.
// An action is repeated until it is acknowledged; the acknowledgement carries the next page.

const ARM_AFTER = 300; // ms from pictures visible to answers accepted: no click meant for the last page
const RETRY = [300, 700, 1500, 3000, 5000];

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
  const state = { page: null, sending: false, armed: false, shownAt: 0, pastes: 0, leaves: 0 };

  // A page from the script (first visit, reconnect) counts only if it is newer than what we show.
  function offer(page) {
    if (state.sending || (state.page && page.version <= state.page.version)) return;
    show(page);
  }

  async function show(page) {
    const first = state.page === null;
    Object.assign(state, { page, armed: false, sending: false, pastes: 0, leaves: 0 });
    view.innerHTML = page.html;
    root.dataset.stage = page.stage;
    root.dataset.version = page.version;
    root.dataset.armed = "";
    const heading = view.querySelector("h1");
    if (!first) {
      heading?.focus({ preventScroll: true });
      root.ownerDocument.querySelector('[data-testid="stMain"]')?.scrollTo(0, 0);
    }
    for (const box of view.querySelectorAll("[data-none]")) wireNone(box);
    await pictures(page);
    if (state.page !== page) return;
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    state.shownAt = performance.now();
    setTimeout(() => arm(page), page.stage === "trial" || page.stage === "practice" ? ARM_AFTER : 0);
    for (const source of page.preload) new Image().src = source;
    const away = view.querySelector("a[data-redirect]");
    if (away) setTimeout(() => { window.location.assign(away.href); }, 6000);
  }

  function arm(page) {
    if (state.page !== page) return;
    state.armed = true;
    root.dataset.armed = "yes";
  }

  // Wait for every picture; one that fails is asked for again, so that nobody answers unseen.
  async function pictures(page) {
    const pending = [...view.querySelectorAll("img")].map(async (image) => {
      for (let attempt = 0; state.page === page; attempt++) {
        try {
          await image.decode();
          return;
        } catch {
          say(words.loading);
          await pause(RETRY[Math.min(attempt, RETRY.length - 1)]);
          const source = image.getAttribute("src");
          image.src = "";
          image.src = source;
        }
      }
    });
    await Promise.all(pending);
    if (!state.sending) say("");
  }

  function wireNone(box) {
    const field = view.querySelector(`input[name="${box.dataset.none}"]`);
    box.addEventListener("change", () => {
      field.disabled = box.checked;
      if (box.checked) field.value = "";
    });
  }

  function values(form, button) {
    const found = Object.fromEntries(new FormData(form));
    for (const box of form.querySelectorAll("[data-none]:checked")) found[box.dataset.none] = null;
    if (button?.name) found[button.name] = button.value;
    return found;
  }

  async function submit(form, button) {
    if (!state.armed || state.sending) return;
    state.sending = true;
    const page = state.page;
    const action = {
      token: page.token,
      values: values(form, button),
      milliseconds: Math.round(performance.now() - state.shownAt),
      pastes: state.pastes,
      tab_leaves: state.leaves,
    };
    root.dataset.armed = "";
    const next = await send(JSON.stringify(action));
    state.sending = false;
    if (next) {
      say("");
      show(next);
    } else {
      arm(page);
    }
  }

  async function send(body) {
    for (let attempt = 0; ; attempt++) {
      try {
        const reply = await fetch("act", {
          method: "POST",
          headers: { "Content-Type": "application/json" },
          body,
          keepalive: true,
          signal: AbortSignal.timeout(20000),
        });
        if (reply.ok) return await reply.json();
        if (reply.status === 422) {
          say((await reply.json()).error);
          return null;
        }
        if (reply.status === 403) {
          say(words.outdated);
          return null;
        }
      } catch {
        // no connection: told below, tried again
      }
      say(words.storing);
      await pause(RETRY[Math.min(attempt, RETRY.length - 1)]);
    }
  }

  function say(text) {
    if (status.textContent !== text) status.textContent = text;
  }

  function keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !state.armed) return;
    const target = event.composedPath()[0];
    const writing = target?.type === "text";
    if (event.key === "Enter" && !writing && !/^(BUTTON|A)$/.test(target?.tagName)) {
      const form = view.querySelector("form:not([data-native])");
      if (form && view.querySelectorAll("button").length === 1) {
        event.preventDefault();
        form.requestSubmit();
      }
    } else if (!writing && /^[1-9]$/.test(event.key)) {
      // The number belongs to the group that has the focus, else to the first unanswered one.
      const groups = [...view.querySelectorAll("[data-keys]")];
      const group =
        target?.closest?.("[data-keys]") ?? groups.find((g) => !g.querySelector(":checked")) ?? groups[0];
      const choice = group?.querySelectorAll("input")[Number(event.key) - 1];
      if (choice) {
        choice.checked = true;
        if (groups.length === 1) choice.focus({ preventScroll: true });
      }
    }
  }

  const onHide = () => { if (document.hidden) state.leaves++; };
  view.addEventListener("submit", (event) => {
    if (event.target.hasAttribute("data-native")) return;
    event.preventDefault();
    submit(event.target, event.submitter);
  });
  view.addEventListener("paste", () => state.pastes++);
  document.addEventListener("keydown", keys);
  document.addEventListener("visibilitychange", onHide);
  return {
    offer,
    leave() {
      // Streamlit calls this before every re-render; listeners go only when the page is gone.
      setTimeout(() => {
        if (root.isConnected) return;
        document.removeEventListener("keydown", keys);
        document.removeEventListener("visibilitychange", onHide);
      }, 0);
    },
  };
}

function pause(milliseconds) {
  return new Promise((done) => setTimeout(done, milliseconds));
}
