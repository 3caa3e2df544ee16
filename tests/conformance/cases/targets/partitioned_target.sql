-- A plain table becomes a partitioned one on the target
-- [source]
create table t(id int primary key, v text);
-- [target]
create table t(id int primary key, v text) partition by hash (id);
create table t0 partition of t for values with (modulus 2, remainder 0);
create table t1 partition of t for values with (modulus 2, remainder 1);
-- [changes]
insert into t select i, 'v' from generate_series(1, 20) i;
update t set v = 'w' where id < 5;
update t set id = id + 100 where id > 15;
delete from t where id = 10;
begin; truncate t; insert into t values (1, 'new'); commit;
