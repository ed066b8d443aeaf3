"use strict";
// Sorts a table by the column whose heading is pressed; again, the other way round. Empty cells stay at the bottom.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, i) => {
    const text = row.cells[i].dataset.value ?? row.cells[i].textContent.trim();
    return text === "" ? null : heads[i].dataset.type === "text" ? text : Number(text);
  };
  heads.forEach((head, i) => {
    head.querySelector("button")?.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const x = value(a, i), y = value(b, i);
        if (x === null || y === null) return (x === null) - (y === null);
        return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
      });
      table.tBodies[0].append(...rows);
    });
  });
}
