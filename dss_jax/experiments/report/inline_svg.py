"""A figure's SVG within a page that forbids inline styles and has two colour schemes.

Owns the changes: styles become attributes, colours the page's variables, and ids unique.
"""

import re
from collections.abc import Mapping
from xml.etree import ElementTree  # to write; what is read goes through defusedxml

import defusedxml.ElementTree

_SVG = '{http://www.w3.org/2000/svg}'
_HREF = '{http://www.w3.org/1999/xlink}href'
_SIZE = re.compile(r'([\d.]+)px')
_REFERENCE = re.compile(r'url\(#([^)]+)\)')


def inline(svg: bytes, name: str, colours: Mapping[str, str]) -> str:
  """The `<svg>` element for a page.

  Args:
    svg: a figure of matplotlib.
    name: put before ids, so that those of two figures differ.
    colours: the value that takes the place of a colour.
  """
  root = defusedxml.ElementTree.fromstring(svg)
  for parent in list(root.iter()):
    for child in list(parent):
      if child.tag in (f'{_SVG}metadata', f'{_SVG}style'):
        parent.remove(child)
  for element in root.iter():
    _set_attributes(element, name, colours)
  for unused in ('width', 'height', 'version'):
    root.attrib.pop(unused, None)
  root.set('stroke-linejoin', 'round')
  root.set('role', 'img')
  root.set('aria-labelledby', f'{name}-title')
  root.set('class', 'plot')
  ElementTree.register_namespace('', _SVG[1:-1])
  ElementTree.register_namespace('xlink', 'http://www.w3.org/1999/xlink')
  return ElementTree.tostring(root, encoding='unicode')


def _set_attributes(element: ElementTree.Element, name: str, colours: Mapping[str, str]) -> None:
  """Turns an element's style into attributes, and makes its ids its figure's."""
  for part in element.attrib.pop('style', '').split(';'):
    key, colon, value = (text.strip() for text in part.partition(':'))
    if key == 'font':  # the family is the page's
      size = _SIZE.search(value)
      element.set('font-size', size.group(1) if size else '9')
    elif colon and key not in ('font-family', 'white-space'):
      element.set(key, value)
  for key in ('fill', 'stroke'):
    if colour := element.get(key):
      element.set(key, colours.get(colour.lower(), colour))
  if 'id' in element.attrib:
    element.set('id', f'{name}-{element.get("id")}')
  if (target := element.get(_HREF, '')).startswith('#'):
    element.set(_HREF, f'#{name}-{target[1:]}')
  if clip := _REFERENCE.match(element.get('clip-path', '')):
    element.set('clip-path', f'url(#{name}-{clip.group(1)})')
