-- A row filter: rows that enter and leave it come as INSERT and DELETE
-- [only 15+]
-- [setup --publication filtered]
-- [schema]
create table t(id int primary key, n int, v text);
alter table t replica identity full;
-- [source]
create publication filtered for table t where (n > 10);
-- [changes]
insert into t values (1, 5, 'out'), (2, 15, 'in'), (3, 25, 'in');
update t set n = 20 where id = 1;
update t set n = 1 where id = 2;
update t set v = 'still' where id = 3;
delete from t where id = 1;
-- [compare]
select id, n, v from t where n > 10
