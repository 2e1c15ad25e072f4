"use strict";
(() => {
  const get = (id) => document.getElementById(id);
  const count = (number) => number.toLocaleString("en-US");
  const signed = (number) => (number < 0 ? "−" : "+") + count(Math.abs(number));
  document.querySelectorAll(".script-only").forEach((part) => { part.hidden = false; });

  const slider = get("slider");
  if (slider) {
    const { tiles, cracked, photographs, chosen } = Object.fromEntries(
      Object.entries(slider.dataset).map(([name, value]) => [name, Number(value)]));
    const points = JSON.parse(slider.dataset.points);
    const range = get("threshold-slider"), command = get("slider-command");
    const show = () => {
      const [threshold, found, alarms] = points[range.value];
      const [, foundInUse, alarmsInUse] = points[chosen];
      const missed = cracked - found, isInUse = Number(range.value) === chosen;
      const percent = (100 * found / cracked).toFixed(1) + " %";
      const rate = photographs ? (alarms / photographs).toFixed(2) + " a photograph"
                               : "of " + count(tiles - cracked) + " uncracked tiles";
      get("slider-threshold").textContent = threshold.toFixed(3) + (isInUse ? ", in use" : "");
      get("slider-found").textContent = count(found);
      get("slider-recall").textContent = `${percent} of ${count(cracked)}`;
      get("slider-missed").textContent = count(missed);
      get("slider-missed-change").textContent =
        isInUse ? "in use" : signed(foundInUse - found) + " against the one in use";
      get("slider-alarms").textContent = count(alarms);
      get("slider-rate").textContent =
        rate + (isInUse ? "" : `, ${signed(alarms - alarmsInUse)} against the one in use`);
      get("slider-f1").textContent = (2 * found / (found + alarms + cracked)).toFixed(3);
      range.setAttribute("aria-valuetext", `threshold ${threshold.toFixed(3)}: found ${found} of ` +
        `${cracked}, missed ${missed}, false alarms ${alarms}`);
      // rounded down, so that this recall is reached and the next lower one is not
      const recall = Math.floor(1e6 * found / cracked) / 1e6;
      command.textContent = isInUse ? "(it is in use: nothing to do)"
                                    : `${command.dataset.command} --min-recall ${recall}`;
    };
    range.addEventListener("input", show);
    get("slider-back").addEventListener("click", () => { range.value = chosen; show(); });
    slider.hidden = false;
    show();
  }

  const button = get("download");
  if (button) {
    const boxes = [...document.querySelectorAll(".tick input")];
    const ticked = () => boxes.filter((box) => box.checked);
    const cell = (text) => {
      // what a spreadsheet would run as a formula is written as all tables of a run write it
      const safe = /^'*[=+\-@\t\r]/.test(text) ? "'" + text : text;
      return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
    };
    document.addEventListener("change", () => {
      const number = ticked().length;
      get("ticked").textContent = number ? `${count(number)} ticked` : "none ticked";
      button.disabled = !number;
    });
    button.addEventListener("click", () => {
      const rows = ticked().map((box) => `${cell(box.dataset.tile)},${box.dataset.label}\n`);
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob(["tile,label\n", ...rows], { type: "text/csv" }));
      link.download = button.dataset.file;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    });
  }

  // a link into something folded unfolds it
  const unfold = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    for (let part = target; part; part = part.parentElement) {
      if (part.tagName === "DETAILS") part.open = true;
    }
  };
  addEventListener("hashchange", unfold);
  unfold();
})();
