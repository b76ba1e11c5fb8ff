"use strict";
// The filter of the gallery. Without this script all items are shown.
(() => {
  const form = document.getElementById("filter");
  const items = [...document.querySelectorAll("article.item")];
  const groups = [...document.querySelectorAll("section.group")];
  const { task, state, category, text } = form.elements;
  const count = form.querySelector("output");
  const categoriesOf = (item) => item.dataset.category.split("\n").filter(Boolean);
  const texts = new Map();
  const textOf = (item) => {
    if (!texts.has(item)) texts.set(item, item.textContent.toLowerCase());
    return texts.get(item);
  };

  const fill = (select, names) => {
    const kept = select.value;
    select.length = 1;
    for (const name of names) select.add(new Option(name, name));
    select.value = names.includes(kept) ? kept : "";
    select.disabled = names.length === 0;
  };
  const fillCategories = () => {
    const found = items.filter((item) => !task.value || item.dataset.task === task.value).flatMap(categoriesOf);
    fill(category, [...new Set(found)].sort((one, other) => one.localeCompare(other)));
  };

  const isShown = (item, words) =>
    (!task.value || item.dataset.task === task.value) &&
    (!state.value || item.dataset.state === state.value) &&
    (!category.value || categoriesOf(item).includes(category.value)) &&
    words.every((word) => textOf(item).includes(word));
  const apply = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const item of items) {
      item.hidden = !isShown(item, words);
      shown += !item.hidden;
    }
    for (const group of groups) group.hidden = !group.querySelector("article.item:not([hidden])");
    count.value = `${shown} of ${items.length} items`;
  };

  let waiting = 0;
  form.addEventListener("input", (event) => {
    clearTimeout(waiting);
    if (event.target === task) fillCategories();
    waiting = setTimeout(apply, event.target === text ? 150 : 0);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { fillCategories(); apply(); }));
  for (const link of document.querySelectorAll("a[data-show-task]")) {
    link.addEventListener("click", () => {
      form.reset();
      task.value = link.dataset.showTask;
      state.value = link.dataset.showState;
      setTimeout(() => { fillCategories(); apply(); });
    });
  }

  fill(task, groups.map((group) => group.dataset.task));
  fillCategories();
  form.hidden = false;
  apply();
})();
