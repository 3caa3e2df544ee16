-- A partitioned table becomes a plain one on the target
-- [setup --publication by_root]
-- [source]
create table t(id int, k text, v text, primary key (k, id)) partition by list (k);
create table a partition of t for values in ('a');
create table b(v text, id int not null, gone int, k text not null);
alter table b drop column gone, add primary key (k, id);
alter table t attach partition b for values in ('b');
create publication by_root for all tables with (publish_via_partition_root);
-- [target]
create table t(id int, k text, v text, primary key (k, id));
-- [changes]
insert into t select i, (array['a', 'b'])[i % 2 + 1], 'v' from generate_series(1, 10) i;
update t set k = 'b' where id = 2;
update t set v = 'w' where k = 'b';
delete from t where id = 4;
