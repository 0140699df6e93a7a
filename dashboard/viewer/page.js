/* Nodes of the page. */

const SVG = "http://www.w3.org/2000/svg";

export function element(tag, className, parent, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  if (parent) parent.appendChild(made);
  return made;
}

export function drawn(tag, attributes, parent, text) {
  const made = document.createElementNS(SVG, tag);
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  if (text !== undefined) made.textContent = text;
  if (parent) parent.appendChild(made);
  return made;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text; // unchanged text must cost no layout
}
