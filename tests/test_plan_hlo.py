"""Costs read off HLO text: sums worked out by hand on small modules in the compiler's own form."""

import lzma

import pytest

from dss_jax.planning import hlo
from dss_jax.planning.hlo import Collective


def _cycles(number) -> str:
  """The part of an instruction's line that has its estimate."""
  return f'backend_config={{"window_config":{{"estimated_cycles":"{number}"}}}}'


# A loop of 12 around a loop of 3; `fused` is part of the instruction that calls it.
LOOPS = f"""HloModule jit_step, is_scheduled=true

%fused (p.1: f32[8,128]) -> f32[8,128] {{
  %p.1 = f32[8,128]{{1,0:T(8,128)}} parameter(0)
  ROOT %inside = f32[8,128]{{1,0:T(8,128)}} add(%p.1, %p.1), {_cycles(999)}
}}

%inner_body (p.2: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {{
  %p.2 = (s32[], f32[8,128]{{1,0}}) parameter(0)
  %i.2 = s32[] get-tuple-element(%p.2), index=0
  %x.2 = f32[8,128]{{1,0}} get-tuple-element(%p.2), index=1
  %two = s32[] constant(2)
  %next.2 = s32[] add(%i.2, %two)
  %work.2 = f32[8,128]{{1,0}} fusion(%x.2), kind=kLoop, calls=%fused, {_cycles(7)}
  ROOT %tuple.2 = (s32[], f32[8,128]{{1,0}}) tuple(%next.2, %work.2)
}}

%inner_condition (p.3: (s32[], f32[8,128])) -> pred[] {{
  %p.3 = (s32[], f32[8,128]{{1,0}}) parameter(0)
  %i.3 = s32[] get-tuple-element(%p.3), index=0
  %six = s32[] constant(6)
  ROOT %less = pred[] compare(%i.3, %six), direction=LT
}}

%outer_body (p.4: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {{
  %p.4 = (s32[], f32[8,128]{{1,0}}) parameter(0)
  %i.4 = s32[] get-tuple-element(%p.4), index=0
  %x.4 = f32[8,128]{{1,0}} get-tuple-element(%p.4), index=1
  %one = s32[] constant(1)
  %next.4 = s32[] add(%i.4, %one)
  %zero.4 = s32[] constant(0)
  %start.4 = s32[] copy(%zero.4)
  %pair.4 = (s32[], f32[8,128]{{1,0}}) tuple(%start.4, %x.4)
  %inner = (s32[], f32[8,128]{{1,0}}) while(%pair.4), condition=%inner_condition, body=%inner_body
  %y.4 = f32[8,128]{{1,0}} get-tuple-element(%inner), index=1
  %work.4 = f32[8,128]{{1,0}} fusion(%y.4), kind=kLoop, calls=%fused, {_cycles(100)}
  ROOT %tuple.4 = (s32[], f32[8,128]{{1,0}}) tuple(%next.4, %work.4)
}}

%outer_condition (p.5: (s32[], f32[8,128])) -> pred[] {{
  %p.5 = (s32[], f32[8,128]{{1,0}}) parameter(0)
  ROOT %known = pred[] constant(true)
}}

ENTRY %main (p.0: f32[8,128]) -> f32[8,128] {{
  %p.0 = f32[8,128]{{1,0}} parameter(0)
  %zero = s32[] constant(0)
  %pair = (s32[], f32[8,128]{{1,0}}) tuple(%zero, %p.0)
  %outer = (s32[], f32[8,128]{{1,0}}) while(%pair), condition=%outer_condition, body=%outer_body, backend_config={{"known_trip_count":{{"n":"12"}}}}
  %y = f32[8,128]{{1,0}} get-tuple-element(%outer), index=1
  ROOT %last = f32[8,128]{{1,0}} fusion(%y), kind=kLoop, calls=%fused, {_cycles(1000)}
}}
"""  # noqa: E501


def _entry(*lines: str, before: str = '') -> str:
  """A module whose entry computation has these lines after a parameter of 4 KiB."""
  body = '\n'.join(f'  {line}' for line in lines)
  return f'HloModule m\n\n{before}ENTRY %main (p: f32[8,128]) -> f32[8,128] {{\n  %p = f32[8,128]{{1,0}} parameter(0)\n{body}\n}}\n'  # noqa: E501


def test_loops_count_as_often_as_they_run_and_fused_parts_not_at_all():
  # 12 x (3 x 7 + 100) + 1000; the inner loop counts 0, 2, 4 below 6
  assert hlo.costs(LOOPS).cycles == 12 * (3 * 7 + 100) + 1000
  assert hlo.costs(LOOPS).collectives == () and hlo.costs(LOOPS).without_estimate == ()


def test_a_loop_that_data_ends_runs_as_often_as_it_is_told():
  text = LOOPS.replace(', backend_config={"known_trip_count":{"n":"12"}}', '')
  assert hlo.costs(text).cycles == 121 + 1000
  assert hlo.costs(text, unknown_trips=64).cycles == 64 * 121 + 1000


def test_an_estimate_that_is_none_becomes_bytes():
  """The compiler writes 2^63 - 1 where it has none."""
  text = _entry(f'ROOT %s = f32[8,128]{{1,0}} sort(%p), dimensions={{0}}, {_cycles(2**63 - 1)}')
  # 8 x 128 x 4 bytes in, as many out
  assert hlo.costs(text) == hlo.Costs(0, ((0, 8192, 1),), ())


def test_what_a_kernel_declares_is_taken():
  text = _entry(
    'ROOT %k = bf16[8,128]{1,0} custom-call(%p), custom_call_target="tpu_custom_call", '
    'backend_config={"custom_call_config":{"cost_estimate":{"flops":"12345","bytes":"1"}}}'
  )
  assert hlo.costs(text).without_estimate == ((12345, 4096 + 2048, 1),)


def test_a_lookup_reads_the_rows_that_it_takes_and_not_the_table():
  text = _entry(
    '%ids = s32[16]{0} constant({...})',
    '%table = f32[32000,128]{1,0} parameter(1)',
    'ROOT %rows = f32[16,128]{1,0} gather(%table, %ids), offset_dims={1}',
  )
  assert hlo.costs(text).without_estimate == ((0, 2 * 16 * 128 * 4, 1),)


def test_bookkeeping_costs_nothing():
  text = _entry(
    '%start = (f32[8,128]{1,0}, f32[8,128]{1,0:S(1)}, u32[]) copy-start(%p)',
    '%done = f32[8,128]{1,0:S(1)} copy-done(%start)',
    '%room = f32[800,128]{1,0} custom-call(), custom_call_target="AllocateBuffer"',
    'ROOT %same = f32[1024]{0} bitcast(%done)',
  )
  assert hlo.costs(text) == hlo.Costs(0, (), ())


@pytest.mark.parametrize(
  'groups, size',
  [
    ("replica_groups=mesh['axis_0'=8,'axis_1'=4] {'axis_0'}", 8),
    ("replica_groups=mesh['a'=4,'b'=1,'c'=4], device_ids=([4,4]T(1,0)) {'a'}, dimensions={1}", 4),
    ("replica_groups=mesh['axis_0'=8,'axis_1'=4] {'axis_0','axis_1'}", 32),
    ("replica_groups=mesh['axis_0'=8,'axis_1'=4] {'axis_0':(2)4}", 4),
    ('replica_groups=[4,2]<=[8]', 2),
    ('replica_groups={{0,1,2,3},{4,5,6,7}}', 4),
  ],
)
def test_the_size_of_a_group_in_every_form(groups, size):
  text = _entry(f'ROOT %r = f32[8,128]{{1,0}} all-reduce(%p), channel_id=1, {groups}, to_apply=%a')
  (found,) = hlo.costs(text).collectives
  assert found == Collective('all-reduce', size, False, 1, 4096)


def test_a_gather_counts_what_it_makes_and_a_scatter_what_it_takes():
  text = _entry(
    '%g = f32[64,128]{1,0} all-gather(%p), channel_id=1, replica_groups=[1,8]<=[8]',
    'ROOT %s = f32[8,128]{1,0} reduce-scatter(%g), channel_id=2, replica_groups=[1,8]<=[8]',
  )
  assert hlo.costs(text).collectives == (
    Collective('all-gather', 8, False, 1, 64 * 128 * 4),
    Collective('reduce-scatter', 8, False, 1, 64 * 128 * 4),
  )


def test_a_start_is_overlapped_and_its_done_is_not_counted_again():
  text = _entry(
    '%s = (f32[8,128]{1,0}, f32[8,128]{1,0}, u32[], u32[]) collective-permute-start(%p), '
    'channel_id=1, source_target_pairs={{0,1},{1,0}}',
    'ROOT %d = f32[8,128]{1,0} collective-permute-done(%s)',
  )
  (found,) = hlo.costs(text).collectives
  assert found.kind == 'collective-permute' and found.overlapped and found.count == 1
  assert found.bytes == pytest.approx(4096, abs=8)  # and two counters


FUSED_GATHER = """%{name} (q: f32[8,128]) -> f32[64,128] {{
  %q{name} = f32[8,128]{{1,0}} parameter(0)
  ROOT %g{name} = f32[64,128]{{1,0}} all-gather(%q{name}), channel_id={channel}, replica_groups=[1,8]<=[8]
}}

"""  # noqa: E501


def test_a_gather_that_computation_hides_is_counted_once():
  """It stands in the fusion that starts it, in the one beside it and in the one that ends it."""
  before = ''.join(FUSED_GATHER.format(name=name, channel=5) for name in ('f1', 'f2', 'f3'))
  text = _entry(
    '%a = f32[64,128]{1,0} fusion(%p), kind=kCustom, calls=%f1',
    f'%b = f32[64,128]{{1,0}} fusion(%p), kind=kCustom, calls=%f2, {_cycles(50)}',
    'ROOT %c = f32[64,128]{1,0} fusion(%p), kind=kCustom, calls=%f3',
    before=before,
  )
  found = hlo.costs(text)
  assert found.collectives == (Collective('all-gather', 8, True, 1, 32768),)
  assert found.cycles == 50 and found.without_estimate == ()


def test_a_sum_that_only_keeps_its_part_is_a_scatter():
  """The fusion that TPUs make of an all-reduce and a slice; nothing hides it."""
  before = """%all-reduce-scatter.3 (q: f32[64,128]) -> f32[8,128] {
  %q = f32[64,128]{1,0} parameter(0)
  %r = f32[64,128]{1,0} all-reduce(%q), channel_id=9, replica_groups=[1,8]<=[8], to_apply=%a
  ROOT %s = f32[8,128]{1,0} dynamic-slice(%r, %i), dynamic_slice_sizes={8,128}
}

"""
  text = _entry(
    '%w = f32[64,128]{1,0} parameter(1)',
    'ROOT %f = f32[8,128]{1,0} fusion(%w), kind=kCustom, calls=%all-reduce-scatter.3',
    before=before,
  )
  found = hlo.costs(text)
  assert found.collectives == (Collective('reduce-scatter', 8, False, 1, 32768),)
  assert found.without_estimate == ()


def test_what_never_runs_costs_nothing():
  dead = LOOPS.split('\n\n')[1] + '\n\n'
  text = _entry('ROOT %same = f32[1024]{0} bitcast(%p)', before=dead)
  assert hlo.costs(text).cycles == 0


def test_what_the_compiler_for_tpus_really_writes(repository):
  """A fully sharded loop of six layers on v5e-8 (tests/golden/make_hlo.py); sums by hand.

  A layer is a slice, a copy and a product with tanh, of 2239, 2381 and 3101 cycles, and a gather of
  512 x 512 bfloat16 from 8 devices. Behind the loop are a sum of 2663 cycles and that of 8 scalars.
  """
  text = lzma.decompress((repository / 'tests/golden/hlo_v5e-8.txt.xz').read_bytes()).decode()
  found = hlo.costs(text)
  assert found.cycles == 6 * (2239 + 2381 + 3101) + 2663
  assert found.collectives == (
    Collective('all-gather', 8, False, 6, 6 * 512 * 512 * 2),
    Collective('all-reduce', 8, False, 1, 4),
  )
  assert found.without_estimate == ()
