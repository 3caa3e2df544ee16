-- Defaults from sequences and functions arrive as the values that they gave
-- [schema]
create table t(id serial primary key, at timestamptz default clock_timestamp(), r float8 default random(), u uuid default gen_random_uuid());
-- [changes]
insert into t select from generate_series(1, 50);
update t set r = default where id < 10;
