-- Publishing by root, PostgreSQL never sends the TRUNCATE of a leaf; setup warns, and the rows stay as PostgreSQL says
-- [setup --publication by_root]
-- [schema]
create table t(id int primary key) partition by range (id);
create table a partition of t for values from (0) to (10);
create table b partition of t for values from (10) to (20);
-- [source]
create publication by_root for table t with (publish_via_partition_root);
-- [changes]
insert into t values (1), (11);
truncate a;
insert into t values (2), (12);
-- [compare]
select string_agg(id::text, ',' order by id) from t where id > 1
