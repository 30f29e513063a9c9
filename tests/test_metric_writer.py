"""metrics.jsonl after kills and restarts, TensorBoard's points, and what people see."""

import glob
import io
import json
import sys

import pytest

from dss_jax.runs import metric_writer
from dss_jax.runs.metric_writer import MetricWriter, Progress
from dss_jax.runs.run_folder import RunFolder


def _written(folder, steps, start=0):
  writer = MetricWriter(RunFolder(folder), start)
  for step in steps:
    writer.write(step, 'train', {'loss': 1.0 / step})
  writer.close()


def test_rows_are_read_back_in_order(tmp_path):
  writer = MetricWriter(RunFolder(tmp_path))
  writer.write(1, 'train', {'loss': 2.5, 'label/loss': 1.0})
  writer.write(1, 'validation', {'accuracy': 0.5})
  writer.close()
  assert RunFolder(tmp_path).metric_rows() == [
    {'step': 1, 'kind': 'train', 'loss': 2.5, 'label/loss': 1.0},
    {'step': 1, 'kind': 'validation', 'accuracy': 0.5},
  ]


def test_a_row_is_on_disk_before_the_writer_is_closed(tmp_path):
  writer = MetricWriter(RunFolder(tmp_path))
  writer.write(1, 'train', {'loss': 2.5})
  assert len(RunFolder(tmp_path).metric_rows()) == 1
  writer.close()


def test_rows_after_the_step_that_is_continued_from_are_taken_out(tmp_path):
  _written(tmp_path, [1, 2, 3, 4])
  _written(tmp_path, [3, 4, 5], start=2)
  assert [row['step'] for row in RunFolder(tmp_path).metric_rows()] == [1, 2, 3, 4, 5]


def test_half_a_line_that_a_kill_left_is_taken_out(tmp_path):
  _written(tmp_path, [1, 2])
  file = RunFolder(tmp_path).metrics_file
  file.write_text(file.read_text() + '{"step": 2, "kind": "tra')
  assert [row['step'] for row in RunFolder(tmp_path).metric_rows()] == [1, 2]
  _written(tmp_path, [3], start=2)
  rows = [json.loads(line) for line in file.read_text().splitlines()]
  assert [row['step'] for row in rows] == [1, 2, 3]


def test_a_folder_without_metrics_has_no_rows(tmp_path):
  assert RunFolder(tmp_path).metric_rows() == []


def test_tensorboard_gets_a_point_a_metric(tmp_path):
  from tensorboard.backend.event_processing import event_accumulator
  from tensorboard.util.tensor_util import make_ndarray

  _written(tmp_path, [1, 2, 4])
  assert glob.glob(str(tmp_path / 'events.*'))
  events = event_accumulator.EventAccumulator(str(tmp_path))
  events.Reload()
  points = [(e.step, make_ndarray(e.tensor_proto).item()) for e in events.Tensors('train/loss')]
  assert points == [(1, 1.0), (2, 0.5), (4, 0.25)]


def test_lines_tell_step_text_and_time_left(monkeypatch, capsys):
  now = iter([100.0, 100.0, 109.0])
  monkeypatch.setattr(metric_writer.time, 'monotonic', lambda: next(now))
  progress = Progress(total=4000, start=1000)
  progress.line(1001, 'loss 9.5')  # compiled until now
  progress.line(1010, 'loss 2.5')  # a second a step
  progress.log('validated')
  progress.advance(1011)
  progress.close()
  assert capsys.readouterr().err == (
    'step 1001/4000  loss 9.5\nstep 1010/4000  loss 2.5  eta 49:50\nvalidated\n'
  )


@pytest.mark.parametrize('seconds, text', [(0, '0:00'), (59.6, '1:00'), (3725, '1:02:05')])
def test_time_left_reads_as_a_clock(seconds, text):
  assert metric_writer._clock(seconds) == text


def test_a_terminal_gets_a_bar_with_count_and_notes(monkeypatch):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  terminal = Terminal()
  monkeypatch.setattr(sys, 'stderr', terminal)
  monkeypatch.setenv('TERM', 'xterm')
  progress = Progress(total=10, start=2)
  progress.advance(5)
  progress.line(5, 'loss 2.5')
  progress.log('validation at step 5')
  progress.close()
  assert '5/10' in terminal.getvalue() and 'loss 2.5' in terminal.getvalue()
  assert 'validation at step 5' in terminal.getvalue()
