// pymdownx.arithmatex (generic) leaves \( ... \) and \[ ... \] in elements of class "arithmatex"; KaTeX typesets them here.
// KaTeX is vendored beside this file, so that the pages read the same without a network.
document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll(".arithmatex")) {
    const text = element.textContent.trim();
    katex.render(text.slice(2, -2), element, { displayMode: text.startsWith("\\["), throwOnError: false });
  }
});
