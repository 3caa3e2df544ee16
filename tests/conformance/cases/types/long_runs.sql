-- Long runs of updates, which go out many rows to a statement, with types whose modifiers count
-- [schema]
create type mood as enum ('sad', 'happy');
create type place as (x int, y text);
create domain code as char(4);
create table t(id int primary key, c char(10), b bit(5), v varbit(9), n numeric(10, 3), ts timestamp(2), i interval minute to second(1), m mood, p place, d code, a char(3)[], s varchar(5), q "char", j json, tz timetz(0), n2 name);
create table by_padded(k char(8), b bit(3), v int, primary key (k, b));
-- [changes]
insert into t(id) select generate_series(1, 300);
update t set c = 'abc' || id, b = (id % 32)::bit(5), v = B'1011', n = id / 7.0, ts = '2020-01-01 00:00:00.127', i = '90 s', m = 'happy', p = row(id, 'x'), d = 'ab', a = array['xyz', 'a'], s = 'hello', q = 'z', j = '{"a" : 1}', tz = '12:00:00.7+02', n2 = 'name';
update t set n = null, p = null where id % 2 = 0;
insert into by_padded select 'key' || i, (i % 8)::bit(3), 0 from generate_series(1, 200) i;
update by_padded set v = v + 1;
delete from by_padded where v = 1 and k > 'key5';
