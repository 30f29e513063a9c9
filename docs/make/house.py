"""The picture of the house: which room of dss_jax stands on which.

Owns its layout. The rooms and their order are those that tests/test_layering.py checks; what a room
is for is the first line of its package's docstring.
"""

import ast
import html
import pathlib

WIDTH, ROW, LEFT = 860, 30, 150
FILL = {'top': '#e8eef7', 'middle': '#eef4ea', 'ground': '#f7f1e6'}


def picture(root: pathlib.Path) -> str:
  """The picture as SVG."""
  rooms = [room for room in _rooms(root) if room not in ('__main__', 'cli')]
  height = 40 + ROW * len(rooms) + 12
  lines = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
    'font-family="sans-serif" font-size="13">',
    f'<title>The rooms of dss_jax</title><rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    '<text x="14" y="24" fill="#444">A room imports from itself and from those below it: '
    'nothing points upward.</text>',
  ]
  for number, room in enumerate(rooms):
    top = 38 + number * ROW
    part = ('top', 'middle', 'ground')[min(2, number * 3 // len(rooms))]
    lines.append(
      f'<rect x="10" y="{top}" width="{WIDTH - 20}" height="{ROW - 4}" rx="4" '
      f'fill="{FILL[part]}" stroke="#b8c0cc"/>'
      f'<text x="22" y="{top + 18}" font-weight="bold" fill="#223">{html.escape(room)}</text>'
      f'<text x="{LEFT}" y="{top + 18}" fill="#333">{html.escape(_purpose(root, room))}</text>'
    )
  return '\n'.join([*lines, '</svg>']) + '\n'


def _rooms(root: pathlib.Path) -> list[str]:
  tree = ast.parse((root / 'tests' / 'test_layering.py').read_text(encoding='utf-8'))
  for node in tree.body:
    if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == 'ROOMS':
      return list(ast.literal_eval(node.value))
  raise ValueError('tests/test_layering.py has no ROOMS.')


def _purpose(root: pathlib.Path, room: str) -> str:
  """The first sentence of a room's docstring."""
  folder = root / 'dss_jax' / room
  file = (folder if folder.is_dir() else root / room) / '__init__.py'
  docstring = ast.get_docstring(ast.parse(file.read_text(encoding='utf-8'))) or ''
  return docstring.partition('\n')[0].partition('. ')[0].rstrip('.').replace('`', '')
