-- Types that a database defines itself, for the rendering test (tests/it/rendering.rs).
drop schema if exists walcast_rendering cascade;
create schema walcast_rendering;
create type walcast_rendering.mood as enum ('sad', 'happy "today"');
create domain walcast_rendering.positive as int4 check (value > 0);
create domain walcast_rendering.small_positive as walcast_rendering.positive check (value < 10);
create domain walcast_rendering.prices as numeric[];
create domain walcast_rendering.blob as bytea;
create domain walcast_rendering.moment as timestamptz;
create domain walcast_rendering.document as json;
create type walcast_rendering.pair as (a int4, b text);
create domain walcast_rendering.good_pair as walcast_rendering.pair check ((value).a > 0);
create type walcast_rendering.one as ("the ""one""" int4);
create type walcast_rendering.nothing as ();
create type walcast_rendering.nest as (
  p walcast_rendering.pair,
  list walcast_rendering.pair[],
  m walcast_rendering.mood,
  j jsonb,
  t timestamptz,
  n numeric,
  y bytea,
  f float8[],
  d walcast_rendering.positive,
  v int2vector
);
create type walcast_rendering.interval_range as range (subtype = float8);
