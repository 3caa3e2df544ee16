-- Other partitions on the target, through a publication by root
-- [setup --publication by_root]
-- [source]
create table t(id int primary key, v text) partition by range (id);
create table a partition of t for values from (0) to (10);
create table b partition of t for values from (10) to (100);
create publication by_root for table t with (publish_via_partition_root);
-- [target]
create table t(id int primary key, v text) partition by hash (id);
create table h0 partition of t for values with (modulus 3, remainder 0);
create table h1 partition of t for values with (modulus 3, remainder 1);
create table h2 partition of t for values with (modulus 3, remainder 2);
-- [changes]
insert into t select i, 'v' from generate_series(1, 30) i;
update t set v = 'w' where id < 5;
update t set id = id + 50 where id < 3;
update t set id = 5 where id = 20 and not exists (select from t where id = 5);
delete from t where id = 15;
begin; truncate t; insert into t values (7, 'new'), (77, 'new'); commit;
