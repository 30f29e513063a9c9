"""Standard output and standard error whose reader is gone: a closed terminal, or `| head`."""

import os
import select


def drop_closed(*streams: int) -> bool:
  """Lets what is written to file descriptors without a reader go nowhere, instead of failing.

  Args:
    *streams: 1 is standard output, 2 is standard error.

  Returns:
    Whether any of them has none.
  """
  try:
    poll = select.poll()
    for stream in streams:
      poll.register(stream, select.POLLOUT)
    closed = [stream for stream, event in poll.poll(0) if event & select.POLLERR]
  except (OSError, ValueError, AttributeError):  # no file, or a system without poll
    return False
  for stream in closed:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
  return bool(closed)
