-- A transaction of 60,000 rows of all kinds of change that spills on the source
-- [source]
alter database :"DBNAME" set logical_decoding_work_mem = '64kB';
-- [schema]
create table t(id int primary key, v text, n int);
create table loose(a int);
alter table loose replica identity full;
-- [changes]
begin;
insert into t select i, md5(i::text), 0 from generate_series(1, 20000) i;
update t set n = n + 1 where id % 2 = 0;
savepoint s;
delete from t where id % 3 = 0;
rollback to s;
delete from t where id % 5 = 0;
insert into loose select 1 from generate_series(1, 20);
delete from loose where ctid in (select ctid from loose limit 7);
update t set id = id + 100000 where id < 5000;
commit;
