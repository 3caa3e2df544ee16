-- CLUSTER, VACUUM FULL, REINDEX, ALTER TABLE that rewrites: no rows come of them
-- [schema]
create table t(id int primary key, v text, n int);
-- [changes]
insert into t select i, 'v' || i, i from generate_series(1, 50) i;
delete from t where id % 2 = 0;
cluster t using t_pkey;
update t set n = 0 where id < 10;
vacuum full t;
update t set id = id + 100 where id < 5;
reindex table t;
alter table t set (fillfactor = 50);
alter table t alter v set storage external, alter n set statistics 10;
create index concurrently t_n on t(n);
update t set n = 5 where id > 40;
alter table t set unlogged; alter table t set logged;
delete from t where id = 11;
