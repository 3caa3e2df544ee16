-- A column list: the other columns stay as the target makes them
-- [only 15+]
-- [setup --publication listed]
-- [schema]
create table t(id int primary key, seen text, secret text);
-- [source]
create publication listed for table t (id, seen);
-- [changes]
insert into t values (1, 'a', 'x'), (2, 'b', 'y');
update t set seen = 'c', secret = 'z' where id = 1;
update t set secret = 'w' where id = 2;
update t set id = 3 where id = 2;
-- [compare]
select id, seen from t order by id
