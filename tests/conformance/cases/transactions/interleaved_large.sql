-- Two large transactions at once, one of them rolled back
-- [source]
alter database :"DBNAME" set logical_decoding_work_mem = '64kB';
-- [schema]
create table t(id int primary key, v text);
-- [session a]
begin; insert into t select i, repeat('a', 50) from generate_series(1, 5000) i;
-- [session b]
begin; insert into t select i, repeat('b', 50) from generate_series(10001, 15000) i;
-- [session c]
begin; insert into t select i, repeat('c', 50) from generate_series(20001, 25000) i; savepoint s; update t set v = 'x' where id > 20000;
-- [session a]
update t set v = 'A' where id < 2500; commit;
-- [session b]
rollback;
-- [session c]
rollback to s; update t set v = 'C' where id > 22000; update t set v = v || 'c' where id < 100; commit;
