"""Text of others on a terminal: nothing in it works, and nothing of it is lost."""

import re

import fuzzing
import pytest
from hypothesis import strategies

from dss_jax.settings.printable import printable


@pytest.mark.parametrize(
  ('text', 'shown'),
  [
    ('step 1\tloss 0.5\n', 'step 1\tloss 0.5\n'),
    ('\x1b[2Jgone', '\\x1b[2Jgone'),
    ('\x1b]0;title\x07', '\\x1b]0;title\\x07'),
    ('10%\r20%\n', '10%\\r20%\n'),
    ('\x9b31m', '\\x9b31m'),  # the same as ESC [ in eight-bit terminals
    ('a\x00b\x7f', 'a\\x00b\\x7f'),
    ('user\u202egnp.exe', 'user\\u202egnp.exe'),
    ('a\u2066b\u2069\u200f', 'a\\u2066b\\u2069\\u200f'),
    ('a\u2028b\ufeff', 'a\\u2028b\\ufeff'),
    ('\ud800', '\\ud800'),  # which no terminal's encoding has
    ('½ cup, 中文, 🙂, fin\xa0!', '½ cup, 中文, 🙂, fin\xa0!'),
    ('👩\u200d🔬', '👩\u200d🔬'),
  ],
)
def test_what_would_work_on_a_terminal_is_shown(text, shown):
  assert printable(text) == shown


@fuzzing.fuzz(strategies.text(alphabet=strategies.characters(exclude_categories=())))
def test_any_text_is_harmless(text):
  shown = printable(text)
  shown.encode()
  assert not re.search('[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]', shown)
  assert printable(shown) == shown
