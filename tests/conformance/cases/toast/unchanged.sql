-- Unchanged TOAST values in every combination with changed keys and changed values
-- [schema]
create table t(id int primary key, a text, b text, n int);
alter table t alter a set storage external, alter b set storage external;
-- [changes]
insert into t select i, repeat(md5(i::text), 400), repeat(md5((-i)::text), 400), 0 from generate_series(1, 8) i;
update t set n = 1 where id = 1;
update t set id = 12 where id = 2;
update t set id = 13, n = 1 where id = 3;
update t set id = 14, a = 'short' where id = 4;
update t set a = repeat('new', 5000) where id = 5;
begin; update t set n = 2 where id = 6; update t set id = 16 where id = 6; update t set b = null, id = 17 where id = 16; update t set n = 3, id = 6 where id = 17; commit;
begin; delete from t where id = 7; insert into t values (7, repeat('again', 3000), null, 0); update t set n = 9 where id = 7; commit;
update t set id = id + 100;
