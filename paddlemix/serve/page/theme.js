// Choose the colors before the first paint: a classic script in the head, so that no page flashes in the wrong ones.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const read = () => {
    try {
      return localStorage.getItem("paddlemix.theme") || "system";
    } catch {
      return "system"; // storage is blocked
    }
  };
  const apply = () => {
    const chosen = read();
    document.documentElement.dataset.theme = chosen === "system" ? (dark.matches ? "dark" : "light") : chosen;
  };
  dark.addEventListener("change", apply);
  addEventListener("storage", apply); // another tab changed it
  addEventListener("paddlemix-theme", apply);
  apply();
})();
