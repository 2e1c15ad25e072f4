// Sends photographs one after another, and shows the page that answers each.
"use strict";

(() => {
  const MOST_TRIES = 30, PAUSE_MS = 1000;
  const at = id => document.getElementById(id);
  const waiting = [];
  let isBusy = false;

  const say = text => { at("status").textContent = text; };
  const pause = () => new Promise(done => setTimeout(done, PAUSE_MS));

  async function show(page) {
    at("page").srcdoc = await page.text();
    at("page").hidden = false;
  }

  // the frame is as high as its page, so that nothing in it scrolls by itself
  function fit() {
    const frame = at("page"), root = frame.contentDocument.documentElement;
    root.style.setProperty("--most-stage", `${0.72 * innerHeight}px`);  // of this window, not the frame
    const follow = () => {
      frame.style.height = `${root.offsetHeight + frame.offsetHeight - frame.clientHeight}px`;
    };
    new ResizeObserver(follow).observe(root);
  }

  async function ask(file) {
    const query = new URLSearchParams({name: file.name.slice(-200), overlap: at("overlap").value});
    const headers = {Accept: "text/html"};
    if (at("token")) headers.Authorization = `Bearer ${at("token").value}`;
    for (let tries = 0; ; tries++) {
      const answer = await fetch(`photographs?${query}`, {method: "POST", headers, body: file});
      if (answer.ok) return answer.blob();  // which the browser need not keep in memory
      if (answer.status !== 503 || tries === MOST_TRIES) throw new Error(await explain(answer));
      say(`${file.name} waits: the server is busy`);
      await pause();
    }
  }

  async function explain(answer) {
    if (answer.status === 401) return "the server wants its token, which goes into the field above";
    const text = await answer.text();
    try {
      const {detail} = JSON.parse(text);
      return typeof detail === "string" ? detail : JSON.stringify(detail);
    } catch {
      return `${answer.status} ${answer.statusText}`;
    }
  }

  function list(text, page) {
    const item = document.createElement("li");
    if (page) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Show";
      button.addEventListener("click", () => show(page));
      const save = document.createElement("button");
      save.type = "button";
      save.textContent = "Save the page";
      save.addEventListener("click", () => saveAs(`${text.split(":")[0]}.html`, page));
      item.append(button, save);
    }
    item.append(text);
    at("answers").append(item);
  }

  function saveAs(name, page) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(page);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  async function work() {
    if (isBusy) return;
    isBusy = true;
    while (waiting.length) {
      const file = waiting.shift();
      say(`Judging ${file.name}${waiting.length ? `, ${waiting.length} more wait` : ""} …`);
      try {
        const page = await ask(file);
        list(new DOMParser().parseFromString(await page.text(), "text/html").title, page);
        await show(page);
      } catch (error) {
        list(`${file.name} was not judged: ${error.message}`);
      }
    }
    say("");
    isBusy = false;
  }

  function add(files) {
    waiting.push(...files);
    work();
  }

  at("page").addEventListener("load", fit);
  at("files").addEventListener("change", event => {
    add(event.target.files);
    event.target.value = "";
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    at("drop").addEventListener(name, event => {
      event.preventDefault();
      at("drop").classList.toggle("over", name === "dragover");
      if (name === "drop") add(event.dataTransfer.files);
    });
  }
})();
